// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/server"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// judge answers a probe without a kernel: the reference model decides by the rows that the node's programmer holds.
func (l *Lab) judge(ctx context.Context, r ProbeRequest) (*ProbeReport, error) {
	if r.Protocol == "" {
		r.Protocol = "tcp"
	}
	protocol, err := model.ParseProtocol(strings.ToLower(r.Protocol))
	if err != nil {
		return nil, err
	}
	to, err := l.Resolve(r.To, r.Family)
	if err != nil {
		return nil, err
	}
	at, err := l.standing(r.From, r.Via, to.Addr())
	if err != nil {
		return nil, err
	}
	report := &ProbeReport{From: r.From, To: r.To, Protocol: r.Protocol}
	for range max(r.Count, 1) {
		start := time.Now()
		result, err := l.follow(ctx, at, protocol, to)
		if err != nil {
			return nil, err
		}
		result.ClientAddress, result.LatencyMicros = at.who.Addr.String(), time.Since(start).Microseconds()
		report.Results = append(report.Results, result)
	}
	return report, nil
}

// stand is where a connection is decided about, and whose it is.
type stand struct {
	node string
	who  refmodel.Dialler
}

// follow decides at a client's node and, if the connection goes on to another node's own address, there.
func (l *Lab) follow(ctx context.Context, at stand, protocol model.Protocol, to netip.AddrPort) (agent.Result, error) {
	d, err := l.decide(ctx, at, protocol, to)
	if err == nil && d.LeftToPackets {
		at.who.Via = refmodel.PodPacket
		d, err = l.decide(ctx, at, protocol, to)
	}
	if next := nodeOf(l.Cluster(), to.Addr()); err == nil && d.Frontend == nil && d.Verdict == refmodel.Forward && next != "" && next != at.node {
		at.node, at.who.Via = next, refmodel.UplinkPacket
		d, err = l.decide(ctx, at, protocol, to)
	}
	if err != nil {
		return agent.Result{}, err
	}
	if len(d.Candidates) > 0 {
		to = refmodel.AddrPort(d.Candidates[rand.IntN(len(d.Candidates))])
	}
	if d.Verdict == refmodel.Forward {
		if reason, err := l.denied(ctx, at, protocol, to); err != nil || reason != model.ReasonNone {
			return agent.Result{Outcome: agent.Timeout, Error: reason.String()}, err
		}
	}
	return l.verdict(d, to), nil
}

// sourcePort is whatever a client has: policies don't ask for it.
const sourcePort = 49152

// denied asks the policies of the pods at both ends, each at its own node.
func (l *Lab) denied(ctx context.Context, at stand, protocol model.Protocol, to netip.AddrPort) (model.DropReason, error) {
	client := netip.AddrPortFrom(at.who.Addr, sourcePort)
	for _, end := range []struct {
		direction model.Direction
		refmodel.End
	}{
		{model.Egress, refmodel.End{Protocol: protocol, Pod: client, Peer: to}},
		{model.Ingress, refmodel.End{Protocol: protocol, Pod: to, Peer: client}},
	} {
		pod := podOf(l.Cluster(), end.Pod.Addr())
		if pod == nil {
			continue
		}
		node, err := l.modelOf(ctx, pod.Spec.NodeName)
		if err != nil {
			return model.ReasonNone, err
		}
		if r := node.Judge(end.direction, end.End); r.Reason != model.ReasonNone {
			return r.Reason, nil
		}
	}
	return model.ReasonNone, nil
}

// podOf returns the pod that has an address as its own; nil if none does.
func podOf(cluster *manifest.Objects, addr netip.Addr) *corev1.Pod {
	for _, p := range cluster.Pods {
		if !p.Spec.HostNetwork && slices.Contains(manifest.PodAddrs(p), addr) {
			return p
		}
	}
	return nil
}

func (l *Lab) decide(ctx context.Context, at stand, protocol model.Protocol, to netip.AddrPort) (refmodel.Decision, error) {
	node, err := l.modelOf(ctx, at.node)
	if err != nil {
		return refmodel.Decision{}, err
	}
	return node.Decide(at.who, protocol, to), nil
}

// modelOf is a node with the rows that its programmer holds.
func (l *Lab) modelOf(ctx context.Context, node string) (*refmodel.Node, error) {
	tables, err := l.actual(ctx, node)
	if err != nil {
		return nil, err
	}
	around := refmodel.Surroundings{Locals: map[netip.Addr]refmodel.LocalFlags{}}
	for _, n := range l.Cluster().Nodes {
		if n.Name != node {
			continue
		}
		for _, addr := range manifest.NodeAddrs(n) {
			around.Locals[addr] = refmodel.LocalNodePort
		}
	}
	for _, addr := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		around.Locals[addr] = refmodel.LocalNodePort | refmodel.LocalLoopback
	}
	return refmodel.New(refmodel.NewLayer(tables)).In(around), nil
}

// verdict follows a decision to the pod that would answer.
func (l *Lab) verdict(d refmodel.Decision, to netip.AddrPort) agent.Result {
	switch {
	case d.Verdict == refmodel.Reject:
		return agent.Result{Outcome: agent.Refused, Error: d.Reason.String()}
	case d.Verdict != refmodel.Forward:
		return agent.Result{Outcome: agent.Timeout, Error: d.Reason.String()}
	}
	cluster := l.Cluster()
	machine := nodeOf(cluster, to.Addr()) != ""
	for _, p := range cluster.Pods {
		if !slices.Contains(manifest.PodAddrs(p), to.Addr()) || l.pod(manifest.Name(p)) == nil {
			continue
		}
		machine = true
		if slices.ContainsFunc(portsOf(p), func(port server.Port) bool { return port.Number == to.Port() }) {
			return agent.Result{Outcome: agent.OK, Reached: manifest.Name(p)}
		}
	}
	if machine {
		return agent.Result{Outcome: agent.Refused, Error: fmt.Sprintf("nobody listens at %s", to)}
	}
	return agent.Result{Outcome: agent.Timeout, Error: fmt.Sprintf("nobody has the address %s", to.Addr())}
}

// standing finds the node that decides for a place, and who the place is there.
func (l *Lab) standing(from, via string, like netip.Addr) (stand, error) {
	cluster := l.Cluster()
	at := stand{who: refmodel.Dialler{Via: refmodel.PodSocket}}
	var addrs []netip.Addr
	if from == Outside && len(cluster.Nodes) > 0 {
		at.node, at.who.Via, addrs = cluster.Nodes[0].Name, refmodel.UplinkPacket, fabric.OutsideAddrs
		if next := nodeOf(cluster, like); next != "" {
			at.node = next
		}
		if name, ok := strings.CutPrefix(via, "node/"); ok {
			at.node = name
		}
	} else if name, ok := strings.CutPrefix(from, "node/"); ok {
		at.node, at.who.Via = name, refmodel.HostSocket
	} else if p := findPod(cluster, from); p != nil {
		at.node, addrs = p.Spec.NodeName, manifest.PodAddrs(p)
		if p.Spec.HostNetwork {
			at.who.Via = refmodel.HostSocket
		}
	}
	i := slices.IndexFunc(cluster.Nodes, func(n *corev1.Node) bool { return n.Name == at.node })
	if i < 0 {
		return at, fmt.Errorf("there is no place %q: want NS/POD, node/NAME or outside", from)
	}
	if addrs == nil {
		addrs = manifest.NodeAddrs(cluster.Nodes[i])
	}
	for _, a := range addrs {
		if a.Is4() == like.Is4() {
			at.who.Addr = a
		}
	}
	return at, nil
}

// nodeOf returns the node that has an address as its own; empty if none does.
func nodeOf(cluster *manifest.Objects, addr netip.Addr) string {
	for _, n := range cluster.Nodes {
		if slices.Contains(manifest.NodeAddrs(n), addr) {
			return n.Name
		}
	}
	return ""
}

// actual reads all rows that a node's programmer holds.
func (l *Lab) actual(ctx context.Context, node string) (*model.Tables, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	request, err := proto.Marshal(&schemas.DumpRequest{Node: node})
	if err != nil {
		return nil, err
	}
	tables := model.NewTables()
	err = l.conn.RequestMany(ctx, schemas.ActualSubject(node), request, bus.AnswerWithin, func(data []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(data, &reply); err != nil {
			return false, err
		}
		if refused := reply.GetRefused(); refused != "" {
			return false, fmt.Errorf("the programmer refuses: %s", refused)
		}
		rows, err := wire.RowsFromProto(reply.GetRows())
		if err != nil {
			return false, err
		}
		tables.Apply(&model.Change{Put: rows}, model.Digest{})
		return !reply.GetLast(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the rows of node %s: %w", node, err)
	}
	return tables, nil
}

// judgeOnAndOn is Load without a kernel.
func (l *Lab) judgeOnAndOn(r ProbeRequest, interval time.Duration) func(context.Context) (*agent.Load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan *agent.Load, 1)
	go func() {
		done <- agent.Repeat(ctx, interval, func() agent.Result {
			report, err := l.judge(context.WithoutCancel(ctx), r)
			if err != nil {
				return agent.Result{Outcome: agent.Unreachable, Error: err.Error()}
			}
			return report.Results[0]
		})
	}()
	return func(ctx context.Context) (*agent.Load, error) {
		cancel()
		select {
		case load := <-done:
			return load, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
