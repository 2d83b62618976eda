// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
)

// ComesIn checks what became of a packet that came in from a pod or by an uplink, at now seconds. Policies judge what pods
// send once it is known where that goes, and before anything is remembered of it.
func (f *Flows) ComesIn(n *Node, via Via, p Packet, did Outcome, now uint32) error {
	err := f.comesIn(n, via, p, did, now)
	if err == nil && via == PodPacket && did.Verdict == Reject {
		f.Connections.expect(n, tupleOf(p).end(true), false)
	}
	return err
}

func (f *Flows) comesIn(n *Node, via Via, p Packet, did Outcome, now uint32) error {
	if n.forged(via, p) {
		return dropped(p, model.ReasonForeignTunnel, did)
	}
	k := key{tupleOf(p), false}
	e := f.entries[k]
	if e == nil {
		return f.unknown(n, via, p, did, now)
	}
	if p.Fault != model.ReasonNone {
		return dropped(p, p.Fault, did)
	}
	if !e.forward {
		e.seen = now
		f.note(p, k, e)
		return f.goesOn(n, via, p, e.exchanged(k), did, now)
	}
	switch f.standing(n, p, k, e, n.findHere, now) {
	case stands:
		f.note(p, k, e)
		if via == UplinkPacket && e.way == wayWrap {
			return f.steered(n, p, e, did)
		}
		if via == UplinkPacket && e.way != wayHere {
			f.comesBy(k, e, wayHere, 0)
		}
		return f.goesOn(n, via, p, e.exchanged(k), did, now)
	case isGone:
		f.end(k, e)
		return refused(p, model.ReasonBackendGone, did)
	}
	f.end(k, e)
	if e.moved {
		return f.moveAgain(n, via, p, e.root, did, now)
	}
	return f.unknown(n, via, p, did, now)
}

// goesOn checks a packet that comes in and is to become a tuple, if policies let it.
func (f *Flows) goesOn(n *Node, via Via, p Packet, t tuple, did Outcome, now uint32) error {
	if via == PodPacket {
		s := sightOf(p)
		if r := f.Connections.judge(n, s, t.end(true), true, now); r.Reason != model.ReasonNone {
			return f.denied(s, r, t, did)
		}
	}
	if t == tupleOf(p) {
		return untouched(p, did)
	}
	return translated(p, t, did)
}

// unknown checks the first packet of something.
//
//   - A frontend's packet that can't be translated is dropped, not let through to where no one is.
//   - Only a SYN begins a connection; other segments of one that isn't known are answered by a RST (RFC 9293 3.10.7.1,
//     "if the connection does not exist"), or the client would wait for what no one knows of.
//   - One whose lengths lie is malformed. (Linux's ip_rcv_core and ipv6_rcv drop it too.)
func (f *Flows) unknown(n *Node, via Via, p Packet, did Outcome, now uint32) error {
	d := n.Decide(Dialler{via, p.Source.Addr()}, p.Protocol, p.Destination)
	switch {
	case d.Verdict == Forward && d.Frontend == nil:
		f.dialsDirectly(p, now)
		return f.goesOn(n, via, p, tupleOf(p), did, now)
	case p.Fault != model.ReasonNone:
		return dropped(p, p.Fault, did)
	case p.Protocol == model.TCP && !p.SYN && d.Root != nil:
		return f.amid(n, via, p, d, did, now)
	}
	return f.first(n, via, p, d, false, did, now)
}

// moveAgain gives another backend to a socket that knows its Service by a backend's address alone.
func (f *Flows) moveAgain(n *Node, via Via, p Packet, root model.SetID, did Outcome, now uint32) error {
	set, there := n.set(root)
	if !there {
		return dropped(p, model.ReasonStaleTables, did)
	}
	d := Decision{Frontend: &model.Frontend{Set: root, Kind: model.FrontendClusterIP}, Root: &set, Set: &set}
	if len(n.members(root)) == 0 {
		d = d.stop(Reject, model.ReasonNoBackend)
	} else {
		d = n.choose(d, n.hinted(set), model.ReasonStaleTables)
	}
	return f.first(n, via, p, d, true, did, now)
}

// first checks the packet that begins a flow, and remembers it.
func (f *Flows) first(n *Node, via Via, p Packet, d Decision, moved bool, did Outcome, now uint32) error {
	if p.LengthsLie {
		return dropped(p, model.ReasonMalformed, did)
	}
	f.narrow(n, via, p, &d, now)
	switch d.Verdict {
	case Drop:
		return dropped(p, d.Reason, did)
	case Reject:
		return refused(p, d.Reason, did)
	}
	backend, err := f.picked(p, d, did, now)
	if err != nil {
		return err
	}
	var r Ruling
	s := sightOf(p)
	if to := (tuple{p.Protocol, p.Source, AddrPort(backend)}); via == PodPacket {
		if r = f.Connections.begins(n, s, to.end(true), model.Egress); r.Reason != model.ReasonNone {
			return f.denied(s, r, to, did)
		}
	}
	if w := n.Reach(Dialler{via, p.Source.Addr()}, d, backend); w.Wraps() {
		return f.steer(n, p, backend, d.Root.ID, did, now)
	}
	switch {
	case did.Verdict != Forward || did.Wrapped != Wrapping{}:
		return fmt.Errorf("%s: %s, want forward to %s", p, did, AddrPort(backend))
	case did.Source.Addr() != p.Source.Addr():
		return fmt.Errorf("%s: the source became %s, want the client's address kept where it comes in", p, did.Source)
	}
	e := &entry{
		to: AddrPort(backend), at: AddrPort(backend), backend: backend.ID, root: d.Root.ID, forward: true, moved: moved,
		masquerade: n.marks(Dialler{via, p.Source.Addr()}, d, backend), sequence: p.Sequence, seen: now,
	}
	if err := f.begin(key{tupleOf(p), false}, e, did); err != nil || via != PodPacket {
		return err
	}
	f.Connections.remember(n, s, End{p.Protocol, did.Source, AddrPort(backend)}, r, true, now)
	return nil
}

// narrow leaves of a decision's candidates those that a client may be given: what it had, or what all nodes pick.
func (f *Flows) narrow(n *Node, via Via, p Packet, d *Decision, now uint32) {
	f.Affinities.Narrow(n, d, AffinityKey{Client: p.Source.Addr()}, now)
	n.steady(Dialler{via, p.Source.Addr()}, p, d)
}

// picked returns the backend that a packet was given, and remembers it for the client.
func (f *Flows) picked(p Packet, d Decision, did Outcome, now uint32) (model.Backend, error) {
	backend, legal := did.chosenOf(d)
	if !legal {
		return backend, fmt.Errorf("%s: %s, want forward to one of %s", p, did, addresses(d.Candidates))
	}
	if p.Protocol != model.TCP || p.SYN { // a connection's first
		f.Affinities.Note(d, AffinityKey{Client: p.Source.Addr()}, backend, now)
	}
	return backend, nil
}

// chosenOf is the backend that a packet was sent to, or would have been if policies had let it.
func (o Outcome) chosenOf(d Decision) (model.Backend, bool) {
	switch {
	case o.Wrapped.Backend != 0:
		i := slices.IndexFunc(d.Candidates, func(b model.Backend) bool { return b.ID == o.Wrapped.Backend })
		if i < 0 {
			return model.Backend{}, false
		}
		return d.Candidates[i], true
	case o.Verdict == Forward:
		return candidate(d, o.Destination)
	}
	return candidate(d, o.Told.destination)
}

func addresses(backends []model.Backend) (all []netip.AddrPort) {
	for _, b := range backends {
		all = append(all, AddrPort(b))
	}
	return all
}

// marks says whether a new flow is masqueraded should it leave by an uplink: see Masquerades.
func (n *Node) marks(who Dialler, d Decision, b model.Backend) bool {
	return !d.KeepsAddress && (who.Via == UplinkPacket || n.MasqueradeAll || b.Addr == who.Addr)
}

// Leaves checks what became of a packet that leaves the node's stack: by the uplink of an index, or 0 to a pod.
func (f *Flows) Leaves(n *Node, uplink int, p Packet, did Outcome, now uint32) error {
	if uplink != 0 {
		return f.leaves(n, uplink, p, did, now)
	}
	s, t := sightOf(p), tupleOf(p)
	r := f.Connections.judge(n, s, t.end(false), false, now)
	if r.Reason == model.ReasonNone {
		return f.leaves(n, uplink, p, did, now)
	}
	if did.Verdict == Reject {
		f.Connections.expect(n, t.end(false), true)
	}
	return f.denied(s, r, t, did)
}

func (f *Flows) leaves(n *Node, uplink int, p Packet, did Outcome, now uint32) error {
	k := key{tupleOf(p), true}
	e := f.entries[k]
	if e == nil || p.Fault != model.ReasonNone {
		return untouched(p, did)
	}
	switch {
	case !e.forward:
		e.seen = now
		f.note(p, k, e)
		if e.way == wayWrap && uplink != 0 {
			return n.goesWrapped(p, e.exchanged(k), Wrapping{From: n.Number, To: e.node}, did)
		}
		return translated(p, e.exchanged(k), did)
	case uplink == 0 && p.Source.Addr() != p.Destination.Addr():
		return untouched(p, did)
	case !e.to.IsValid():
		return f.masquerade(n, uplink, p, k, e, did)
	}
	if e.seen != now {
		e.seen = now
		if f.other(k, e) == nil {
			f.claim(k, e)
		}
	}
	f.note(p, k, e)
	return translated(p, e.exchanged(k), did)
}

// masquerade checks the first packet of a flow that leaves with the node's address. A pod that reaches itself gets the
// node's main address, since it doesn't leave by an uplink.
func (f *Flows) masquerade(n *Node, uplink int, p Packet, k key, e *entry, did Outcome) error {
	i := slices.IndexFunc(n.Uplinks[uplink], func(a netip.Addr) bool { return a.Is4() == p.Source.Addr().Is4() })
	if i < 0 {
		return dropped(p, model.ReasonPortsExhausted, did)
	}
	own := n.Uplinks[uplink][i]
	if did.Verdict != Forward || did.Source.Addr() != own || did.Destination != p.Destination {
		return fmt.Errorf("%s: %s, want it to leave with address %s", p, did, own)
	}
	with := func(e *entry, port uint16) { e.to = netip.AddrPortFrom(own, port) }
	if err := f.mayUsePort(k, *e, did.Source.Port(), p.Source.Port(), with); err != nil {
		return err
	}
	e.to = did.Source
	f.claim(k, e)
	return nil
}

// dialsDirectly forgets whose answers came to a port from which a client now dials the backend itself: the answers are
// to that connection from here on. Of datagrams each may be the first: whom a port asked last is who answers it, and so
// the Service's next datagram takes the answers back.
func (f *Flows) dialsDirectly(p Packet, now uint32) {
	if !p.SYN && (p.Protocol != model.UDP || p.Fault != model.ReasonNone) {
		return
	}
	answers := key{tuple{p.Protocol, p.Destination, p.Source}, true}
	e := f.entries[answers]
	if e == nil || e.forward {
		return
	}
	if forward := f.other(answers, e); forward != nil {
		forward.seen = now - 1
	}
	delete(f.entries, answers)
}

// oneHost says that an answer to the address reaches one host. A RST is never answered, nor is a packet from a group,
// broadcast or nobody's address (RFC 9293 3.10.7.1; RFC 1122 3.2.2, RFC 4443 2.4 e).
func oneHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !(a.Is4() && a.As4()[0] >= 224)
}

func untouched(p Packet, did Outcome) error {
	if did.Verdict != Forward || did.Source != p.Source || did.Destination != p.Destination {
		return fmt.Errorf("%s: want it untouched, got %s", p, did)
	}
	return nil
}

func translated(p Packet, to tuple, did Outcome) error {
	want := Outcome{Verdict: Forward, Source: to.source, Destination: to.destination}
	otherPorts := to.source.Port() != p.Source.Port() || to.destination.Port() != p.Destination.Port()
	if did.Verdict == Drop && p.LengthsLie && p.Protocol == model.SCTP && otherPorts {
		return nil // its CRC can't be worked out over what isn't there (RFC 9260 6.8)
	}
	if did != want {
		return fmt.Errorf("%s: of a known flow, want %s, got %s", p, want, did)
	}
	return nil
}

func dropped(p Packet, reason model.DropReason, did Outcome) error {
	if did.Verdict != Drop {
		return fmt.Errorf("%s: want drop (%s), got %s", p, reason, did)
	}
	return told(p, reason, did)
}

// told checks the reason, where one was told. A later fragment that is held is not said to be dropped.
func told(p Packet, reason model.DropReason, did Outcome) error {
	if did.Told.Reason != model.ReasonNone && did.Told.Reason != reason {
		return fmt.Errorf("%s: dropped as %s, want %s", p, did.Told.Reason, reason)
	}
	return nil
}

// denied checks what became of a packet that policies don't let go on, and what the programs say about it. Rules of
// ClusterNetworkPolicies deny without a word; so does, unless the operator wants it otherwise, the lack of a rule.
func (f *Flows) denied(s Sight, r Ruling, t tuple, did Outcome) error {
	want := Told{r, Ends{t}}
	answered := did.Verdict == Reject && r.Reason == model.ReasonIsolated && f.Connections.AnswersIsolated && s.answerable()
	if did.Verdict != Drop && !answered || did.Told != want {
		return fmt.Errorf("%s: %s, said %s, want it denied: %s", t, did, did.Told, want)
	}
	return nil
}

// answerable says whether a refusal may be sent: of what has no ports only an echo request is answered.
func (s Sight) answerable() bool {
	if isICMP(s.network) {
		return s.begins && s.network.Answerable()
	}
	return s.hasPorts && s.network.Answerable()
}

// refused takes a drop too: answers are limited in rate, and not given to what asks for none. See Answerable.
func refused(p Packet, reason model.DropReason, did Outcome) error {
	if did.Verdict == Forward || did.Verdict == Reject && !p.Answerable() {
		return fmt.Errorf("%s: want reject (%s), got %s", p, reason, did)
	}
	return told(p, reason, did)
}

// Answerable says whether a refusal of the packet may be sent.
func (p Packet) Answerable() bool {
	return !p.RST && !p.Mute && !p.LengthsLie && oneHost(p.Source.Addr())
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
		{p.RST, fmt.Sprintf("RST %d", p.Sequence)},
		{p.Acknowledged != 0, fmt.Sprintf("ACK %d", p.Acknowledged)},
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
	wrapped := ""
	if o.Wrapped != (Wrapping{}) {
		wrapped = fmt.Sprintf(", wrapped by %d for node %d, backend %d", o.Wrapped.From, o.Wrapped.To, o.Wrapped.Backend)
	}
	if o.Verdict != Forward {
		return fmt.Sprintf("%s (%s)%s", o.Verdict, o.Told.Reason, wrapped)
	}
	return fmt.Sprintf("forward as %s → %s%s", o.Source, o.Destination, wrapped)
}

// String returns what was said in one line, for messages.
func (t Told) String() string {
	return fmt.Sprintf("%s, %s of rule set %d by rule %d, %s", t.Reason, t.Direction, t.RuleSet, t.Rule, t.tuple)
}

func (t tuple) String() string {
	return fmt.Sprintf("%s %s → %s", t.protocol, t.source, t.destination)
}
