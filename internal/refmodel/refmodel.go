// SPDX-License-Identifier: Apache-2.0

// Package refmodel is the oracle: it decides what happens to a connect, a datagram or a packet on one node, from
// the node's typed tables and nothing else, one rule after another, each rule citing where it comes from. The BPF
// programs must agree with it on any tables and any packets (test/kernel), and explain shows its answers to people.
//
// It promises to be pure, slow and obvious. Where the kernel is free to choose, such as which backend, the model
// says what may be chosen and takes the kernel's choice as an input to check. When the two disagree one of them is
// wrong: find out which by the cited source, never by making the model follow the program.
package refmodel

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Layer is one layer's rows, ready to be looked at. It never changes once made.
type Layer struct {
	tables  *model.Tables
	members map[model.SetID][]model.BackendID // in order of id
}

// NewLayer returns the layer that has these rows. The caller must not change them afterwards.
func NewLayer(tables *model.Tables) *Layer {
	l := &Layer{tables: tables, members: make(map[model.SetID][]model.BackendID, len(tables.Sets))}
	for m := range tables.Members {
		l.members[m.Set] = append(l.members[m.Set], m.Backend)
	}
	for _, ids := range l.members {
		slices.Sort(ids)
	}
	return l
}

// Node is what the rules look at: the rows of all layers of one node. It never changes once made, so that many
// questions may be asked of it at the same time.
type Node struct {
	layers []*Layer // no key is in two of them
}

// New returns the node whose rows are those of layers.
func New(layers ...*Layer) *Node { return &Node{layers: layers} }

func (n *Node) frontend(key model.FrontendKey) (f model.Frontend, found bool) {
	for _, l := range n.layers {
		if f, found = l.tables.Frontends[key]; found {
			break
		}
	}
	return f, found
}

func (n *Node) set(id model.SetID) (s model.BackendSet, found bool) {
	for _, l := range n.layers {
		if s, found = l.tables.Sets[id]; found {
			break
		}
	}
	return s, found
}

func (n *Node) backend(id model.BackendID) (b model.Backend, found bool) {
	for _, l := range n.layers {
		if b, found = l.tables.Backends[id]; found {
			break
		}
	}
	return b, found
}

// members returns the backends of a set. A set's members are in the layer of the set.
func (n *Node) members(set model.SetID) []model.BackendID {
	for _, l := range n.layers {
		if ids := l.members[set]; len(ids) > 0 {
			return ids
		}
	}
	return nil
}

// Endpoint returns the pod of this node that has address.
func (n *Node) Endpoint(address netip.Addr) (e model.Endpoint, found bool) {
	for _, l := range n.layers {
		if e, found = l.tables.Endpoints[address]; found {
			break
		}
	}
	return e, found
}

// Verdict is what becomes of a connect or a packet.
type Verdict uint8

// The verdicts. Rejected means that the client is told so: ECONNREFUSED, TCP RST or ICMP port unreachable.
const (
	Forward Verdict = iota + 1
	Drop
	Reject
)

// String returns the word that explain prints.
func (v Verdict) String() string {
	switch v {
	case Forward:
		return "forward"
	case Drop:
		return "drop"
	case Reject:
		return "reject"
	}
	return "undecided"
}

// Decision is what becomes of something new: no flow and no socket has a say in it yet.
type Decision struct {
	Verdict    Verdict
	Reason     model.DropReason
	Frontend   *model.Frontend   // what was dialled, nil if it is no Service's
	Set        *model.BackendSet // whose backends were looked at, nil if there is none
	Candidates []model.Backend   // what may be chosen, in order of id; empty if untranslated
}

// NewConnection decides about the first packet, or the connect, to destination.
//
//   - What no frontend stands for passes untranslated. (Service VIPs are looked up by exact address, port and
//     protocol: KEP-3866, kube-proxy's service-ips map.)
//   - A frontend without a usable endpoint anywhere refuses: kube-proxy's no-endpoint-services map, "reject";
//     the API's word on Services without endpoints, and upstream's e2e test "should be rejected when no endpoints
//     exist".
//   - Else any member of the frontend's set may be chosen, all alike. Which endpoints are members is the
//     compiler's to decide (kube-proxy's CategorizeEndpoints), and the tables already say it.
//   - A frontend of a missing set, or a member that is no backend, is a fault in the tables: dropped, with that
//     reason, never sent somewhere by guess.
func (n *Node) NewConnection(protocol model.Protocol, destination netip.AddrPort) Decision {
	frontend, dialled := n.frontend(frontendKey(protocol, destination))
	if !dialled {
		return Decision{Verdict: Forward}
	}
	set, there := n.set(frontend.Set)
	if !there {
		return Decision{Verdict: Drop, Reason: model.ReasonStaleTables, Frontend: &frontend}
	}
	d := Decision{Frontend: &frontend, Set: &set}
	members := n.members(set.ID)
	if len(members) == 0 {
		d.Verdict, d.Reason = Reject, model.ReasonNoBackend
		return d
	}
	for _, id := range members {
		if backend, known := n.backend(id); known {
			d.Candidates = append(d.Candidates, backend)
		}
	}
	d.Verdict = Forward
	if len(d.Candidates) == 0 {
		d.Verdict, d.Reason = Drop, model.ReasonStaleTables
	}
	return d
}

func frontendKey(protocol model.Protocol, destination netip.AddrPort) model.FrontendKey {
	return model.FrontendKey{Addr: destination.Addr().Unmap(), Port: destination.Port(), Protocol: protocol}
}

// MayChoose says whether a new connection may be sent to chosen.
func (d *Decision) MayChoose(chosen netip.AddrPort) bool {
	return slices.ContainsFunc(d.Candidates, func(b model.Backend) bool { return AddrPort(b) == chosen })
}

// AddrPort returns where b serves.
func AddrPort(b model.Backend) netip.AddrPort { return netip.AddrPortFrom(b.Addr, b.Port) }
