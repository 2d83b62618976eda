// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Outcome is what was seen to become of a packet.
type Outcome struct {
	Verdict Verdict
	// Source and Destination are the packet's when it went on, the same as before if it wasn't translated.
	Source, Destination netip.AddrPort
	// Wrapped is how it went on to another node: what is forwarded, or the answer to what is rejected. Zero is not.
	Wrapped Wrapping
	// Told is what was said about one that didn't go on.
	Told Told
}

// Flows is what the per-packet path of one node remembers. Its methods take what the kernel did with a packet, check
// that it was right to, and remember what it chose. A full table, which forgets what it likes, is not modelled.
//
// Destinations are exchanged where packets come in, sources where they leave, so that the stack in between routes client
// and backend as if there were no Service. A flow so has two entries, or four where it is masqueraded:
//
//	in   client:p → Service:s   becomes  client:c → backend:b   (c is p unless that would be ambiguous)
//	out  client:c → backend:b   becomes    node:m → backend:b
//	in   backend:b → node:m     becomes  backend:b → client:c
//	out  backend:b → client:c   becomes  Service:s → client:p
//
// The first and the last are a pair, as are the two between: a packet that is exchanged by one, turned round, is what the
// other exchanges back. Each may be lost to another flow for itself.
type Flows struct {
	entries     map[key]*entry
	Affinities  Affinities
	Connections Connections
}

// NewFlows returns a memory with nothing in it.
func NewFlows() *Flows {
	return &Flows{entries: map[key]*entry{}, Affinities: Affinities{}, Connections: newConnections()}
}

// tuple is a packet's ends.
type tuple struct {
	protocol            model.Protocol
	source, destination netip.AddrPort
}

// key is a packet as one hook sees it: as it comes in to the node's stack, or as it leaves that.
type key struct {
	tuple
	leaving bool
}

// entry is one direction at one hook.
type entry struct {
	to           netip.AddrPort // the new destination of what comes in, the new source of what leaves; not valid before that is known
	otherPort    uint16         // of the packet's other end
	backend      model.BackendID
	at           netip.AddrPort // the backend's
	root         model.SetID
	forward      bool // the client's direction
	masquerade   bool // if it leaves by an uplink, or to where it came from
	moved        bool // dialled by the address of a backend that went: a connected UDP socket's
	ended        bool // the same of a TCP socket: answered by a RST
	sequence     uint32
	acknowledged uint32
	seen         uint32 // seconds
	fin, reset   bool
	way          way
	node         model.NodeID // of way
}

// way is how packets go on that an entry has seen to.
type way uint8

const (
	wayHere   way = iota // by the node's own routes
	wayWrap              // wrapped for the node
	wayVia               // by the node's own routes; answers go back wrapped, to the node by which it came
	wayDirect            // the same, but that answers go straight to the client
)

func tupleOf(p Packet) tuple { return tuple{p.Protocol, p.Source, p.Destination} }

// exchanged returns what an entry makes of its packets.
func (e *entry) exchanged(k key) tuple {
	t := k.tuple
	if k.leaving {
		t.source, t.destination = e.to, netip.AddrPortFrom(t.destination.Addr(), e.otherPort)
	} else {
		t.source, t.destination = netip.AddrPortFrom(t.source.Addr(), e.otherPort), e.to
	}
	return t
}

// otherKey is that of an entry's other half.
func (e *entry) otherKey(k key) key {
	t := e.exchanged(k)
	return key{tuple{t.protocol, t.destination, t.source}, !k.leaving}
}

// other returns an entry's other half, nil if that is lost or another flow's by now.
func (f *Flows) other(k key, e *entry) *entry {
	at := e.otherKey(k)
	half := f.entries[at]
	if half == nil || !half.to.IsValid() || half.otherKey(at) != k {
		return nil
	}
	return half
}

// exchange returns what packets with these ends become at a hook; known is false where no flow says so. Whoever
// translates what is about a flow, without being part of it, asks.
func (f *Flows) exchange(t tuple, leaving bool) (becomes tuple, known bool) {
	k := key{t, leaving}
	e := f.entries[k]
	if e == nil || !e.to.IsValid() {
		return t, false
	}
	return e.exchanged(k), true
}

// taken says that another living flow has a key: its answers and ours could not be told apart (Linux's
// nf_nat_used_tuple). A flow is over when both sides have ended it, or one has broken it off.
func (f *Flows) taken(at key, back key) bool {
	theirs := f.entries[at]
	if theirs == nil || theirs.to.IsValid() && theirs.otherKey(at) == back {
		return false
	}
	if !theirs.to.IsValid() {
		return false // nothing has left by it yet, so nothing answers
	}
	half := f.other(at, theirs)
	return half != nil && !(theirs.fin && half.fin) && !theirs.reset && !half.reset
}

// claim makes the other half of an entry. It reports false if that is taken.
func (f *Flows) claim(k key, e *entry) bool {
	at := e.otherKey(k)
	if f.taken(at, k) {
		return false
	}
	half := &entry{backend: e.backend, at: e.at, root: e.root, sequence: e.sequence, seen: e.seen}
	half.answers(e)
	if k.leaving {
		half.to, half.otherPort = k.source, k.destination.Port()
	} else {
		half.to, half.otherPort = k.destination, k.source.Port()
	}
	f.entries[at] = half
	return true
}

// answers gives the backend's direction the way that the client's asks for.
func (e *entry) answers(forward *entry) {
	e.way, e.node = wayHere, forward.node
	if forward.way == wayVia {
		e.way = wayWrap
	}
}

// leavingKey is where a client's packets leave the node, having come in by an entry.
func (e *entry) leavingKey(k key) key { return key{e.exchanged(k), true} }

// end forgets a flow, given the entry of the client's packets as they come in.
func (f *Flows) end(k key, e *entry) {
	if f.other(k, e) != nil {
		delete(f.entries, e.otherKey(k))
	}
	if e.masquerade {
		at := e.leavingKey(k)
		if out := f.entries[at]; out != nil && out.to.IsValid() && f.other(at, out) != nil {
			delete(f.entries, out.otherKey(at))
		}
		delete(f.entries, at)
	}
	delete(f.entries, k)
}

// begin remembers a new flow, having checked the client's port as the backend sees it: where that would be ambiguous it
// gets another, and without need it stays (RFC 4787 REQ-3, and what servers log).
func (f *Flows) begin(k key, e *entry, did Outcome) error {
	if err := f.mayUsePort(k, *e, did.Source.Port(), k.source.Port(), func(e *entry, port uint16) { e.otherPort = port }); err != nil {
		return err
	}
	e.otherPort = did.Source.Port()
	f.claim(k, e)
	f.keepLeaving(k, e)
	f.entries[k] = e
	return nil
}

// keepLeaving notes that what leaves is to be masqueraded, unless that is known.
func (f *Flows) keepLeaving(k key, e *entry) {
	if !e.masquerade || f.entries[e.leavingKey(k)] != nil && f.entries[k] == e {
		return
	}
	pending := *e
	pending.to, pending.otherPort, pending.acknowledged = netip.AddrPort{}, e.at.Port(), 0
	f.entries[e.leavingKey(k)] = &pending
}

// mayUsePort checks the choice of a port, given what the packet had and how an entry would be with a port.
func (f *Flows) mayUsePort(k key, e entry, chosen, had uint16, with func(*entry, uint16)) error {
	free := func(port uint16) bool { with(&e, port); return !f.taken(e.otherKey(k), k) }
	switch kept := chosen == had; {
	case kept && !free(had):
		return fmt.Errorf("%s → %s: port %d is kept, but another flow is answered there", k.source, k.destination, had)
	case kept:
		return nil
	case free(had) && (!k.leaving || portAllowed(had)):
		return fmt.Errorf("%s → %s: the port became %d without need", k.source, k.destination, chosen)
	case !free(chosen):
		return fmt.Errorf("%s → %s: the port became %d, which is taken too", k.source, k.destination, chosen)
	case !portAllowed(chosen):
		return fmt.Errorf("%s → %s: the port became %d, which is a privileged one, a NodePort or one of the node's own sockets", k.source, k.destination, chosen)
	}
	return nil
}

// portAllowed says whether a connection may be given a port: not a privileged one (RFC 6335 6), not one that may be a
// NodePort (API: 30000 to 32767), not one that the node's own sockets get (Linux's net.ipv4.ip_local_port_range).
func portAllowed(p uint16) bool { return p >= 1024 && p < 30000 || p >= 61000 }

func candidate(d Decision, chosen netip.AddrPort) (model.Backend, bool) {
	for _, b := range d.Candidates {
		if AddrPort(b) == chosen {
			return b, true
		}
	}
	return model.Backend{}, false
}
