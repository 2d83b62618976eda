// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Fragments is what one node remembers of datagrams that come in fragments. Only the first has ports (RFC 791 3.2, RFC
// 8200 4.5): what becomes of it the later ones follow. Those that come before it can only be held by who may send them
// later, which this model doesn't; full tables, and the end of what is remembered, are not modelled.
type Fragments struct {
	firsts map[fragmented]Outcome
}

// fragmented is how the fragments of one are told from others': RFC 791 3.2; IPv6 doesn't look at the protocol.
type fragmented struct {
	source, destination netip.Addr
	id                  uint32
	protocol            model.Protocol
	leaving             bool
}

// NewFragments returns a memory with nothing in it.
func NewFragments() *Fragments { return &Fragments{firsts: map[fragmented]Outcome{}} }

func fragmentedOf(p Packet, leaving bool) fragmented {
	d := fragmented{p.Source.Addr(), p.Destination.Addr(), p.ID, p.Protocol, leaving}
	if p.Source.Addr().Is6() {
		d.protocol = 0
	}
	return d
}

// First remembers what became of a first fragment, where packets come in or leave.
func (f *Fragments) First(p Packet, leaving bool, did Outcome) {
	f.firsts[fragmentedOf(p, leaving)] = did
}

// Later returns what must become of a later fragment. Of a datagram whose first one wasn't seen it passes, since it may
// be no Service's, unless it comes in to an address of the service CIDR, or policies judge here: at a pod's interface.
func (f *Fragments) Later(n *Node, p Packet, atPod, leaving bool) Outcome {
	first, seen := f.firsts[fragmentedOf(p, leaving)]
	switch {
	case seen && first.Verdict == Forward:
		return Outcome{Verdict: Forward, Source: netip.AddrPortFrom(first.Source.Addr(), 0), Destination: netip.AddrPortFrom(first.Destination.Addr(), 0)}
	case seen, atPod && n.Policed(), !leaving && n.network(p.Destination.Addr()) == model.NetworkServices:
		return Outcome{Verdict: Drop}
	}
	return Outcome{Verdict: Forward, Source: p.Source, Destination: p.Destination}
}
