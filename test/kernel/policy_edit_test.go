// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// edits are what an operator may do to a Service while it is in use, each with the part of the node that it makes: the
// rows of the node's layer go and come back with other numbers.
var edits = []struct {
	name  string
	local bool
	scope model.Scope
}{
	{"policy Local", true, model.ScopeLocal},
	{"policy Cluster", false, 0},
	{"policy Local again", true, model.ScopeLocal},
	{"hints for the node", false, model.ScopeNode},
	{"no hints", false, 0},
}

// edit leaves root 1 the i-th part alone, of these backends, and returns the flags that its frontends are to have.
func (b *book) edit(i int, local model.FrontendFlags, here ...string) model.FrontendFlags {
	id := model.SetID(10 + i)
	b.unpart(id - 1)
	root := b.cluster.Sets[1]
	if root.Flags = 0; edits[i].scope == model.ScopeNode {
		root.Flags = model.NodeHints
	}
	b.cluster.Sets[1] = root
	if edits[i].scope != 0 {
		b.part(id, 1, edits[i].scope, "", here...)
	}
	if edits[i].local {
		return local
	}
	return 0
}

// Row 9: a connection from outside outlives that its Service loses externalTrafficPolicy Local, or hints, and gets
// them back: its backend is the same.
func TestConnectionOutlivesAnEditOfThePolicy(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	e.root(1, model.TCP, model.IPv4, localPod4, remotePod4)
	var from, to string
	for i, edit := range edits {
		e.ownFront(1, model.MatchNodePort, e.edit(i, model.ExternalLocal, localPod4), 30080)
		e.write(t)
		if i == 0 {
			from, to = e.through(e.plane.RunFromUplink, e.plane.RunToPod, segment{syn: true}.between(outside4, edge4+":30080"))
			wantEnds(t, "the SYN", from, to, outside4, localPod4)
			e.through(e.plane.RunFromPod, e.plane.RunToUplink, segment{syn: true, ack: true, acked: 1}.between(localPod4, outside4))
		}
		check(t, e.plane.PassTime(2)) // it is looked at once in a second whether the backend is there
		from, to = e.through(e.plane.RunFromUplink, e.plane.RunToPod, segment{ack: true, acked: 1, payload: 9}.between(outside4, edge4+":30080"))
		wantEnds(t, edit.name, from, to, outside4, localPod4)
		from, to = e.through(e.plane.RunFromPod, e.plane.RunToUplink, segment{ack: true, acked: 1, payload: 9}.between(localPod4, outside4))
		wantEnds(t, edit.name+", the answer", from, to, edge4+":30080", outside4)
	}
	if diff := cmp.Diff(map[model.DropReason]uint64{}, drops(t, e.plane)); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}

// Row 11: a client with affinity keeps its backend while the Service's policy and hints are edited.
func TestAffinityOutlivesAnEditOfThePolicy(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	var here []string
	for i := range 8 {
		here = append(here, fmt.Sprintf("10.1.0.%d:8080", 10+i))
	}
	e.root(1, model.TCP, model.IPv4, append(here, remotePod4)...)
	root := e.cluster.Sets[1]
	root.Affinity = 3600
	e.cluster.Sets[1] = root
	first := ""
	for i, edit := range edits[:3] {
		e.ownFront(1, model.MatchNodePort, e.edit(i, model.ExternalLocal, here...), 30080)
		for id, part := range e.book.node.Sets {
			part.Affinity = 3600
			e.book.node.Sets[id] = part
		}
		e.write(t)
		for n := range 5 {
			client := fmt.Sprintf("198.51.100.7:%d", 40000+10*i+n)
			_, got := e.hook(e.plane.RunFromUplink, segment{syn: true}.between(client, edge4+":30080"))
			if first == "" {
				first = got.to
			}
			if got.to != first {
				t.Errorf("%s: to %s, had %s", edit.name, got.to, first)
			}
		}
	}
}

// Row 9: sockets of pods keep their backends, too: connected UDP isn't moved and TCP isn't reset.
func TestSocketsOutliveAnEditOfThePolicy(t *testing.T) {
	for _, protocol := range []model.Protocol{model.UDP, model.TCP} {
		t.Run(protocol.String(), func(t *testing.T) {
			f := newPodNode(t)
			b := newBook(t, f.plane)
			names := []string{backend4 + ":8081", backend4 + ":8082", backend4 + ":8083"}
			for _, name := range names {
				serve(t, f.backend, name)
			}
			b.root(1, protocol, model.IPv4, names...)
			apply := func(i int) {
				b.front(1, model.FrontendClusterIP, b.edit(i, model.InternalLocal, names[1]), service4)
				b.write(t)
			}
			apply(0)
			f.client.Do(t, func() {
				var asks func() string
				if at := netip.MustParseAddrPort(service4); protocol == model.UDP {
					s := dialDatagrams(t, "udp4", at)
					asks = func() string { who, _ := s.exchange(t, netip.AddrPort{}); return who }
				} else {
					conn, err := dialErr("tcp4", at)
					check(t, err)
					defer conn.Close()
					asks = func() string { return ask(t, conn) }
				}
				for i, edit := range edits {
					apply(i)
					var moves bpf.Moves
					f.node.Do(t, func() {
						var err error
						moves, err = f.plane.MoveSockets()
						check(t, err)
					})
					wantMoves(t, edit.name, moves, bpf.Moves{Walked: moves.Walked})
					if who := asks(); who != names[1] {
						t.Errorf("%s: %s answers, want %s", edit.name, who, names[1])
					}
				}
			})
		})
	}
}
