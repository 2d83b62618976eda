// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Connections is what a node remembers of its pods' connections while there are policies. The model judges each packet
// of a connection again, by the rows as they are; the programs may do so only when those have changed.
//
// A full table, which forgets what it likes, is not modelled.
type Connections struct {
	// KeepEstablished lets connections go on that policies have ceased to allow.
	KeepEstablished bool
	// AnswersIsolated answers what no rule of a NetworkPolicy allows.
	AnswersIsolated bool
	// Hits are how many connections each rule has decided.
	Hits map[model.RuleID]uint64

	entries map[End]*connection
	answers map[End]bool // that the node itself has given, and that are yet to pass; true: seen as if from the pod
}

// connection is what is remembered of one. Its ruling's direction says who began it.
type connection struct {
	ruling          Ruling
	incarnation     uint32 // of the pod
	seen            uint32 // seconds
	answered, reset bool
	fin             map[bool]bool // by the pod (true), by the peer
}

func newConnections() Connections {
	return Connections{Hits: map[model.RuleID]uint64{}, entries: map[End]*connection{}, answers: map[End]bool{}}
}

func directionOf(fromPod bool) model.Direction {
	if fromPod {
		return model.Egress
	}
	return model.Ingress
}

// The seconds of silence that a connection outlives: the defaults of Linux's nf_conntrack_tcp_timeout_syn_recv,
// _established, _time_wait and _close, nf_conntrack_udp_timeout and _stream, nf_conntrack_sctp_timeout_established,
// nf_conntrack_icmp_timeout and nf_conntrack_generic_timeout.
func (c *connection) lasts(protocol model.Protocol) uint32 {
	switch {
	case protocol == model.TCP && c.reset:
		return 10
	case protocol == model.TCP && len(c.fin) > 0:
		return 120
	case protocol == model.TCP && c.answered:
		return 5 * 86400
	case protocol == model.TCP:
		return 60
	case protocol == model.UDP && c.answered:
		return 120
	case protocol == model.SCTP:
		return 210
	case protocol == model.UDP, protocol == icmp4, protocol == icmp6:
		return 30
	}
	return 600
}

// over says that neither end will say any more (RFC 9293 3.6), so that the ports may be used again.
func (c *connection) over() bool { return c.reset || len(c.fin) == 2 }

// note remembers what a packet says that passes. A side that goes on after its RST didn't mean it.
func (c *connection) note(s Sight, fromPod bool, now uint32) {
	c.seen = now
	c.answered = c.answered || directionOf(fromPod) != c.ruling.Direction
	c.reset = s.rst
	if s.fin && !s.rst {
		c.fin[fromPod] = true
	}
}

// find returns the connection of an end, nil if it is another pod's, or has been silent for too long.
func (c *Connections) find(n *Node, e End, now uint32) *connection {
	known := c.entries[e]
	pod, here := n.Endpoint(e.Pod.Addr())
	if known == nil || !here || known.incarnation != pod.Incarnation || now-known.seen > known.lasts(e.Protocol) {
		return nil
	}
	return known
}

// judge judges a packet with ports at a pod's interface, as it is between the exchanges of addresses. What the node itself
// has answered passes.
func (c *Connections) judge(n *Node, s Sight, e End, fromPod bool, now uint32) Ruling {
	if n.Policed() && (s.rst || s.protocol == model.SCTP) && c.expected(e, fromPod) {
		return Ruling{Direction: directionOf(fromPod)}
	}
	return c.admit(n, s, e, fromPod, now)
}

// message judges what has no ports. IPv6 has no link without neighbours and groups (RFC 4861 2, RFC 3810 1), so these
// pass whoever the pod is. An error passes if it is about a connection that is known (RFC 5508 REQ-3; Linux's
// IP_CT_RELATED), said by a router or the other end to who sent what it quotes; all else is known by its addresses.
func (f *Flows) message(n *Node, s Sight, fromPod bool, now uint32) Ruling {
	c := &f.Connections
	e, is := f.quotedEnd(s, fromPod)
	if s.ofLink && (!fromPod || n.mayBeNeighbours(s.destination.Addr())) || is && (c.expected(e, fromPod) || c.goesOnStill(n, e, now)) {
		return Ruling{Direction: directionOf(fromPod)}
	}
	if s.hidden != model.ReasonNone {
		return Ruling{Direction: directionOf(fromPod), Reason: s.hidden}
	}
	return c.admit(n, s, s.end(fromPod), fromPod, now)
}

// mayBeNeighbours says whether a neighbour of a pod may have an address: a group's, the link's, the node's, or a pod's, for
// which the node may answer (RFC 4389).
func (n *Node) mayBeNeighbours(a netip.Addr) bool {
	_, own := n.Locals[a]
	return own || a.IsMulticast() || a.IsLinkLocalUnicast() || n.network(a) == model.NetworkPods
}

// goesOnStill says whether a connection is known and still allowed.
func (c *Connections) goesOnStill(n *Node, e End, now uint32) bool {
	known := c.find(n, e, now)
	return known != nil && (c.KeepEstablished || n.Judge(known.ruling.Direction, e).Reason == model.ReasonNone)
}

// quotedEnd is the pod's view of what an ICMP error is about, between the exchanges.
func (f *Flows) quotedEnd(s Sight, fromPod bool) (End, bool) {
	t := s.about.turned()
	if t.protocol == 0 || t.destination.Addr() != s.destination.Addr() || fromPod && t.source.Addr() != s.source.Addr() {
		return End{}, false
	}
	if fromPod {
		t, _ = f.exchange(t, false)
	}
	return t.end(fromPod), true
}

// admit judges a packet by what is known of its connection.
//
//   - What belongs to a connection is judged as that began: answers pass if the question did (Kubernetes' NetworkPolicy
//     page: "reply traffic for those allowed connections will also be implicitly allowed"). What policies have ceased to
//     allow ends, or goes on by the operator's choice.
//   - A SYN, and an echo request, begins a connection in its own direction. One that is sent again is part of what it
//     began; one the other way, or once the old connection is over, is judged for itself. It takes the place of what is
//     known only once that is over: anyone may send a SYN (RFC 5961 4.2).
//   - A connection that is denied stays known while the end that began it goes on, so that its answers aren't taken for the
//     beginning of another, of which all that is denied would be the answers.
func (c *Connections) admit(n *Node, s Sight, e End, fromPod bool, now uint32) Ruling {
	direction := directionOf(fromPod)
	if !n.Policed() || e.Pod.Addr() == e.Peer.Addr() {
		return Ruling{Direction: direction}
	}
	known := c.find(n, e, now)
	again := s.begins && known != nil && (c.KeepEstablished || known.ruling.Direction != direction || known.over())
	if known != nil && !again {
		return c.goesOn(n, s, e, known, fromPod, now)
	}
	r := c.begins(n, s, e, direction)
	if r.Reason == model.ReasonNone && (known == nil || known.over()) {
		c.remember(n, s, e, r, fromPod, now)
	}
	return r
}

// goesOn judges a packet of a connection.
func (c *Connections) goesOn(n *Node, s Sight, e End, known *connection, fromPod bool, now uint32) Ruling {
	r := Ruling{Direction: known.ruling.Direction}
	if !c.KeepEstablished {
		r = n.Judge(known.ruling.Direction, e)
		if r.Rule != known.ruling.Rule {
			c.hit(r)
		}
		known.ruling = r
	}
	switch {
	case r.Reason == model.ReasonNone:
		known.note(s, fromPod, now)
	case directionOf(fromPod) == known.ruling.Direction:
		known.seen = now
	}
	return r
}

// begins judges the first packet that is seen of a connection. One of TCP that isn't a SYN is of a connection that began
// when nobody looked: it passes if either end may begin one (as Linux's nf_conntrack_tcp_loose takes up what it finds).
func (c *Connections) begins(n *Node, s Sight, e End, direction model.Direction) Ruling {
	r := n.Judge(direction, e)
	if r.Reason != model.ReasonNone && r.Reason != model.ReasonUnknownPod && s.continues {
		if other := n.Judge(model.Ingress+model.Egress-direction, e); other.Reason == model.ReasonNone {
			r = other
		}
	}
	c.hit(r)
	return r
}

func (c *Connections) hit(r Ruling) {
	if r.Rule != 0 {
		c.Hits[r.Rule]++
	}
}

// remember makes the entry of a connection that may begin, if it is a known pod's.
func (c *Connections) remember(n *Node, s Sight, e End, r Ruling, fromPod bool, now uint32) {
	pod, here := n.Endpoint(e.Pod.Addr())
	if !here || !n.Policed() || e.Pod.Addr() == e.Peer.Addr() {
		return
	}
	made := &connection{ruling: r, incarnation: pod.Incarnation, fin: map[bool]bool{}}
	made.note(s, fromPod, now)
	c.entries[e] = made
}

// expect notes that the node has answered a packet in its receiver's place: the answer comes by the same pod's interface
// the other way, from somebody who never dialled.
func (c *Connections) expect(n *Node, e End, fromPod bool) {
	if n.Policed() && e.Pod.Addr() != e.Peer.Addr() {
		c.answers[e] = fromPod
	}
}

// expected says whether a packet is such an answer: a RST, an ABORT or an ICMP error.
func (c *Connections) expected(e End, fromPod bool) bool {
	from, awaited := c.answers[e]
	if !awaited || from != fromPod {
		return false
	}
	delete(c.answers, e)
	return true
}

// Told is what the programs say about a packet that they drop: as it is between the exchanges of addresses, if a policy
// was asked.
type Told struct {
	Ruling
	Ends
}

// Ends are a packet's, as in messages.
type Ends struct{ tuple }

// EndsOf returns the ends of what a packet carries.
func EndsOf(protocol model.Protocol, source, destination netip.AddrPort) Ends {
	return Ends{tuple{protocol, source, destination}}
}
