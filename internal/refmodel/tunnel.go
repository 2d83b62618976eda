// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// A client's packet for a backend on another node travels as it came, wrapped, so that the backend's node sees whom it is
// from and which Service it is for. The node that the client reached remembers one entry, which says where to:
//
//	in   client:p → Service:s   goes wrapped for the backend's node
//
// and the backend's node two, as for any flow; the last says by which node answers go back:
//
//	in   client:p → Service:s   becomes  client:c → backend:b
//	out  backend:b → client:c   becomes  Service:s → client:p, wrapped for the node that the client reached
//
// Answers leave the latter as they are, and it remembers nothing about them.

// amid checks a segment of no known connection. Where clients' packets go wrapped it may be of one that the client had by
// another node, before the network moved it to this one: then it goes to the backend that a new connection would, and
// whether there is such a connection the backend's node knows. What this node would see to itself isn't known here.
func (f *Flows) amid(n *Node, via Via, p Packet, d Decision, did Outcome, now uint32) error {
	if !n.Tunnel || n.Number == 0 || via != UplinkPacket || !forwards(*d.Frontend) {
		return refused(p, model.ReasonNoFlow, did)
	}
	f.narrow(n, via, p, &d, now)
	there := func(b model.Backend) bool { return n.Reach(Dialler{via, p.Source.Addr()}, d, b).Wraps() }
	stays := slices.ContainsFunc(d.Candidates, func(b model.Backend) bool { return !there(b) })
	if d.Verdict == Forward && !p.LengthsLie && p.RST { // nothing begins with it
		i := slices.IndexFunc(d.Candidates, func(b model.Backend) bool {
			return there(b) && (b.ID == did.Wrapped.Backend || did.Told.Reason == model.ReasonNoWay)
		})
		if i >= 0 {
			did.Wrapped.To = d.Candidates[i].Node // of what isn't remembered nobody tells
			return n.goesWrapped(p, tupleOf(p), Wrapping{From: n.Number, To: did.Wrapped.To, Backend: d.Candidates[i].ID}, did)
		}
	}
	if d.Verdict == Forward && !p.LengthsLie && stays && did.Wrapped.Backend == 0 { // the choice is the kernel's
		return refused(p, model.ReasonNoFlow, did)
	}
	return f.first(n, via, p, d, false, did, now)
}

// steer begins what goes wrapped to a backend on another node.
func (f *Flows) steer(n *Node, p Packet, b model.Backend, root model.SetID, did Outcome, now uint32) error {
	e := &entry{
		to: AddrPort(b), at: AddrPort(b), otherPort: p.Source.Port(), backend: b.ID, root: root, forward: true,
		sequence: p.Sequence, seen: now, way: wayWrap, node: b.Node,
	}
	k := key{tupleOf(p), false}
	f.entries[k] = e
	f.note(p, k, e)
	e.acknowledged = 0 // of a connection only the next packet tells
	return f.steered(n, p, e, did)
}

// steered checks a client's packet that goes to the node that its entry says.
func (f *Flows) steered(n *Node, p Packet, e *entry, did Outcome) error {
	return n.goesWrapped(p, tupleOf(p), Wrapping{From: n.Number, To: e.node, Backend: e.backend}, did)
}

// goesWrapped checks a packet that is sent on wrapped. A client's takes a hop by that, as forwarding does.
func (n *Node) goesWrapped(p Packet, t tuple, w Wrapping, did Outcome) error {
	switch {
	case !n.reaches(w.To):
		return dropped(p, model.ReasonNoWay, did)
	case w.Backend != 0 && p.Hops <= 1: // routers say so of any packet, a RST too (RFC 1812 4.3.2.7)
		if did.Verdict == Forward || did.Verdict == Reject && !oneHost(p.Source.Addr()) {
			return fmt.Errorf("%s: %s, want reject (%s)", p, did, model.ReasonNoWay)
		}
		return told(p, model.ReasonNoWay, did)
	}
	want := Outcome{Verdict: Forward, Source: t.source, Destination: t.destination, Wrapped: w}
	if did != want {
		return fmt.Errorf("%s: want %s, got %s", p, want, did)
	}
	return nil
}

// comesBy notes how a client's packets reach the backend's node: so its answers go back.
func (f *Flows) comesBy(k key, e *entry, w way, from model.NodeID) {
	e.way, e.node = w, from
	if half := f.other(k, e); half != nil {
		half.answers(e)
	}
}

// ComesUnwrapped checks what became of a packet that came wrapped, from an outer address that is not valid if it was in
// others' network: a client's for a backend, or an answer.
func (f *Flows) ComesUnwrapped(n *Node, w Wrapping, outer netip.Addr, p Packet, did Outcome, now uint32) error {
	switch {
	case !n.Believes(w.From, outer) || w.From == n.Number || p.Fault != model.ReasonNone || p.Later: // such no node wraps
		return dropped(p, model.ReasonForeignTunnel, did)
	case w.Backend == 0:
		return f.answerUnwrapped(n, w, p, did)
	}
	return f.clientsUnwrapped(n, w, p, did, now)
}

// forged says whether a pod sends what only nodes may wrap. Given the node's address on its way out, as some network plugins
// do, it would be believed by the other node.
func (n *Node) forged(via Via, p Packet) bool {
	return p.Protocol == model.UDP && p.Destination.Port() == n.TunnelPort && (p.Cut || p.VNI == n.TunnelVNI) &&
		n.mayForge(p.Source.Addr(), via == PodPacket)
}

// mayForge says whether there is something to forge, and a pod sends it.
func (n *Node) mayForge(source netip.Addr, atPod bool) bool {
	return n.TunnelPort != 0 && (atPod || n.network(source) == model.NetworkPods)
}

// clientsUnwrapped checks what became of a client's packet that another node has wrapped for a backend of this one.
//
//   - A known flow goes on as one that came by itself would; its answers take the way that its last packet took.
//   - What this node had itself steered elsewhere only a SYN begins again: two nodes that disagree mustn't pass a packet
//     to and fro.
//   - The backend was chosen where the client came in. One that doesn't serve here, since only one of the nodes knows it,
//     or is gone, leaves the choice to this node, as if the client had come to it: what goes on to a third node then has
//     this one's address. Where this node has no backend either the packet is dropped, so that the client's next one finds
//     tables that agree.
//   - Segments of no connection are answered by a RST, which goes back the way they came.
func (f *Flows) clientsUnwrapped(n *Node, w Wrapping, p Packet, did Outcome, now uint32) error {
	k := key{tupleOf(p), false}
	e := f.entries[k]
	frontend, found := n.findWrapped(p.Protocol, p.Destination)
	switch {
	case e != nil && e.way == wayWrap:
		if p.Protocol == model.TCP && !p.SYN {
			return refusedBack(n, w, p, model.ReasonNoFlow, did)
		}
		f.end(k, e)
	case e != nil && !e.forward: // an answer to this node itself
		return dropped(p, model.ReasonForeignTunnel, did)
	case e != nil:
		switch f.standing(n, p, k, e, n.findWrapped, now) {
		case stands:
			f.note(p, k, e)
			inside := n.Inside(Dialler{UplinkPacket, p.Source.Addr()}) // whose packets no node wraps
			if found && !inside && (e.way == wayHere || e.node != w.From) {
				f.comesBack(k, e, w, frontend)
			}
			return f.goesOn(n, UplinkPacket, p, e.exchanged(k), did, now)
		case isGone:
			f.end(k, e)
			return refusedBack(n, w, p, model.ReasonBackendGone, did)
		}
		f.end(k, e)
	}
	switch {
	case !found:
		return dropped(p, model.ReasonStaleTables, did)
	case p.Protocol == model.TCP && !p.SYN:
		return refusedBack(n, w, p, model.ReasonNoFlow, did)
	case p.LengthsLie:
		return dropped(p, model.ReasonMalformed, did)
	case n.Inside(Dialler{UplinkPacket, p.Source.Addr()}):
		return dropped(p, model.ReasonForeignTunnel, did)
	}
	b, serves := n.serving(w.Backend, frontend)
	masquerade := false
	if !serves {
		d := n.serve(Dialler{UplinkPacket, p.Source.Addr()}, frontend)
		f.narrow(n, UplinkPacket, p, &d, now)
		if d.Verdict != Forward {
			return dropped(p, model.ReasonStaleTables, did)
		}
		var err error
		if b, err = f.picked(p, d, did, now); err != nil {
			return err
		}
		masquerade = !d.KeepsAddress && b.Node != n.Number
	}
	if did.Verdict != Forward || did.Wrapped != (Wrapping{}) || did.Destination != AddrPort(b) || did.Source.Addr() != p.Source.Addr() {
		return fmt.Errorf("%s, wrapped for backend %d: %s, want forward to %s with the client's address", p, w.Backend, did, AddrPort(b))
	}
	e = &entry{
		to: AddrPort(b), at: AddrPort(b), backend: b.ID, root: frontend.Set, forward: true, masquerade: masquerade,
		sequence: p.Sequence, seen: now,
	}
	if err := f.begin(k, e, did); err != nil {
		return err
	}
	f.comesBack(k, e, w, frontend)
	return nil
}

// comesBack notes the way of answers, which in mode dsr is the node's own.
func (f *Flows) comesBack(k key, e *entry, w Wrapping, frontend model.Frontend) {
	back := wayVia
	if modeOf(frontend) == ModeDSR {
		back = wayDirect
	}
	f.comesBy(k, e, back, w.From)
}

// refusedBack is refused, with an answer that goes back wrapped.
func refusedBack(n *Node, w Wrapping, p Packet, reason model.DropReason, did Outcome) error {
	if back := (Wrapping{From: n.Number, To: w.From}); did.Verdict == Reject && did.Wrapped != back {
		return fmt.Errorf("%s: answered, %s, want the answer wrapped for node %d", p, did, w.From)
	}
	return refused(p, reason, did)
}

// answerUnwrapped checks what became of an answer that a backend's node has wrapped for the client of this one: it leaves as
// it is, if it is a Service's, or was when the connection began. The backend's RST ends that here too.
func (f *Flows) answerUnwrapped(n *Node, w Wrapping, p Packet, did Outcome) error {
	e := f.entries[key{tuple{p.Protocol, p.Destination, p.Source}, false}]
	steered := e != nil && e.way == wayWrap && e.node == w.From
	if from, found := n.find(UplinkPacket, p.Protocol, p.Source); (!found || from.Set == 0) && !steered {
		return dropped(p, model.ReasonForeignTunnel, did)
	}
	if steered && p.RST {
		e.reset = true
	}
	if p.Hops <= 1 { // a router's word about it would come to the Service's address, which is this node's
		return dropped(p, model.ReasonNoWay, did)
	}
	return untouched(p, did)
}

// What stands in place of the Ethernet addresses of a wrapped packet: numbers of 32 bits behind 02:de.
const numberedBy = 0x02de

// Wrap returns a frame as it goes wrapped: with numbers in place of Ethernet addresses, and one hop less if it was forwarded
// (RFC 1812 5.3.1; RFC 8200 3): an answer the stack has forwarded already.
func (w Wrapping) Wrap(frame []byte) []byte {
	out := slices.Clone(frame)
	if w.Backend != 0 {
		out = OneHopLess(out)
	}
	binary.BigEndian.PutUint16(out, numberedBy)
	binary.BigEndian.PutUint32(out[2:], uint32(w.Backend))
	binary.BigEndian.PutUint16(out[6:], numberedBy)
	binary.BigEndian.PutUint32(out[8:], uint32(w.From))
	return out
}

// Wrapped reads the numbers of a wrapped packet. To is not among them.
func Wrapped(frame []byte) (Wrapping, bool) {
	if len(frame) < ethernetBytes || binary.BigEndian.Uint16(frame) != numberedBy || binary.BigEndian.Uint16(frame[6:]) != numberedBy {
		return Wrapping{}, false
	}
	return Wrapping{
		Backend: model.BackendID(binary.BigEndian.Uint32(frame[2:])), From: model.NodeID(binary.BigEndian.Uint32(frame[8:])),
	}, true
}

// OneHopLess returns a frame as a router lets it leave.
func OneHopLess(frame []byte) []byte {
	out := slices.Clone(frame)
	ip := out[ethernetBytes:]
	if ip[0]>>4 == 6 {
		ip[7]--
		return out
	}
	before := []byte{ip[8], ip[9]}
	ip[8]--
	binary.BigEndian.PutUint16(ip[10:], adjusted(binary.BigEndian.Uint16(ip[10:]), before, ip[8:10]))
	return out
}
