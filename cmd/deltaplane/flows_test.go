// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func someConnection(port uint32) *schemas.Connection {
	return &schemas.Connection{
		Pod: "shop/cart-0", PodAddress: []byte{10, 244, 1, 3}, PodPort: 8080, PeerAddress: []byte{10, 244, 1, 2}, PeerPort: port,
		IpProtocol: 6, Direction: schemas.Direction_DIRECTION_INGRESS, Service: "shop/cart:80", Rule: "NetworkPolicy shop/cart ingress[0]",
		RuleSet: 5, Policies: "NetworkPolicy shop/cart", Idle: durationpb.New(3 * time.Second), Answered: true,
	}
}

func someDrop(count uint64) *schemas.RecentDrop {
	return &schemas.RecentDrop{
		Drop: &schemas.Drop{
			Reason: "policy_isolated", Via: "packet", IpProtocol: 1, Source: []byte{10, 244, 1, 3}, SourcePod: "shop/cart-0",
			Destination: []byte{192, 0, 2, 9}, Direction: schemas.Direction_DIRECTION_EGRESS, RuleSet: 6,
			Policies: "NetworkPolicy shop/cart", Revision: 41,
		},
		Count: count, First: timestamppb.New(committed), Latest: timestamppb.New(committed.Add(time.Minute)),
	}
}

// flowing has node a answer with what reply says, in two messages.
func (s *stage) flowing(reply func(*schemas.FlowsRequest) *schemas.FlowsReply) {
	s.t.Helper()
	_, err := s.conn.Respond(schemas.FlowsSubject("a"), "", func(_ context.Context, data []byte, answer func([]byte) error) {
		var request schemas.FlowsRequest
		if err := wire.Unmarshal(data, &request); err != nil {
			s.t.Error(err)
		}
		all := reply(&request)
		_ = answer(encoded(s.t, &schemas.FlowsReply{ConnectionsTotal: all.GetConnectionsTotal(), Connections: all.GetConnections()}))
		_ = answer(encoded(s.t, &schemas.FlowsReply{Drops: all.GetDrops(), Sequence: 1, Last: true}))
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// Policy row 11: connections are shown with the rule that allowed them, and drops with what denied them.
func TestFlowsOfANode(t *testing.T) {
	s := newStage(t)
	s.flowing(func(r *schemas.FlowsRequest) *schemas.FlowsReply {
		if r.GetOnlyDrops() {
			return &schemas.FlowsReply{Drops: []*schemas.RecentDrop{someDrop(1204)}}
		}
		return &schemas.FlowsReply{ConnectionsTotal: 5001, Connections: []*schemas.Connection{someConnection(4000)}, Drops: []*schemas.RecentDrop{someDrop(1204)}}
	})
	stdout, stderr, code := command(t, "flows", "--node", "a")
	if code != exitOK || stderr != "" {
		t.Errorf("exit %d, %s", code, stderr)
	}
	last := committed.Add(time.Minute).Local().Format("15:04:05")
	want := `NODE  POD                  PEER             PROTOCOL  SERVICE       STATE  IDLE  ALLOWED BY
a     shop/cart-0:8080  ←  shop/front:4000  TCP       shop/cart:80  open   3s    ingress: NetworkPolicy shop/cart ingress[0]
and 5,000 more, seen longer ago (--limit)

NODE  LAST      COUNT  FROM         TO         PROTOCOL  REASON           DENIED BY
a     ` + last + `  1,204  shop/cart-0  192.0.2.9  ICMP      policy_isolated  egress: NetworkPolicy shop/cart
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
	stdout, _, _ = command(t, "flows", "--node", "a", "--drops")
	if strings.Contains(stdout, "ALLOWED BY") || !strings.Contains(stdout, "policy_isolated") {
		t.Errorf("drops alone:\n%s", stdout)
	}
	stdout, _, _ = command(t, "flows", "--node", "a", "-o", "json")
	var list flowsJSON
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		t.Fatal(err)
	}
	if c := list.Connections[0]; list.Total != 5001 || c.RuleSet != "0000000000000005" || c.Peer != (endJSON{"shop/front", "10.244.1.2", 4000}) || c.Direction != "ingress" {
		t.Errorf("got %+v", list)
	}
}

func TestFlowsNameNodesThatDoNotAnswer(t *testing.T) {
	s := newStage(t)
	s.flowing(func(*schemas.FlowsRequest) *schemas.FlowsReply {
		return &schemas.FlowsReply{Connections: []*schemas.Connection{someConnection(4000)}}
	})
	stdout, stderr, code := command(t, "flows", "--pod", "shop/cart-0")
	want := "node b is missing: the programmer of node b doesn't answer on the bus: does it run, and is the name right?\n"
	if code != exitOK || stderr != want || !strings.Contains(stdout, "shop/cart-0:8080") {
		t.Errorf("exit %d, got %s%s", code, stderr, stdout)
	}
	if _, stderr, code := command(t, "flows", "--node", "b"); code != exitError || !strings.Contains(stderr, "the programmer of node b doesn't answer") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if _, stderr, code := command(t, "flows", "--pod", "cart"); code != exitError || stderr != "--pod \"cart\": want NAMESPACE/NAME\n" {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// buffer may be read while a command writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Promise P6: drops are shown as they happen, each with its reason and what denied it.
func TestFlowsAreFollowed(t *testing.T) {
	s := newStage(t)
	var asked uint32
	s.flowing(func(*schemas.FlowsRequest) *schemas.FlowsReply {
		s.mu.Lock()
		defer s.mu.Unlock()
		asked++
		reply := &schemas.FlowsReply{Connections: []*schemas.Connection{someConnection(4000)}, Drops: []*schemas.RecentDrop{someDrop(3)}}
		if asked > 1 {
			reply.Connections = append(reply.Connections, someConnection(4001))
			reply.Drops[0].Count = 5
		}
		return reply
	})
	ctx, cancel := context.WithCancel(t.Context())
	var out buffer
	root := newRootCommand("deltaplane")
	root.SetArgs([]string{"flows", "-f", "--node", "a", "-o", "json"})
	root.SetOut(&out)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	testkit.Eventually(t, 20*time.Second, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return asked > 3
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var what struct {
			Type  string
			Count uint64
			Peer  endJSON
		}
		if err := json.Unmarshal([]byte(line), &what); err != nil {
			t.Fatal(err)
		}
		if what.Type == "drop" {
			got = append(got, "drop of "+grouped(what.Count))
		} else {
			got = append(got, what.Peer.String())
		}
	}
	want := []string{"shop/front:4000", "drop of 3", "shop/front:4001", "drop of 2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
