// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Reached is what was seen to become of a connect or a datagram.
type Reached struct {
	Verdict Verdict        // ECONNREFUSED is Reject, ETIMEDOUT Drop
	At      netip.AddrPort // where it was sent, if it was
}

// Namespace is a network namespace: what its sockets have in common.
type Namespace struct {
	Via        Via // PodSocket or HostSocket
	Affinities Affinities
}

// decide decides for one of its sockets, which affinity knows by the namespace.
func (ns *Namespace) decide(n *Node, protocol model.Protocol, dialled netip.AddrPort, now uint32) Decision {
	d := n.Decide(Dialler{Via: ns.Via}, protocol, dialled)
	ns.Affinities.Narrow(n, &d, AffinityKey{}, now)
	return d
}

// Socket is what a node remembers of one socket, as long as the socket lives. Its methods take what the kernel did,
// check that it was right to, and remember what it chose. A socket that sends datagrams to more Services than are
// remembered forgets one; that is not modelled.
type Socket struct {
	connected *choice
	sent      []choice // datagrams, what was sent to last at the end; without a backend's id if that is no Service
}

// choice is what was dialled and what it became.
type choice struct {
	dialled netip.AddrPort
	backend model.Backend
}

// Connect checks what became of a connect, at now seconds. Every connect is new: the socket had no peer, or gives it up.
func (s *Socket) Connect(n *Node, ns *Namespace, protocol model.Protocol, dialled netip.AddrPort, did Reached, now uint32) error {
	d := ns.decide(n, protocol, dialled, now)
	if d.Verdict == Forward && d.Root == nil {
		s.connected = nil
		return reachedItself(protocol, dialled, did)
	}
	backend, err := checkReached(d, dialled, did)
	if err == nil && d.Verdict == Forward {
		s.connected = &choice{dialled, backend}
		ns.Affinities.Note(d, AffinityKey{}, backend, now)
	}
	return err
}

// Send checks what became of a datagram of a socket without a peer, at now seconds. Those to one Service go to one
// backend, as they would by conntrack (kube-proxy; RFC 4787 REQ-1 for translators at large), for as long as it serves
// what the address stands for; then to another.
func (s *Socket) Send(n *Node, ns *Namespace, dialled netip.AddrPort, did Reached, now uint32) error {
	d := ns.decide(n, model.UDP, dialled, now)
	if d.Verdict == Forward && d.Root == nil {
		s.sentDirectly(dialled)
		return reachedItself(model.UDP, dialled, did)
	}
	for i, c := range s.sent {
		if c.dialled != dialled || c.backend.ID == 0 {
			continue
		}
		s.sent = append(s.sent[:i], s.sent[i+1:]...)
		b, lives := n.backend(c.backend.ID)
		if lives && d.Root != nil && AddrPort(b) == AddrPort(c.backend) && b.Set == c.backend.Set && b.Set == d.Root.ID {
			s.sent = append(s.sent, c)
			if did.Verdict != Forward || did.At != AddrPort(c.backend) {
				return fmt.Errorf("a datagram to %s: want it sent to %s as before, got %s", dialled, AddrPort(c.backend), did)
			}
			return nil
		}
		break
	}
	backend, err := checkReached(d, dialled, did)
	if err == nil && d.Verdict == Forward {
		s.sent = append(s.sent, choice{dialled, backend})
		ns.Affinities.Note(d, AffinityKey{}, backend, now)
	}
	return err
}

func (s *Socket) sentDirectly(dialled netip.AddrPort) {
	itself := choice{dialled, model.Backend{BackendKey: model.BackendKey{Addr: dialled.Addr(), Port: dialled.Port()}}}
	s.sent = slices.DeleteFunc(s.sent, func(c choice) bool { return c == itself })
	s.sent = append(s.sent, itself)
}

// Sender returns who a datagram from an address seems to be from: the Service that the backend was chosen for, else
// the address itself. A client takes answers from whom it asked alone (RFC 5452 9.1); where the socket has asked one
// backend in several names, its own among them, the last one is the likeliest.
func (s *Socket) Sender(from netip.AddrPort) netip.AddrPort {
	if s.connected != nil && AddrPort(s.connected.backend) == from {
		return s.connected.dialled
	}
	for _, c := range slices.Backward(s.sent) {
		if AddrPort(c.backend) == from {
			return c.dialled
		}
	}
	return from
}

// Peer returns what getpeername shows: what was dialled, never the backend: clients that compare
// the two would take the backend for an impostor.
func (s *Socket) Peer(actual netip.AddrPort) netip.AddrPort {
	if s.connected != nil && AddrPort(s.connected.backend) == actual {
		return s.connected.dialled
	}
	return actual
}

func reachedItself(protocol model.Protocol, dialled netip.AddrPort, did Reached) error {
	// What is no Service's may be refused by whoever is there.
	if did.Verdict == Forward && did.At != dialled || did.Verdict == Drop {
		return fmt.Errorf("%s to %s, which is no Service's: got %s", protocol, dialled, did)
	}
	return nil
}

func checkReached(d Decision, dialled netip.AddrPort, did Reached) (model.Backend, error) {
	if d.Verdict != did.Verdict {
		return model.Backend{}, fmt.Errorf("%s: want %s (%s) to one of %v, got %s", dialled, d.Verdict, d.Reason, addresses(d.Candidates), did)
	}
	if d.Verdict != Forward {
		return model.Backend{}, nil
	}
	backend, legal := candidate(d, did.At)
	if !legal {
		return model.Backend{}, fmt.Errorf("%s: want one of %v, got %s", dialled, addresses(d.Candidates), did)
	}
	return backend, nil
}

// String returns the outcome in words, for messages.
func (r Reached) String() string {
	if r.Verdict != Forward {
		return r.Verdict.String()
	}
	return "it sent to " + r.At.String()
}
