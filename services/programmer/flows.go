// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// flowsDefault and flowsMost bound an answer: connections, and drops.
	flowsDefault, flowsMost = 1000, 10000
	// flowsAtOnce is how many go in one message, some 300 bytes each, with the longest names 1,800.
	flowsAtOnce = 500
)

// flows answers with what pods are connected to, and what went no further.
func (l *link) flows(ctx context.Context, data []byte, reply func([]byte) error) {
	messages, err := l.service.answerFlows(ctx, data)
	if err != nil {
		messages = []*schemas.FlowsReply{{Refused: err.Error()}}
	}
	for i, m := range messages {
		m.Sequence, m.Last = uint32(i), i == len(messages)-1
		data, err := proto.Marshal(m)
		if err == nil {
			err = reply(data)
		}
		if err != nil {
			l.service.log.Warn("connections and drops were asked for, and not answered", "error", err)
			return
		}
	}
}

func (v *service) answerFlows(ctx context.Context, data []byte) ([]*schemas.FlowsReply, error) {
	var request schemas.FlowsRequest
	if err := wire.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	if request.GetOnlyServices() {
		return v.answerServices(ctx)
	}
	limit := min(cmp.Or(int(request.GetLimit()), flowsDefault), flowsMost)
	of, err := v.addressesOf(ctx, request.GetPod())
	if err != nil {
		return nil, err
	}
	var found foundConnections
	if !request.GetOnlyDrops() {
		if found, err = v.findConnections(ctx, limit, of); err != nil {
			return nil, err
		}
	}
	drops := v.recent.list(limit, func(d *recentDrop) bool { return of.has(d.key.source) || of.has(d.key.destination) })
	return v.nameFlows(ctx, &found, drops)
}

// answerServices answers with what became of Services' packets.
func (v *service) answerServices(ctx context.Context) ([]*schemas.FlowsReply, error) {
	counts, _, uncounted, err := v.serviceCounts(ctx)
	if err != nil {
		return nil, err
	}
	messages := []*schemas.FlowsReply{{OnlyServices: true, Uncounted: uncounted}}
	for part := range slices.Chunk(counts, flowsAtOnce) {
		messages = append(messages, &schemas.FlowsReply{Services: part})
	}
	return messages, nil
}

// addresses are those of one pod; nil is everyone's.
type addresses map[netip.Addr]bool

func (a addresses) has(addr netip.Addr) bool { return a == nil || a[addr] }

func (v *service) addressesOf(ctx context.Context, pod string) (of addresses, err error) {
	if pod == "" {
		return nil, nil
	}
	of = addresses{}
	err = v.within(ctx, func() {
		for addr, e := range v.names().tables().Endpoints {
			if e.Pod == pod {
				of[addr] = true
			}
		}
	})
	return of, err
}

// foundConnections are the connections seen last, and how many there are of them.
type foundConnections struct {
	list  []foundConnection
	total uint64
	epoch uint32
	now   uint32 // seconds of the clock that they are marked with
}

type foundConnection struct {
	key   abi.ConnectionKey
	value abi.Connection
	set   uint32 // of the Service; 0 if none is known
}

func (v *service) findConnections(ctx context.Context, limit int, of addresses) (f foundConnections, err error) {
	if f.epoch, err = v.plane.epoch(); err != nil || f.epoch == 0 {
		return f, err
	}
	if f.now, err = bpf.NowSeconds(); err != nil {
		return f, err
	}
	err = v.plane.connections(ctx, func(key *abi.ConnectionKey, value *abi.Connection) bool {
		if !of.has(abi.Addr(key.Pod)) {
			return true
		}
		f.total++
		if f.list = append(f.list, foundConnection{key: *key, value: *value}); len(f.list) >= 2*limit {
			f.keepLast(limit)
		}
		return true
	})
	f.keepLast(limit)
	for i := range f.list {
		if err == nil {
			f.list[i].set, err = v.plane.serviceOf(&f.list[i].key)
		}
	}
	return f, err
}

// keepLast keeps those that were seen last.
func (f *foundConnections) keepLast(limit int) {
	slices.SortFunc(f.list, func(a, b foundConnection) int { return cmp.Compare(b.value.Seen, a.value.Seen) })
	f.list = f.list[:min(limit, len(f.list))]
}

// nameFlows makes messages of what was found. The loop is asked for names once a message.
func (v *service) nameFlows(ctx context.Context, found *foundConnections, drops []recentDrop) ([]*schemas.FlowsReply, error) {
	messages := []*schemas.FlowsReply{{ConnectionsTotal: found.total}}
	add := func(fill func(*schemas.FlowsReply)) error {
		m := &schemas.FlowsReply{}
		messages = append(messages, m)
		return v.within(ctx, func() { fill(m) })
	}
	for part := range slices.Chunk(found.list, flowsAtOnce) {
		err := add(func(m *schemas.FlowsReply) {
			names := v.names()
			for i := range part {
				m.Connections = append(m.Connections, names.connection(&part[i], found))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for part := range slices.Chunk(drops, flowsAtOnce) {
		err := add(func(m *schemas.FlowsReply) {
			names := v.names()
			for i := range part {
				d := &part[i]
				m.Drops = append(m.Drops, &schemas.RecentDrop{
					Drop: names.drop(&d.event), Count: d.count, First: timestamppb.New(d.first), Latest: timestamppb.New(d.latest),
				})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func (n names) connection(c *foundConnection, found *foundConnections) *schemas.Connection {
	pod, peer := abi.Addr(c.key.Pod), abi.Addr(c.key.Peer)
	direction := schemas.Direction_DIRECTION_EGRESS
	if c.value.State&abi.ConnectionIngress != 0 {
		direction = schemas.Direction_DIRECTION_INGRESS
	}
	ended := abi.ConnectionPodFin | abi.ConnectionPeerFin | abi.ConnectionReset
	return &schemas.Connection{
		Pod: n.pod(pod), PeerPod: n.pod(peer),
		PodAddress: pod.AsSlice(), PeerAddress: peer.AsSlice(),
		PodPort: uint32(abi.HostPort(c.key.PodPort)), PeerPort: uint32(abi.HostPort(c.key.PeerPort)),
		IpProtocol: uint32(c.key.Protocol), Direction: direction, Service: n.service(model.SetID(c.set)),
		Rule: n.rule(model.RuleID(c.value.Rule)), RuleSet: c.value.RuleSet, Policies: n.policies(model.RuleSetID(c.value.RuleSet)),
		Idle:     durationpb.New(time.Duration(max(0, int64(found.now)-int64(c.value.Seen))) * time.Second),
		Answered: c.value.State&abi.ConnectionAnswered != 0, Closing: c.value.State&ended != 0,
		Outdated: c.value.Epoch != found.epoch,
	}
}
