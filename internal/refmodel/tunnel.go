// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"fmt"
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

// goesOnElsewhere says whether a segment of no known connection goes wrapped to a backend on another node: it may be of one
// that the client had by another node before the network moved it to this one. Whether there is such a connection the
// backend's node knows. The choice among d's candidates is the kernel's.
func (n *Node) goesOnElsewhere(via Via, p Packet, d Decision, did Outcome) bool {
	stays := slices.ContainsFunc(d.Candidates, func(b model.Backend) bool { return !n.Reach(Dialler{via, p.Source.Addr()}, d, b).Wraps() })
	return len(d.Candidates) > 0 && (!stays || did.Wrapped.Backend != 0)
}

// steer begins what goes wrapped to a backend on another node.
func (f *Flows) steer(n *Node, p Packet, b model.Backend, root model.SetID, did Outcome, now uint32) error {
	e := &entry{
		to: AddrPort(b), at: AddrPort(b), otherPort: p.Source.Port(), backend: b.ID, root: root, forward: true,
		sequence: p.Sequence, seen: now, way: wayWrap, node: b.Node,
	}
	f.entries[key{tupleOf(p), false}] = e
	return f.steered(n, p, e, did)
}

// steered checks a client's packet that goes to the node that its entry says.
func (f *Flows) steered(n *Node, p Packet, e *entry, did Outcome) error {
	return goesWrapped(p, tupleOf(p), Wrapping{From: n.Number, To: e.node, Backend: e.backend}, did)
}

func goesWrapped(p Packet, t tuple, w Wrapping, did Outcome) error {
	want := Outcome{Verdict: Forward, Source: t.source, Destination: t.destination, Wrapped: w}
	if did != want {
		return fmt.Errorf("%s: want %s, got %s", p, want, did)
	}
	return nil
}

// comesBy notes how a client's packets reach the backend's node: so its answers go back.
func (f *Flows) comesBy(k key, e *entry, w way, from model.NodeID) {
	half := f.other(k, e)
	if half == nil || e.way == w && e.node == from {
		return
	}
	e.way, e.node = w, from
	half.way, half.node = w, from
	if w == wayVia {
		half.way = wayWrap
	}
}

// ComesUnwrapped checks what became of a client's packet that another node has wrapped for a backend of this one.
//
//   - What isn't from a node's own address is dropped, see Believes.
//   - A known flow goes on as one that came by itself would; its answers take the way that its last packet took.
//   - What this node had itself steered elsewhere only a SYN begins again: two nodes that disagree mustn't pass a packet
//     to and fro.
//   - The backend was chosen where the client came in, and must serve here: else the packet is dropped, so that the
//     client's next one finds tables that agree.
//   - Segments of no connection are answered by a RST, which goes back the way they came.
func (f *Flows) ComesUnwrapped(n *Node, w Wrapping, p Packet, did Outcome, now uint32) error {
	k := key{tupleOf(p), false}
	e := f.entries[k]
	frontend, found := n.findWrapped(p.Protocol, p.Destination)
	switch {
	case e != nil && p.Fault != model.ReasonNone:
		return dropped(p, p.Fault, did)
	case e != nil && e.way == wayWrap:
		if p.Protocol == model.TCP && !p.SYN {
			return refusedBack(n, w, p, model.ReasonNoFlow, did)
		}
		f.end(k, e)
	case e != nil && e.forward:
		switch f.standing(n, p, k, e, now) {
		case stands:
			f.note(p, k, e)
			f.comesBack(k, e, w, frontend)
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
	case p.Fault != model.ReasonNone:
		return dropped(p, p.Fault, did)
	case p.Protocol == model.TCP && !p.SYN:
		return refusedBack(n, w, p, model.ReasonNoFlow, did)
	case p.LengthsLie:
		return dropped(p, model.ReasonMalformed, did)
	}
	b, serves := n.serving(w.Backend, frontend)
	switch {
	case !serves:
		return dropped(p, model.ReasonStaleTables, did)
	case did.Verdict != Forward || did.Wrapped != Wrapping{} || did.Destination != AddrPort(b) || did.Source.Addr() != p.Source.Addr():
		return fmt.Errorf("%s, wrapped for backend %d: %s, want forward to %s with the client's address", p, w.Backend, did, AddrPort(b))
	}
	e = &entry{to: AddrPort(b), at: AddrPort(b), backend: b.ID, root: frontend.Set, forward: true, sequence: p.Sequence, seen: now}
	if err := f.begin(k, e, did); err != nil {
		return err
	}
	f.comesBack(k, e, w, frontend)
	return nil
}

// comesBack notes the way of answers, which in mode dsr is the node's own.
func (f *Flows) comesBack(k key, e *entry, w Wrapping, frontend model.Frontend) {
	if modeOf(frontend) == ModeDSR {
		f.comesBy(k, e, wayHere, 0)
		return
	}
	f.comesBy(k, e, wayVia, w.From)
}

// refusedBack is refused, with an answer that goes back wrapped.
func refusedBack(n *Node, w Wrapping, p Packet, reason model.DropReason, did Outcome) error {
	if back := (Wrapping{From: n.Number, To: w.From}); did.Verdict == Reject && did.Wrapped != back {
		return fmt.Errorf("%s: answered, %s, want the answer wrapped for node %d", p, did, w.From)
	}
	return refused(p, reason, did)
}

// AnswerUnwrapped checks what became of an answer that a backend's node has wrapped for the client of this one: it leaves as
// it is, if it is a Service's.
func (n *Node) AnswerUnwrapped(p Packet, did Outcome) error {
	if _, found := n.find(UplinkPacket, p.Protocol, p.Source); !found {
		return dropped(p, model.ReasonForeignTunnel, did)
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

// Hops are those that a frame's packet may still take.
func (p Packet) Hops(frame []byte) byte {
	if p.Source.Addr().Is6() {
		return frame[ethernetBytes+7]
	}
	return frame[ethernetBytes+8]
}
