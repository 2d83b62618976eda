// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"bytes"
	"maps"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Three nodes with a NodePort, whose only backend is on the second.
const node1, node2, node3 = model.NodeID(1), model.NodeID(2), model.NodeID(3)

var (
	client   = netip.MustParseAddrPort("192.0.2.7:40000")
	nodePort = netip.MustParseAddrPort("172.20.0.1:30080") // at the first node
	balancer = netip.MustParseAddrPort("203.0.113.1:80")
	server   = netip.MustParseAddrPort("10.244.0.9:8080")
	toServer = Wrapping{From: node1, To: node2, Backend: 109}
)

// wrapped are the rows that all three have.
func wrapped(mode model.FrontendFlags) rows {
	r := rows{model.NewTables()}
	r.network("10.244.0.0/16", model.NetworkPods)
	r.set(1, 1, model.ScopeAll, 0, model.External, 9)
	b := r.Backends[109]
	b.Node = node2
	r.Backends[109] = b
	r.front(model.FrontendNodePort, model.MatchNodePort, "0.0.0.0:30080", 1, mode)
	r.front(model.FrontendLoadBalancer, model.MatchAddress, balancer.String(), 1, mode)
	for id := node1; id <= node3; id++ {
		r.Nodes[id] = model.Node{ID: id, V4: netip.AddrFrom4([4]byte{172, 20, 0, byte(id)})}
	}
	return r
}

// at is one of the nodes.
func (r rows) at(id model.NodeID) *Node {
	own, rows := netip.AddrFrom4([4]byte{172, 20, 0, byte(id)}), r.Clone()
	if id == node2 {
		rows.Endpoints[server.Addr()] = model.Endpoint{Addr: server.Addr(), Pod: "ns/server"}
	}
	return New(NewLayer(rows)).In(Surroundings{
		Number: id, Tunnel: true, Locals: map[netip.Addr]LocalFlags{own: LocalNodePort}, Uplinks: map[int][]netip.Addr{UplinkAny: {own}, 2: {own}},
	})
}

// outer is the address of the node that wraps.
func outer(w Wrapping) netip.Addr { return netip.AddrFrom4([4]byte{172, 20, 0, byte(w.From)}) }

func onward(p Packet, w Wrapping) Outcome {
	return Outcome{Verdict: Forward, Source: p.Source, Destination: p.Destination, Wrapped: w}
}

// judges fails unless what the model says of a packet is the complaint, or nothing.
func judges(t *testing.T, what string, err error, complaint string) {
	t.Helper()
	judged(t, what, 0, fate{complaint: complaint}, err)
}

func TestReach(t *testing.T) {
	outside := Dialler{UplinkPacket, client.Addr()}
	change := func(change func(rows)) rows { r := wrapped(model.ForwardTunnel); change(r); return r }
	placed := func(at model.NodeID) rows {
		return change(func(r rows) { b := r.Backends[109]; b.Node = at; r.Backends[109] = b })
	}
	without := wrapped(model.ForwardTunnel).at(node1)
	around := without.Surroundings
	around.Tunnel = false
	for _, test := range []struct {
		name string
		n    *Node
		who  Dialler
		mode Mode
		want Obstacle
	}{
		{"a client outside", wrapped(model.ForwardTunnel).at(node1), outside, ModeTunnel, ObstacleNone},
		{"the same with direct return", wrapped(model.ForwardDSR).at(node1), outside, ModeDSR, ObstacleNone},
		{"the Service asks for snat", wrapped(0).at(node1), outside, ModeSNAT, ObstacleMode},
		{"a pod of another node", wrapped(model.ForwardTunnel).at(node1), Dialler{UplinkPacket, netip.MustParseAddr("10.244.0.3")}, ModeTunnel, ObstacleInside},
		{"a pod of this node", wrapped(model.ForwardTunnel).at(node1), Dialler{PodPacket, netip.MustParseAddr("10.244.0.3")}, ModeTunnel, ObstacleInside},
		{"the backend is here", wrapped(model.ForwardTunnel).at(node2), outside, ModeTunnel, ObstacleHere},
		{"nobody knows where it is", placed(0).at(node1), outside, ModeTunnel, ObstaclePlace},
		{"its node has no row", placed(9).at(node1), outside, ModeTunnel, ObstacleAddress},
		{"there is no device", without.In(around), outside, ModeTunnel, ObstacleDevice},
	} {
		d := test.n.Decide(test.who, model.TCP, balancer)
		w := test.n.Reach(test.who, d, d.Candidates[0])
		masquerades := test.n.Masquerades(test.who, d, d.Candidates[0])
		leaves := test.who.Via == UplinkPacket && test.want != ObstacleHere && test.want != ObstacleNone
		if w.Mode != test.mode || w.Obstacle != test.want || w.Wraps() != (w.To.ID == node2) || masquerades != leaves {
			t.Errorf("%s: %+v, masquerades %t; want %s, obstacle %d", test.name, w, masquerades, test.mode, test.want)
		}
	}
}

func TestConnectionThroughTheNodeThatItsClientReached(t *testing.T) {
	for _, dsr := range []bool{false, true} {
		r := wrapped(map[bool]model.FrontendFlags{false: model.ForwardTunnel, true: model.ForwardDSR}[dsr])
		here, there := NewFlows(), NewFlows()
		opening := syn(client, nodePort, 1)
		judges(t, "masqueraded", here.ComesIn(r.at(node1), UplinkPacket, opening, sent(client, server), 0), "want forward as")
		here = NewFlows()
		judges(t, "to another", here.ComesIn(r.at(node1), UplinkPacket, opening, onward(opening, Wrapping{From: node1, To: node3, Backend: 109}), 0), "want forward as")
		here = NewFlows()
		judges(t, "SYN", here.ComesIn(r.at(node1), UplinkPacket, opening, onward(opening, toServer), 0), "")
		judges(t, "unwrapped", there.ComesUnwrapped(r.at(node2), toServer, outer(toServer), opening, sent(client, server), 0), "")
		reply := data(server, client)
		back := Outcome{Verdict: Forward, Source: nodePort, Destination: client, Wrapped: Wrapping{From: node2, To: node1}}
		if dsr {
			back.Wrapped = Wrapping{}
		}
		judges(t, "answer", there.Leaves(r.at(node2), 2, reply, back, 0), "")
		back.Wrapped = Wrapping{From: node2, To: node3}
		judges(t, "answer elsewhere", there.Leaves(r.at(node2), 2, reply, back, 0), "want forward as")
		judges(t, "data", here.ComesIn(r.at(node1), UplinkPacket, data(client, nodePort), onward(opening, toServer), 1), "")
	}
}

func TestAnswersLeaveAsTheyAre(t *testing.T) {
	n, back := wrapped(model.ForwardTunnel).at(node1), Wrapping{From: node2, To: node1}
	answer := func(p Packet, did Outcome, hops byte) error {
		p.Hops = hops
		return NewFlows().ComesUnwrapped(n, back, outer(back), p, did, 0)
	}
	judges(t, "a NodePort's", answer(data(nodePort, client), sent(nodePort, client), 64), "")
	judges(t, "changed", answer(data(nodePort, client), sent(server, client), 64), "want it untouched")
	judges(t, "nobody's", answer(data(server, client), sent(server, client), 64), "want drop (foreign_tunnel)")
	judges(t, "its last hop", answer(data(nodePort, client), sent(nodePort, client), 1), "want drop (no_way)")
}

// A connection outlives the frontend that it began by. It is over when the backend resets it, or when no way leads there.
func TestSteeredConnectionsEnd(t *testing.T) {
	r, flows, back := wrapped(model.ForwardTunnel), NewFlows(), Wrapping{From: node2, To: node1}
	opening, segment, answer := syn(client, balancer, 1), data(client, balancer), data(balancer, client)
	judges(t, "SYN", flows.ComesIn(r.at(node1), UplinkPacket, opening, onward(opening, toServer), 0), "")
	segment.Hops, answer.Hops = 64, 64
	without := rows{r.Clone()}
	maps.DeleteFunc(without.Frontends, func(_ model.FrontendKey, f model.Frontend) bool { return f.Kind == model.FrontendLoadBalancer })
	judges(t, "of no frontend", flows.ComesUnwrapped(without.at(node1), back, outer(back), answer, sent(balancer, client), 0), "")
	judges(t, "of no connection", NewFlows().ComesUnwrapped(without.at(node1), back, outer(back), answer, sent(balancer, client), 0), "want drop (foreign_tunnel)")
	answer.RST = true
	judges(t, "RST", flows.ComesUnwrapped(r.at(node1), back, outer(back), answer, sent(balancer, client), 0), "")
	if !flows.entries[key{tupleOf(segment), false}].reset {
		t.Error("the backend's RST isn't noted")
	}
	delete(r.Nodes, node2)
	judges(t, "no way", flows.ComesIn(r.at(node1), UplinkPacket, segment, onward(segment, toServer), 1), "want reject (backend_gone)")
}

// Who is at another place than the client counts for nothing, and a backend may move with its address.
func TestSteeredConnectionStays(t *testing.T) {
	r, flows := wrapped(model.ForwardTunnel), NewFlows()
	judges(t, "SYN", flows.ComesIn(r.at(node1), UplinkPacket, syn(client, balancer, 1), onward(data(client, balancer), toServer), 0), "")
	e := flows.entries[key{tupleOf(data(client, balancer)), false}]
	for _, sequence := range []uint32{1, 1 << 25} {
		end := data(client, balancer)
		end.Sequence, end.FIN = sequence, true
		judges(t, "FIN", flows.ComesIn(r.at(node1), UplinkPacket, end, onward(end, toServer), 0), "")
		if near := sequence == 1; e.fin != near {
			t.Errorf("FIN with sequence %d: noted %t", sequence, e.fin)
		}
		e.fin = false
	}
	b := r.Backends[109]
	b.Node = node3
	r.Backends[109] = b
	moved := Wrapping{From: node1, To: node3, Backend: 109}
	judges(t, "moved", flows.ComesIn(r.at(node1), UplinkPacket, data(client, balancer), onward(data(client, balancer), moved), 1), "")
	b.Node = node1
	r.Backends[109] = b
	judges(t, "moved here", flows.ComesIn(r.at(node1), UplinkPacket, data(client, balancer), refusedIt, 2), "")
}

// The network moves a client to another node, and then to the backend's own.
func TestConnectionGoesOnByAnotherNode(t *testing.T) {
	r := wrapped(model.ForwardTunnel)
	there, p := NewFlows(), data(client, balancer)
	judges(t, "SYN", there.ComesUnwrapped(r.at(node2), toServer, outer(toServer), syn(client, balancer, 1), sent(client, server), 0), "")
	byThird := Wrapping{From: node3, To: node2, Backend: 109}
	judges(t, "at the third", NewFlows().ComesIn(r.at(node3), UplinkPacket, p, onward(p, byThird), 0), "")
	judges(t, "refused there", NewFlows().ComesIn(r.at(node3), UplinkPacket, p, refusedIt, 0), "want forward")
	reset := NewFlows()
	p.RST = true
	judges(t, "RST at the third", reset.ComesIn(r.at(node3), UplinkPacket, p, onward(p, byThird), 0), "")
	judges(t, "RST at the backend's", NewFlows().ComesIn(r.at(node2), UplinkPacket, p, Outcome{Verdict: Drop}, 0), "")
	if p.RST = false; len(reset.entries) != 0 {
		t.Error("with a RST something began")
	}
	judges(t, "from the third", there.ComesUnwrapped(r.at(node2), byThird, outer(byThird), p, sent(client, server), 0), "")
	back := Outcome{Verdict: Forward, Source: balancer, Destination: client, Wrapped: Wrapping{From: node2, To: node3}}
	judges(t, "back by the third", there.Leaves(r.at(node2), 2, data(server, client), back, 0), "")
	judges(t, "straight", there.ComesIn(r.at(node2), UplinkPacket, p, sent(client, server), 0), "")
	back.Wrapped = Wrapping{}
	judges(t, "straight back", there.Leaves(r.at(node2), 2, data(server, client), back, 0), "")
}

func TestWhatABackendsNodeRefuses(t *testing.T) {
	r := wrapped(model.ForwardTunnel)
	opening, segment := syn(client, balancer, 1), data(client, balancer)
	answered := Outcome{Verdict: Reject, Wrapped: Wrapping{From: node2, To: node1}}
	for _, test := range []struct {
		name      string
		w         Wrapping
		p         Packet
		did       Outcome
		complaint string
	}{
		{"what is no Service's", toServer, syn(client, server, 1), sent(client, server), "want drop (stale_tables)"},
		{"from a pod", toServer, syn(netip.MustParseAddrPort("10.244.0.3:5000"), balancer, 1), sent(netip.MustParseAddrPort("10.244.0.3:5000"), server), "want drop (foreign_tunnel)"},
		{"a segment of no connection", toServer, segment, sent(client, server), "want reject (no_flow)"},
		{"answered the way it came", toServer, segment, answered, ""},
		{"answered another way", toServer, segment, refusedIt, "want the answer wrapped"},
		{"another source", toServer, opening, sent(nodePort, server), "with the client's address"},
	} {
		judges(t, test.name, NewFlows().ComesUnwrapped(r.at(node2), test.w, outer(test.w), test.p, test.did, 0), test.complaint)
	}
}

// A node that knows another backend than the one that was picked gives the client that, with its own address where it is
// elsewhere; and answers go back all the same. Without any the client tries again.
func TestNodesThatKnowOtherBackends(t *testing.T) {
	r, opening := wrapped(model.ForwardTunnel), syn(client, balancer, 1)
	unknown := Wrapping{From: node1, To: node2, Backend: 110}
	judges(t, "one of its own", NewFlows().ComesUnwrapped(r.at(node2), unknown, outer(unknown), opening, sent(client, server), 0), "")
	flows, third, toThird := NewFlows(), r.at(node3), Wrapping{From: node1, To: node3, Backend: 109}
	judges(t, "one elsewhere", flows.ComesUnwrapped(third, toThird, outer(toThird), opening, sent(client, server), 0), "")
	own := netip.AddrPortFrom(third.Uplinks[2][0], client.Port())
	judges(t, "with the client's address", flows.Leaves(third, 2, syn(client, server, 1), sent(client, server), 0), "want it to leave with address")
	judges(t, "with its own", flows.Leaves(third, 2, syn(client, server, 1), sent(own, server), 0), "")
	judges(t, "answered", flows.ComesIn(third, UplinkPacket, data(server, own), sent(server, client), 0), "")
	back := Outcome{Verdict: Forward, Source: balancer, Destination: client, Wrapped: Wrapping{From: node3, To: node1}}
	judges(t, "back", flows.Leaves(third, 2, data(server, client), back, 0), "")
	clear(r.Members)
	judges(t, "none", NewFlows().ComesUnwrapped(r.at(node2), unknown, outer(unknown), opening, sent(client, server), 0), "want drop (stale_tables)")
}

// Two nodes that each think that the other has the backend don't pass a packet to and fro.
func TestSteeredPacketThatComesBack(t *testing.T) {
	r, flows := wrapped(model.ForwardTunnel), NewFlows()
	opening, segment := syn(client, balancer, 1), data(client, balancer)
	judges(t, "steered", flows.ComesIn(r.at(node1), UplinkPacket, opening, onward(opening, toServer), 0), "")
	back := Wrapping{From: node2, To: node1, Backend: 109}
	judges(t, "a segment", flows.ComesUnwrapped(r.at(node1), back, outer(back), segment, onward(segment, toServer), 0), "want reject (no_flow)")
	judges(t, "a SYN", flows.ComesUnwrapped(r.at(node1), back, outer(back), opening, onward(opening, toServer), 0), "want forward to")
	judges(t, "a SYN to the backend", flows.ComesUnwrapped(r.at(node1), back, outer(back), opening, sent(client, server), 0), "")
}

func TestWhoIsBelieved(t *testing.T) {
	n := wrapped(model.ForwardTunnel).at(node2)
	for _, test := range []struct {
		from  model.NodeID
		outer string
		want  bool
	}{{node1, "172.20.0.1", true}, {node1, "172.20.0.3", false}, {9, "172.20.0.1", false}, {node1, "::", false}} {
		if got := n.Believes(test.from, netip.MustParseAddr(test.outer)); got != test.want {
			t.Errorf("node %d from %s: %t, want %t", test.from, test.outer, got, test.want)
		}
	}
}

// Trap 37: what nodes wrap no pod may send; VXLAN of its own it may.
func TestPodsWrapNothingForNodes(t *testing.T) {
	n := wrapped(model.ForwardTunnel).at(node1)
	around := n.Surroundings
	around.TunnelPort, around.TunnelVNI = 8475, 7
	n = n.In(around)
	p := Packet{Protocol: model.UDP, Source: netip.MustParseAddrPort("10.244.0.3:5000"), Destination: netip.MustParseAddrPort("172.20.0.2:8475")}
	for _, test := range []struct {
		vni       uint32
		cut       bool
		complaint string
	}{{7, false, "want drop (foreign_tunnel)"}, {8, false, ""}, {0, false, ""}, {0, true, "want drop (foreign_tunnel)"}} {
		p.VNI, p.Cut = test.vni, test.cut
		judges(t, "a pod's", NewFlows().ComesIn(n, PodPacket, p, sent(p.Source, p.Destination), 0), test.complaint)
	}
	p.Source, p.VNI = client, 7
	judges(t, "a node's", NewFlows().ComesIn(n, UplinkPacket, p, sent(p.Source, p.Destination), 0), "")
}

func TestWrapTakesAHop(t *testing.T) {
	for _, source := range []string{"192.0.2.7:40000", "[2001:db8::7]:40000"} {
		destination := netip.MustParseAddrPort(map[bool]string{true: "203.0.113.1:80", false: "[2001:db8:113::1]:80"}[source[0] != '['])
		frame := FirstPacket(model.TCP, netip.MustParseAddrPort(source), destination)
		p, _ := Parse(frame)
		out := toServer.Wrap(frame)
		after, _ := Parse(out)
		if w, ok := Wrapped(out); !ok || w != (Wrapping{From: node1, Backend: 109}) || after.Hops != p.Hops-1 {
			t.Errorf("%s: %+v, %d hops", source, w, after.Hops)
		}
		if ip := out[ethernetBytes : ethernetBytes+ipv4Bytes]; p.Source.Addr().Is4() && Checksum(ip) != 0 {
			t.Errorf("%s: the checksum is wrong", source)
		}
		if back := (Wrapping{From: node2, To: node1}).Wrap(frame); !bytes.Equal(back[ethernetBytes:], frame[ethernetBytes:]) {
			t.Errorf("%s: an answer was changed", source)
		}
	}
}
