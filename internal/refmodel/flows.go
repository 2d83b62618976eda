// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Outcome is what was seen to become of a packet.
type Outcome struct {
	Verdict Verdict
	// Source and Destination are the packet's when it went on, the same as before if it wasn't translated.
	Source, Destination netip.AddrPort
}

// Flows is what the per-packet path of one node remembers. Its methods take what the kernel did with a packet, check
// that it was right to, and remember what it chose. A full table, which forgets what it likes, is not modelled.
//
// A flow has two directions, since each may be forgotten for itself:
//
//	forward  client:p → Service   becomes  client:c → backend      (c is p unless that would be ambiguous)
//	reverse  backend  → client:c  becomes  Service  → client:p
type Flows struct {
	forward map[tuple]*flow
	reverse map[tuple]*flow
}

// NewFlows returns a memory with nothing in it.
func NewFlows() *Flows {
	return &Flows{forward: map[tuple]*flow{}, reverse: map[tuple]*flow{}}
}

// tuple is a packet as it arrives.
type tuple struct {
	protocol            model.Protocol
	source, destination netip.AddrPort
}

// flow is one direction: what the packet's addresses become.
type flow struct {
	source, destination netip.AddrPort
	backend             model.BackendID
	sequence            uint32 // of the SYN that began it
	closing             bool   // a FIN or RST was seen in this direction
}

func tupleOf(p Packet) tuple { return tuple{p.Protocol, p.Source, p.Destination} }

// FromPod checks what became of a packet that a pod sent.
func (f *Flows) FromPod(n *Node, p Packet, did Outcome) error {
	d := n.NewPacket(p)
	if known := f.forward[tupleOf(p)]; known != nil && p.Fault == model.ReasonNone && f.goesOn(n, p, known) {
		if p.Protocol != model.UDP || f.hasAnswers(p, known) {
			known.noteEnd(p)
			return translated(p, known, did)
		}
		// It begins again with the same backend.
		if d.Frontend != nil && !p.LengthsLie {
			backend, _ := n.backend(known.backend)
			d.Verdict, d.Reason, d.Candidates = Forward, model.ReasonNone, []model.Backend{backend}
		}
	}
	if d.Frontend == nil {
		f.dialsDirectly(p)
		return untouched(p, did)
	}
	return f.begin(p, d, did)
}

// ToPod checks what became of a packet that goes to a pod: an answer of a backend gets the Service's address.
func (f *Flows) ToPod(p Packet, did Outcome) error {
	known := f.reverse[tupleOf(p)]
	if known == nil || p.Fault != model.ReasonNone {
		return untouched(p, did)
	}
	known.noteEnd(p)
	return translated(p, known, did)
}

// goesOn says whether a packet of a known flow stays with its backend.
//
//   - TCP, not a SYN: always. A connection can't move, and to a backend that terminates it must go on (KEP-1669,
//     ProxyTerminatingEndpoints; kube-proxy leaves TCP conntrack entries alone).
//   - A SYN that is sent again, with the same sequence number, stays, so that the backend sees one connection (RFC
//     9293 3.8.1); one with another number is a new connection from a port that is used again, whatever state the old
//     one was in (RFC 9293 3.6.1; Linux's tcp_conntracks table, sIV for SYN in TIME_WAIT).
//   - A SYN that is sent again, a datagram, an SCTP packet: stays while the backend is one of the Service's
//     (kube-proxy's conntrack cleanup of UDP, pkg/proxy/conntrack/cleanup.go, which looks at the flow's Service IP
//     and at that Service's endpoints, terminating ones too).
func (f *Flows) goesOn(n *Node, p Packet, known *flow) bool {
	if p.Protocol == model.TCP && !p.SYN {
		return true
	}
	if p.SYN && p.Sequence != known.sequence {
		return false
	}
	backend, lives := n.backend(known.backend)
	frontend, dialled := n.find(PodPacket, p.Protocol, p.Destination)
	return lives && AddrPort(backend) == known.destination && (!dialled || frontend.Set == backend.Set)
}

// NewPacket decides about the first packet of a flow from a pod. Besides what Decide says:
//
//   - A frontend's packet that can't be translated is dropped, not let through to where no one is.
//   - One whose lengths lie is malformed. (Linux's ip_rcv_core and ipv6_rcv drop it too.)
func (n *Node) NewPacket(p Packet) Decision {
	d := n.Decide(Dialler{PodPacket, p.Source.Addr()}, p.Protocol, p.Destination)
	switch {
	case d.Frontend == nil:
	case p.Fault != model.ReasonNone:
		d.Verdict, d.Reason, d.Candidates = Drop, p.Fault, nil
	case p.LengthsLie:
		d.Verdict, d.Reason, d.Candidates = Drop, model.ReasonMalformed, nil
	case d.Verdict == Reject && (p.RST || !oneHost(p.Source.Addr())):
		d.Verdict = Drop
	}
	return d
}

// KeepPorts leaves out what can't be translated per packet yet: SCTP to another port than was dialled, since that needs
// the CRC over the whole packet again (RFC 9260 6.8). With nothing left the packet is dropped.
func (d *Decision) KeepPorts() {
	if d.Verdict != Forward || d.Frontend == nil || d.Frontend.Protocol != model.SCTP {
		return
	}
	d.Candidates = slices.DeleteFunc(d.Candidates, func(b model.Backend) bool { return b.Port != d.Frontend.Port })
	if len(d.Candidates) == 0 {
		d.Verdict, d.Reason = Drop, model.ReasonUnsupported
	}
}

// oneHost says that an answer to the address reaches one host. A RST is never answered, nor is a packet from a group,
// broadcast or nobody's address (RFC 9293 3.10.7.1; RFC 1122 3.2.2, RFC 4443 2.4 e).
func oneHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !(a.Is4() && a.As4()[0] >= 224)
}

// begin checks the first packet of a new flow, and remembers it.
func (f *Flows) begin(p Packet, d Decision, did Outcome) error {
	if d.Verdict != Forward {
		if did.Verdict != d.Verdict && !(d.Verdict == Reject && did.Verdict == Drop) { // answers are limited in rate
			return fmt.Errorf("%s: want %s (%s), got %s", p, d.Verdict, d.Reason, did.Verdict)
		}
		return nil
	}
	if p.Protocol == model.SCTP && did.Verdict == Drop {
		return f.sctpDrop(p, d)
	}
	if did.Verdict != Forward {
		return fmt.Errorf("%s: want forward to one of %v, got %s", p, d.Candidates, did.Verdict)
	}
	return f.chose(p, d, did)
}

// sctpDrop allows the drop of an SCTP packet whose ports would change, and with them its CRC over the whole packet
// (RFC 9260 6.8), which isn't worked out yet: because a backend serves on another port, or the client's port is taken.
// No flow is begun; one whose place it would have taken is over.
func (f *Flows) sctpDrop(p Packet, d Decision) error {
	if old := f.forward[tupleOf(p)]; old != nil {
		f.forgetAnswers(p, old)
	}
	legal := false
	for _, b := range d.Candidates {
		legal = legal || b.Port != p.Destination.Port() || f.taken(p, &flow{source: p.Source, destination: AddrPort(b)})
	}
	if !legal {
		return fmt.Errorf("%s: dropped, though no backend of %v asks for other ports", p, d.Candidates)
	}
	return nil
}

func (f *Flows) chose(p Packet, d Decision, did Outcome) error {
	backend, legal := candidate(d, did.Destination)
	switch {
	case !legal:
		return fmt.Errorf("%s: sent to %s, want one of %v", p, did.Destination, d.Candidates)
	case did.Source.Addr() != p.Source.Addr():
		return fmt.Errorf("%s: the source became %s, want the client's address kept", p, did.Source)
	}
	if old := f.forward[tupleOf(p)]; old != nil {
		f.forgetAnswers(p, old)
	}
	now := &flow{source: did.Source, destination: did.Destination, backend: backend.ID, sequence: p.Sequence}
	if err := f.mayUsePort(p, now); err != nil {
		return err
	}
	f.forward[tupleOf(p)] = now
	f.reverse[replies(p.Protocol, now)] = &flow{source: p.Destination, destination: p.Source, backend: backend.ID, sequence: p.Sequence}
	return nil
}

// forgetAnswers forgets the answers to a flow that another takes the place of, unless they are another's by now.
func (f *Flows) forgetAnswers(p Packet, old *flow) {
	if f.hasAnswers(p, old) {
		delete(f.reverse, replies(p.Protocol, old))
	}
}

// mayUsePort checks the client's port as the backend sees it. Two living flows whose answers look the same can't be
// told apart, so the later one gets another port (Linux's nf_nat_used_tuple); without need the port stays (RFC 4787
// REQ-3, and what servers log).
func (f *Flows) mayUsePort(p Packet, now *flow) error {
	own := *now
	own.source = p.Source
	conflict := f.taken(p, &own)
	switch kept := now.source == p.Source; {
	case kept && conflict:
		return fmt.Errorf("%s: the client's port is kept, but %s already answers another flow there", p, now.destination)
	case !kept && !conflict:
		return fmt.Errorf("%s: the client's port became %d without need", p, now.source.Port())
	case !kept && f.taken(p, now):
		return fmt.Errorf("%s: the client's port became %d, which is taken too", p, now.source.Port())
	case !kept && now.source.Port() < 1024:
		return fmt.Errorf("%s: the client's port became %d, which only privileged clients may have", p, now.source.Port())
	}
	return nil
}

// taken says that another living flow's answers look like now's. A flow lives while both of its directions are known
// and neither has seen an end.
func (f *Flows) taken(p Packet, now *flow) bool {
	key := replies(p.Protocol, now)
	theirs := f.reverse[key]
	if theirs == nil || theirs.source == p.Destination && theirs.destination == p.Source {
		return false
	}
	forward := f.forward[tuple{p.Protocol, theirs.destination, theirs.source}]
	return forward != nil && replies(p.Protocol, forward) == key && !forward.closing && !theirs.closing
}

// hasAnswers says whether the answers to the flow of p are known as such, and not as another's.
func (f *Flows) hasAnswers(p Packet, flow *flow) bool {
	r := f.reverse[replies(p.Protocol, flow)]
	return r != nil && r.source == p.Destination && r.destination == p.Source
}

// dialsDirectly forgets whose answers came to a port from which a pod now dials the backend itself: the answers are
// to that connection from here on. Of datagrams each may be the first: whom a port asked last is who answers it.
func (f *Flows) dialsDirectly(p Packet) {
	if (p.SYN || p.Protocol == model.UDP) && p.Fault == model.ReasonNone {
		delete(f.reverse, tuple{p.Protocol, p.Destination, p.Source})
	}
}

func (w *flow) noteEnd(p Packet) { w.closing = w.closing || p.FIN || p.RST }

// replies is what a backend's answers look like when they arrive.
func replies(protocol model.Protocol, forward *flow) tuple {
	return tuple{protocol, forward.destination, forward.source}
}

func candidate(d Decision, chosen netip.AddrPort) (model.Backend, bool) {
	for _, b := range d.Candidates {
		if AddrPort(b) == chosen {
			return b, true
		}
	}
	return model.Backend{}, false
}

func untouched(p Packet, did Outcome) error {
	if did.Verdict != Forward || did.Source != p.Source || did.Destination != p.Destination {
		return fmt.Errorf("%s: want it untouched, got %s", p, did)
	}
	return nil
}

func translated(p Packet, w *flow, did Outcome) error {
	want := Outcome{Verdict: Forward, Source: w.source, Destination: w.destination}
	if p.Protocol == model.SCTP && (w.source.Port() != p.Source.Port() || w.destination.Port() != p.Destination.Port()) {
		want = Outcome{Verdict: Drop} // see sctpDrop
	}
	if did.Verdict != want.Verdict || did.Verdict == Forward && did != want {
		return fmt.Errorf("%s: of a known flow, want %s, got %s", p, want, did)
	}
	return nil
}

// String returns the packet in one line, for messages.
func (p Packet) String() string {
	words := []string{fmt.Sprintf("%s %s → %s", p.Protocol, p.Source, p.Destination)}
	for _, f := range []struct {
		set  bool
		word string
	}{
		{p.SYN, fmt.Sprintf("SYN %d", p.Sequence)},
		{p.FIN, "FIN"},
		{p.RST, "RST"},
		{p.Fault != model.ReasonNone, p.Fault.String()},
		{p.LengthsLie, "lengths lie"},
	} {
		if f.set {
			words = append(words, f.word)
		}
	}
	return strings.Join(words, " ")
}

// String returns the outcome in one line, for messages.
func (o Outcome) String() string {
	if o.Verdict != Forward {
		return o.Verdict.String()
	}
	return fmt.Sprintf("forward as %s → %s", o.Source, o.Destination)
}
