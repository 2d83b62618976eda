// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
)

// rows makes tables for tests, a call a row.
type rows struct{ *model.Tables }

func (r rows) front(kind model.FrontendKind, match model.Match, at string, set model.SetID, flags model.FrontendFlags) {
	to := netip.MustParseAddrPort(at)
	key := model.FrontendKey{Addr: to.Addr(), Port: to.Port(), Protocol: model.TCP, Match: match}
	if kind == model.FrontendRefused {
		key.Protocol = 0
	}
	r.Frontends[key] = model.Frontend{FrontendKey: key, Set: set, Kind: kind, Flags: flags}
}

// set makes a set of a root; members are written by the last byte of 10.244.0.x, and have id 100 times root's and that.
func (r rows) set(id, root model.SetID, scope model.Scope, place model.Place, flags model.SetFlags, members ...byte) {
	r.Sets[id] = model.BackendSet{ID: id, Root: root, SetKey: model.SetKey{Scope: scope, Place: place}, Flags: flags}
	if id != root {
		key := model.ViewKey{Set: root, Scope: scope}
		if scope == model.ScopeZone {
			key.Place = place
		}
		r.Views[key] = model.View{ViewKey: key, Target: id}
	}
	for _, m := range members {
		b := model.Backend{ID: model.BackendID(100*int(root) + int(m)), State: model.BackendActive, BackendKey: model.BackendKey{
			Set: root, Addr: netip.AddrFrom4([4]byte{10, 244, 0, m}), Port: 8080,
		}}
		if flags&model.Fallback != 0 {
			b.State = model.BackendTerminating
		}
		r.Backends[b.ID] = b
		r.Members[model.Member{Set: id, Backend: b.ID}] = model.Member{Set: id, Backend: b.ID}
	}
}

func (r rows) network(prefix string, kind model.NetworkKind) {
	p := netip.MustParsePrefix(prefix)
	r.Networks[p] = model.Network{Prefix: p, Kind: kind}
}

func (r rows) sourceRange(set model.SetID, prefix string) {
	row := model.SourceRange{Set: set, Prefix: netip.MustParsePrefix(prefix)}
	r.SourceRanges[row] = row
}

// kinds is a node of zone "here" with a Service of each sort.
func kinds() *Node {
	const nodePort, hostPort, exact = model.MatchNodePort, model.MatchHostPort, model.MatchAddress
	here, there := model.PlaceOf("here"), model.PlaceOf("there")
	r := rows{model.NewTables()}
	r.Selves[model.SelfKey{}] = model.Self{Zone: "here"}
	r.network("10.244.0.0/16", model.NetworkPods)
	r.network("10.96.0.0/16", model.NetworkServices)
	for _, a := range []string{"10.244.0.1", "10.244.0.2"} {
		r.Endpoints[netip.MustParseAddr(a)] = model.Endpoint{Addr: netip.MustParseAddr(a), Pod: "ns/pod"}
	}
	r.front(model.FrontendRefused, exact, "10.96.0.1:0", 0, 0)

	r.set(1, 1, model.ScopeAll, 0, 0, 1, 9) // a backend here and one elsewhere
	r.set(11, 1, model.ScopeLocal, 0, 0, 1)
	r.front(model.FrontendClusterIP, exact, "10.96.0.1:80", 1, 0)
	r.front(model.FrontendNodePort, nodePort, "0.0.0.0:30001", 1, 0)
	r.front(model.FrontendExternalIP, exact, "203.0.113.1:80", 1, model.ExternalLocal)
	r.front(model.FrontendClusterIP, exact, "10.96.0.10:80", 1, model.InternalLocal)

	r.set(2, 2, model.ScopeAll, 0, 0, 8, 9) // none here
	r.front(model.FrontendClusterIP, exact, "10.96.0.2:80", 2, model.InternalLocal)
	r.front(model.FrontendNodePort, nodePort, "0.0.0.0:30002", 2, model.ExternalLocal)
	r.front(model.FrontendLoadBalancer, exact, "203.0.113.2:80", 2, model.ExternalLocal|model.SourceRanges)
	r.front(model.FrontendLoadBalancer, exact, "203.0.113.3:80", 2, model.SourceRanges)
	r.sourceRange(2, "198.51.100.0/24")
	r.sourceRange(2, "10.244.0.2/32")

	r.set(3, 3, model.ScopeAll, 0, 0) // none at all
	r.front(model.FrontendClusterIP, exact, "10.96.0.3:80", 3, model.InternalLocal)
	r.front(model.FrontendNodePort, nodePort, "0.0.0.0:30003", 3, model.ExternalLocal)

	r.set(4, 4, model.ScopeAll, 0, model.NodeHints|model.ZoneHints, 1, 2, 7, 8) // hints of both sorts
	r.set(41, 4, model.ScopeNode, 0, 0, 1)
	r.set(42, 4, model.ScopeZone, here, 0, 1, 2)
	r.set(43, 4, model.ScopeLocal, 0, 0, 1, 2)
	r.front(model.FrontendClusterIP, exact, "10.96.0.4:80", 4, 0)
	r.front(model.FrontendClusterIP, exact, "10.96.0.40:80", 4, model.InternalLocal)

	r.set(5, 5, model.ScopeAll, 0, model.NodeHints|model.ZoneHints, 2, 8) // for this zone, not this node
	r.set(51, 5, model.ScopeZone, here, 0, 2)
	r.set(52, 5, model.ScopeZone, there, 0, 8)
	r.front(model.FrontendClusterIP, exact, "10.96.0.5:80", 5, 0)

	r.set(6, 6, model.ScopeAll, 0, model.ZoneHints, 7, 8) // for another zone
	r.set(61, 6, model.ScopeZone, there, 0, 7, 8)
	r.front(model.FrontendClusterIP, exact, "10.96.0.6:80", 6, 0)

	r.set(7, 7, model.ScopeAll, 0, 0, 2, 8) // not all endpoints have hints: the view is another's remains
	r.set(71, 7, model.ScopeZone, here, 0, 2)
	r.front(model.FrontendClusterIP, exact, "10.96.0.7:80", 7, 0)

	r.set(8, 8, model.ScopeHostPort, 0, 0, 2)
	r.front(model.FrontendHostPort, hostPort, "0.0.0.0:8008", 8, 0)
	r.front(model.FrontendHostPort, exact, "172.20.0.2:8009", 8, 0)
	r.front(model.FrontendHostPort, exact, "127.0.0.1:8010", 8, 0)
	r.front(model.FrontendHostPort, exact, "192.0.2.9:8011", 8, 0)   // no address of this node
	r.front(model.FrontendHostPort, hostPort, "0.0.0.0:30001", 8, 0) // the NodePort comes first

	locals := map[netip.Addr]LocalFlags{
		netip.MustParseAddr("172.20.0.2"): LocalNodePort,
		netip.MustParseAddr("172.21.0.2"): 0, // not in --nodeport-addresses
		netip.MustParseAddr("127.0.0.1"):  LocalNodePort | LocalLoopback,
	}
	uplinks := map[int][]netip.Addr{UplinkAny: {netip.MustParseAddr("172.20.0.2")}, 2: {netip.MustParseAddr("172.20.0.2")}}
	return New(NewLayer(r.Tables)).In(Surroundings{Locals: locals, Uplinks: uplinks})
}

func TestDecide(t *testing.T) {
	n := kinds()
	pod := Dialler{PodPacket, netip.MustParseAddr("10.244.0.1")}
	podSocket, host := Dialler{Via: PodSocket}, Dialler{Via: HostSocket}
	outside := Dialler{UplinkPacket, netip.MustParseAddr("192.0.2.7")}
	allowed := Dialler{UplinkPacket, netip.MustParseAddr("198.51.100.7")}
	remote := Dialler{UplinkPacket, netip.MustParseAddr("10.244.0.9")} // a pod of another node
	for _, test := range []struct {
		name string
		who  Dialler
		to   string
		want string // verdict, reason if any, candidates by their last byte, ~ for each that is masqueraded
	}{
		{"a ClusterIP takes any", pod, "10.96.0.1:80", "forward 1~ 9"},
		{"a socket needs no masquerade", podSocket, "10.96.0.1:80", "forward 1 9"},
		{"from outside what leaves again is masqueraded", outside, "10.96.0.1:80", "forward 1 9~"},
		{"a NodePort from outside too", outside, "172.20.0.2:30001", "forward 1 9~"},
		{"a NodePort from a pod of the node", pod, "172.20.0.2:30001", "forward 1~ 9"},
		{"a NodePort from a pod of another node", remote, "172.20.0.2:30001", "forward 1 9~"},
		{"a NodePort at an address without", outside, "172.21.0.2:30001", "forward 2"}, // the hostPort of the same number
		{"a NodePort at an address of no one here", outside, "172.20.0.3:30001", "forward"},
		{"a NodePort at 127.0.0.1 from the node", host, "127.0.0.1:30001", "forward 1 9"},
		{"a NodePort at any of 127.0.0.0/8", host, "127.9.9.9:30001", "forward 1 9"},
		{"a NodePort at 0.0.0.0", host, "0.0.0.0:30001", "forward 1 9"},
		{"a NodePort at a pod's own 127.0.0.1", podSocket, "127.0.0.1:30001", "forward"},
		{"external Local from outside", outside, "203.0.113.1:80", "forward 1"},
		{"external Local from a pod", pod, "203.0.113.1:80", "forward 1~ 9"},
		{"external Local from another node's pod", remote, "203.0.113.1:80", "forward 1 9~"},
		{"internal Local", pod, "10.96.0.10:80", "forward 1~"},
		{"internal Local counts at a ClusterIP for all", outside, "10.96.0.10:80", "forward 1"},
		{"internal Local, none here", pod, "10.96.0.2:80", "drop no_local_backend"},
		{"external Local, none here", outside, "172.20.0.2:30002", "drop no_local_backend"},
		{"external Local, none here, from a pod", pod, "172.20.0.2:30002", "forward 8 9"},
		{"external Local, none here, from the node", host, "172.20.0.2:30002", "forward 8 9"},
		{"no source range", outside, "203.0.113.2:80", "drop source_range"},
		{"no source range for pods either", pod, "203.0.113.3:80", "drop source_range"},
		{"a source range that is a pod's", Dialler{PodPacket, netip.MustParseAddr("10.244.0.2")}, "203.0.113.3:80", "forward 8 9"},
		{"a source range from outside", allowed, "203.0.113.3:80", "forward 8~ 9~"},
		{"a source range, then Local", allowed, "203.0.113.2:80", "drop no_local_backend"},
		{"the frontend's own address", Dialler{UplinkPacket, netip.MustParseAddr("203.0.113.3")}, "203.0.113.3:80", "forward 8~ 9~"},
		{"a socket is seen by its packets", podSocket, "203.0.113.3:80", "forward left"},
		{"a process of the node has the node's address", host, "203.0.113.3:80", "drop source_range"},
		{"none at all", pod, "10.96.0.3:80", "reject no_backend"},
		{"none at all comes before Local", outside, "172.20.0.2:30003", "reject no_backend"},
		{"hints for this node", pod, "10.96.0.4:80", "forward 1~"},
		{"Local ignores hints", pod, "10.96.0.40:80", "forward 1~ 2"},
		{"hints for this zone", pod, "10.96.0.5:80", "forward 2"},
		{"hints for another zone", pod, "10.96.0.6:80", "forward 7 8"},
		{"hints that not all have", pod, "10.96.0.7:80", "forward 2 8"},
		{"a hostPort", outside, "172.21.0.2:8008", "forward 2"},
		{"a hostPort of another address", outside, "172.21.0.2:8009", "forward"},
		{"a hostPort of one address", outside, "172.20.0.2:8009", "forward 2"},
		{"a hostPort of 127.0.0.1 from the node", host, "127.0.0.1:8010", "forward 2"},
		{"a pod's own 127.0.0.1, where another's hostPort is", podSocket, "127.0.0.1:8010", "forward"},
		{"a hostPort of an address that the node doesn't have", podSocket, "192.0.2.9:8011", "forward"},
		{"the same from the node", host, "192.0.2.9:8011", "forward"},
		{"the same from outside", outside, "192.0.2.9:8011", "forward"},
		{"a wrong port of a ClusterIP", pod, "10.96.0.1:81", "reject wrong_port"},
		{"an address of no Service", pod, "10.96.0.99:80", "drop unallocated"},
		{"somewhere else", pod, "192.0.2.1:80", "forward"},
	} {
		d := n.Decide(test.who, model.TCP, netip.MustParseAddrPort(test.to))
		if diff := cmp.Diff(test.want, inShort(n, test.who, d)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func inShort(n *Node, who Dialler, d Decision) string {
	words := []string{d.Verdict.String()}
	if d.Reason != model.ReasonNone {
		words = append(words, d.Reason.String())
	}
	if d.LeftToPackets {
		words = append(words, "left")
	}
	for _, b := range d.Candidates {
		text := b.Addr.String()
		text = text[strings.LastIndex(text, ".")+1:]
		if n.Masquerades(who, d, b) {
			text += "~"
		}
		words = append(words, text)
	}
	return strings.Join(words, " ")
}

func TestMasqueradeAllIsForWhatLeaves(t *testing.T) {
	n := kinds()
	s := n.Surroundings
	s.MasqueradeAll = true
	n = n.In(s)
	who := Dialler{PodPacket, netip.MustParseAddr("10.244.0.2")}
	d := n.Decide(who, model.TCP, netip.MustParseAddrPort("10.96.0.1:80"))
	if got := inShort(n, who, d); got != "forward 1 9~" {
		t.Errorf("got %s", got)
	}
	for to, want := range map[string]string{"10.96.0.1:80": "forward left", "10.96.0.99:80": "forward left", "192.0.2.1:80": "forward"} {
		d := n.Decide(Dialler{Via: PodSocket}, model.TCP, netip.MustParseAddrPort(to))
		if got := inShort(n, who, d); got != want {
			t.Errorf("a pod's socket to %s: %s, want %s", to, got, want)
		}
	}
}

func TestAffinityKeepsABackendThatTakesConnections(t *testing.T) {
	build := func(flags model.SetFlags, members ...byte) *Node {
		r := rows{model.NewTables()}
		r.set(1, 1, model.ScopeAll, 0, flags, members...)
		s := r.Sets[1]
		s.Affinity = 60
		r.Sets[1] = s
		r.front(model.FrontendClusterIP, model.MatchAddress, "10.96.0.1:80", 1, 0)
		return New(NewLayer(r.Tables))
	}
	who := AffinityKey{Client: netip.MustParseAddr("10.244.0.3")}
	a := Affinities{}
	ask := func(n *Node, now uint32) string {
		d := n.Decide(Dialler{PodPacket, who.Client}, model.TCP, netip.MustParseAddrPort("10.96.0.1:80"))
		a.Narrow(n, &d, who, now)
		a.Note(d, who, d.Candidates[len(d.Candidates)-1], now)
		return inShort(n, Dialler{Via: PodSocket}, d)
	}
	three := build(0, 1, 2, 3)
	terminating := build(0, 1, 2, 3)
	b := terminating.layers[0].tables.Backends[103]
	b.State = model.BackendTerminating
	terminating.layers[0].tables.Backends[103] = b
	var got []string
	for _, step := range []struct {
		n   *Node
		now uint32
	}{{three, 0}, {three, 59}, {three, 119}, {three, 180}, {build(0, 1, 2), 182}, {three, 183}, {build(model.Fallback, 1, 2), 184}, {build(0, 1, 3), 185}, {terminating, 186}} {
		got = append(got, ask(step.n, step.now))
	}
	want := []string{
		"forward 1 2 3", "forward 3", "forward 3", // each connection counts
		"forward 1 2 3", // too late
		"forward 1 2",   // it is gone
		"forward 2", "forward 2",
		"forward 1 3",
		"forward 1 2 3", // it terminates while others are ready
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !slices.Equal(three.members(1), []model.BackendID{101, 102, 103}) {
		t.Error("the rows changed")
	}
}
