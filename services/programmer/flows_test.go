// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// busyPlane has connections and drops of its own.
type busyPlane struct {
	inMemory
	judged uint32
	list   []foundConnection
	events []*abi.DropEvent
}

func (p *busyPlane) epoch() (uint32, error) { return p.judged, nil }

func (p *busyPlane) connections(_ context.Context, each func(*abi.ConnectionKey, *abi.Connection) bool) error {
	for i := range p.list {
		if !each(&p.list[i].key, &p.list[i].value) {
			break
		}
	}
	return nil
}

func (p *busyPlane) drops(ctx context.Context, each func(abi.DropEvent)) error {
	for _, e := range p.events {
		each(*e)
	}
	<-ctx.Done()
	return nil
}

// connected is a connection that shop/cart has with a peer, seen some seconds ago.
func connected(t *testing.T, port uint16, idle uint32, c abi.Connection) foundConnection {
	t.Helper()
	now, err := bpf.NowSeconds()
	if err != nil {
		t.Fatal(err)
	}
	c.Seen = now - idle
	return foundConnection{
		key: abi.ConnectionKey{
			Pod: netip.MustParseAddr("10.1.0.2").As16(), Peer: netip.MustParseAddr("10.1.0.1").As16(),
			PodPort: abi.Port(8080), PeerPort: abi.Port(port), Protocol: uint8(model.TCP),
		},
		value: c,
	}
}

// Policy row 11: a connection is shown with the rule that allowed it.
func TestConnectionsAreShownByName(t *testing.T) {
	c := connected(t, 4000, 0, abi.Connection{
		RuleSet: 5, Rule: 6, Epoch: 3, State: abi.ConnectionIngress | abi.ConnectionAnswered | abi.ConnectionPeerFin,
	})
	got := shop().connection(&c, &foundConnections{epoch: 4, now: c.value.Seen + 7})
	want := &schemas.Connection{
		Pod: "shop/cart", PeerPod: "shop/web", PodAddress: []byte{10, 1, 0, 2}, PeerAddress: []byte{10, 1, 0, 1}, PodPort: 8080, PeerPort: 4000,
		IpProtocol: 6, Direction: schemas.Direction_DIRECTION_INGRESS, Rule: "ClusterNetworkPolicy no-lab ingress[2]", RuleSet: 5,
		Policies: "ClusterNetworkPolicy no-lab, NetworkPolicy shop/cart", Idle: durationpb.New(7 * time.Second),
		Answered: true, Closing: true, Outdated: true,
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("connection (-want +got):\n%s", diff)
	}
}

func TestFlowsAreAnsweredInBounds(t *testing.T) {
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	c.commit(web(3), false)
	plane := &busyPlane{inMemory: memoryPlane(), judged: 3, events: []*abi.DropEvent{isolated("10.1.0.1", 6), isolated("10.1.0.1", 6)}}
	for i := range 5000 {
		plane.list = append(plane.list, connected(t, uint16(i), uint32(i*7919%5000), abi.Connection{Epoch: 3}))
	}
	startProgrammer(t, server.URL(), plane)
	c.converged()
	for _, q := range []struct {
		name               string
		request            *schemas.FlowsRequest
		connections, drops int
	}{
		{"all", &schemas.FlowsRequest{}, flowsDefault, 1},
		{"more than a message holds", &schemas.FlowsRequest{Limit: 2500}, 2500, 1},
		{"drops alone", &schemas.FlowsRequest{OnlyDrops: true}, 0, 1},
		{"of a pod that isn't here", &schemas.FlowsRequest{Pod: "shop/none"}, 0, 0},
	} {
		data, err := proto.Marshal(q.request)
		if err != nil {
			t.Fatal(err)
		}
		var connections []*schemas.Connection
		var drops []*schemas.RecentDrop
		err = c.conn.RequestMany(t.Context(), schemas.FlowsSubject("node.a"), data, bus.AnswerWithin, func(data []byte) (bool, error) {
			var reply schemas.FlowsReply
			if err := wire.Unmarshal(data, &reply); err != nil {
				return false, err
			}
			connections, drops = append(connections, reply.GetConnections()...), append(drops, reply.GetDrops()...)
			return !reply.GetLast(), nil
		})
		if err != nil || len(connections) != q.connections || len(drops) != q.drops {
			t.Fatalf("%s: %d connections, %d drops, %v; want %d and %d", q.name, len(connections), len(drops), err, q.connections, q.drops)
		}
		for i, c := range connections {
			if idle := int(c.GetIdle().AsDuration() / time.Second); idle < i || idle > i+60 {
				t.Fatalf("%s: connection %d was idle for %d s: not those seen last, in order", q.name, i, idle)
			}
		}
		for _, d := range drops {
			if d.GetCount() != 2 {
				t.Errorf("%s: %v, want it counted twice", q.name, d)
			}
		}
	}
}

// TestFlowsOfTheLongestNamesFitAMessage fills a message with what has the longest names that Kubernetes allows.
func TestFlowsOfTheLongestNamesFitAMessage(t *testing.T) {
	long := func(n int) string { return strings.Repeat("n", n) }
	pod, addr := long(63)+"/"+long(253), make([]byte, 16)
	service := model.ServicePort{Namespace: long(63), Name: long(63), Port: 65535}.String()
	rule := model.Rule{
		Policy:    model.PolicyName{Kind: model.NetworkPolicy, Namespace: long(63), Name: long(253)},
		Direction: model.Ingress, Index: 65535, Name: long(100),
	}.String()
	all := ^uint64(0)
	second := timestamppb.New(time.Unix(1<<33, 999999999))
	connections, drops := &schemas.FlowsReply{Sequence: 1 << 31, Last: true}, &schemas.FlowsReply{Sequence: 1 << 31, Last: true}
	for range flowsAtOnce {
		connections.Connections = append(connections.Connections, &schemas.Connection{
			Pod: pod, PeerPod: pod, PodAddress: addr, PeerAddress: addr, PodPort: 65535, PeerPort: 65535, IpProtocol: 255,
			Direction: 2, Service: service, Rule: rule, RuleSet: all, Policies: long(255),
			Idle: durationpb.New(time.Hour + 1), Answered: true, Closing: true, Outdated: true,
		})
		drops.Drops = append(drops.Drops, &schemas.RecentDrop{
			Drop: &schemas.Drop{
				Reason: long(40), Via: "socket", Protocol: 132, IpProtocol: 255, Source: addr, SourcePort: 65535, SourcePod: pod,
				Destination: addr, DestinationPort: 65535, DestinationPod: pod, Service: service, Direction: 2, RuleSet: all,
				Policies: long(255), Rule: rule, Revision: all,
			},
			Count: all, First: second, Latest: second,
		})
	}
	for _, m := range []*schemas.FlowsReply{connections, drops} {
		if size := proto.Size(m); size > schemas.MaxMessageBytes {
			t.Errorf("a message has %d bytes, the bus carries %d", size, schemas.MaxMessageBytes)
		}
	}
}
