// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// standing is how the flow of a client's packet goes on.
type standing int

const (
	stands standing = iota // with its backend
	begins                 // as a new one
	isGone                 // not at all: the backend is gone, and the client is to know
)

// endWindow is how far a FIN or RST may be beyond what the other side has acknowledged, to count.
const endWindow = 1 << 24

// standing decides whether a packet of a known flow stays with its backend.
//
//   - A SYN that is sent again, with the same sequence number, stays, so that the backend sees one connection (RFC
//     9293 3.8.1); one with another number is a new connection from a port that is used again, once the old one is
//     over (RFC 9293 3.6.1; Linux's tcp_conntracks table, sIV for SYN in TIME_WAIT). While that lives the SYN is the
//     backend's to answer, and may be forged (RFC 5961 4.2; tcp_conntracks, sIG for SYN in ESTABLISHED).
//   - A SYN that is sent again, and a datagram, stays while the backend is one of the Service's, terminating or not
//     (kube-proxy's pkg/proxy/conntrack/cleanup.go).
//   - What else belongs to a connection stays, and to a backend that terminates it must (KEP-1669). When the backend is
//     gone the connection is, and the client learns of it within a second.
//   - Datagrams leave an address that has gone to another Service within a second (cleanup.go: by the Service's address
//     and its endpoints).
func (f *Flows) standing(n *Node, p Packet, k key, e *entry, find finder, now uint32) standing {
	switch {
	case e.ended && p.SYN:
		return begins
	case e.ended:
		return isGone
	case p.SYN && p.Sequence != e.sequence && !f.lives(k, e):
		return begins
	case (p.SYN || p.Protocol == model.UDP) && !n.serves(e):
		return begins
	case e.seen == now:
		return stands
	}
	e.seen = now
	switch {
	case p.Protocol != model.UDP && !n.serves(e):
		return isGone
	case p.Protocol == model.UDP && !e.moved && !dials(p, e.root, find):
		return begins
	case e.way == wayWrap && !n.follows(e) && p.Protocol == model.UDP:
		return begins
	case e.way == wayWrap && !n.follows(e):
		return isGone
	case e.way == wayWrap: // the backend's node has the other half
		return stands
	case f.other(k, e) == nil && !f.claim(k, e) && p.Protocol == model.UDP:
		return begins
	}
	f.keepLeaving(k, e)
	return stands
}

// lives says whether both ends of a connection have heard of each other and neither has ended it. Of one whose packets go
// wrapped to another node the client's word counts.
func (f *Flows) lives(k key, e *entry) bool {
	if e.way == wayWrap {
		return e.acknowledged != 0 && !e.fin && !e.reset
	}
	half := f.other(k, e)
	return half != nil && e.acknowledged != 0 && half.acknowledged != 0 && !e.fin && !half.fin && !e.reset && !half.reset
}

// follows says whether what goes wrapped still gets to its backend, which may be on another node by now.
func (n *Node) follows(e *entry) bool {
	if b, _ := n.backend(e.backend); b.Node != 0 {
		e.node = b.Node
	}
	return e.node != n.Number && n.reaches(e.node)
}

// serves says whether the backend of a flow is still one of its Service's, under the number it had.
func (n *Node) serves(e *entry) bool {
	b, lives := n.backend(e.backend)
	return lives && AddrPort(b) == e.at && b.Set == e.root
}

// finder looks for what a packet is for, where it came in.
type finder func(model.Protocol, netip.AddrPort) (model.Frontend, bool)

// dials says whether what a packet is for still stands for a Service.
func dials(p Packet, root model.SetID, find finder) bool {
	frontend, found := find(p.Protocol, p.Destination)
	return found && frontend.Set == root
}

// note remembers what a packet says of its connection. A FIN or RST counts if a receiver would take it, or nearly: an
// off-path sender should not be able to cut a connection's memory short (RFC 5961 3.2; Linux's nf_conntrack_proto_tcp.c on
// RST). A side that goes on after its RST didn't mean it.
func (f *Flows) note(p Packet, k key, e *entry) {
	if p.Acknowledged != 0 {
		e.acknowledged = p.Acknowledged
	}
	ends := (p.RST || p.FIN) && f.endCounts(p, k, e)
	switch {
	case p.RST:
		e.reset = e.reset || ends
	case p.FIN:
		e.fin = e.fin || ends
	default:
		e.reset = false
	}
	if e.steered() && !p.SYN && !p.RST && e.near(p) {
		e.sequence = p.Sequence
	}
}

// endCounts says whether a FIN or RST may be its sender's. Where that goes wrapped the other side isn't seen: it counts if
// it is near what came before.
func (f *Flows) endCounts(p Packet, k key, e *entry) bool {
	if e.steered() {
		return e.near(p)
	}
	half := f.other(k, e)
	return half != nil && p.Sequence-half.acknowledged < endWindow
}

// steered says whether a client's packets go wrapped.
func (e *entry) steered() bool { return e.forward && e.way == wayWrap }

// near says whether a segment is where its sender may be.
func (e *entry) near(p Packet) bool { return p.Sequence-e.sequence+endWindow < 2*endWindow }
