// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Layer is one layer's rows, ready to be looked at. It never changes once made.
type Layer struct {
	tables   *model.Tables
	members  map[model.SetID][]model.BackendID // in order of id
	ranges   map[model.SetID][]netip.Prefix
	networks []model.Network // the longest prefixes first
}

// NewLayer returns the layer that has these rows. The caller must not change them afterwards.
func NewLayer(tables *model.Tables) *Layer {
	l := &Layer{
		tables:  tables,
		members: make(map[model.SetID][]model.BackendID, len(tables.Sets)), ranges: map[model.SetID][]netip.Prefix{},
	}
	for m := range tables.Members {
		l.members[m.Set] = append(l.members[m.Set], m.Backend)
	}
	for _, ids := range l.members {
		slices.Sort(ids)
	}
	for r := range tables.SourceRanges {
		l.ranges[r.Set] = append(l.ranges[r.Set], r.Prefix)
	}
	for _, network := range tables.Networks {
		l.networks = append(l.networks, network)
	}
	slices.SortFunc(l.networks, func(a, b model.Network) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	return l
}

// LocalFlags say what an address of the node is used for.
type LocalFlags uint8

// The flags.
const (
	// LocalNodePort serves NodePorts (kube-proxy's --nodeport-addresses).
	LocalNodePort LocalFlags = 1 << iota
	// LocalLoopback means this node to the node's own processes alone: a pod's 127.0.0.1 is the pod.
	LocalLoopback
)

// UplinkAny is no interface's index.
const UplinkAny = 0

// Surroundings are what a node finds out about itself, as against the rows that it is told.
type Surroundings struct {
	// Locals are the addresses of the node's network namespace.
	Locals map[netip.Addr]LocalFlags
	// Uplinks are the addresses that connections are masqueraded with, by the index of the interface that they
	// leave by: at most one a family. Those of UplinkAny are the node's where the way out doesn't matter.
	Uplinks map[int][]netip.Addr
	// Nearby are addresses that the node reaches by none of its uplinks, besides those of its endpoints.
	Nearby map[netip.Addr]bool
	// MasqueradeAll gives every translated connection that leaves the node the node's address (kube-proxy's
	// --masquerade-all).
	MasqueradeAll bool
	// Number is the node's own, as packets between nodes name it; 0 is none, and nothing is wrapped.
	Number model.NodeID
	// MaglevSize is how many slots a table of backends has for clients from outside; 0 has none, and any backend may be
	// chosen.
	MaglevSize uint32
	// Tunnel says that there is a device that wraps packets for other nodes.
	Tunnel bool
	// TunnelPort is the UDP port of what nodes wrap, TunnelVNI its VXLAN network; port 0 is none.
	TunnelPort uint16
	TunnelVNI  uint32
}

// Node is what the rules look at: the rows of all layers of one node, and its surroundings. It never changes once
// made, so that many questions may be asked of it at the same time.
type Node struct {
	Surroundings
	layers []*Layer // no key is in two of them
}

// New returns the node whose rows are those of layers, with no addresses of its own.
func New(layers ...*Layer) *Node { return &Node{layers: layers} }

// In returns the node with the same rows in other surroundings.
func (n *Node) In(s Surroundings) *Node { return &Node{Surroundings: s, layers: n.layers} }

// first returns what the first layer that has something has.
func first[T any](n *Node, find func(*Layer) (T, bool)) (found T, has bool) {
	for _, l := range n.layers {
		if found, has = find(l); has {
			break
		}
	}
	return found, has
}

func (n *Node) frontend(key model.FrontendKey) (model.Frontend, bool) {
	return first(n, func(l *Layer) (model.Frontend, bool) { f, has := l.tables.Frontends[key]; return f, has })
}

func (n *Node) set(id model.SetID) (model.BackendSet, bool) {
	return first(n, func(l *Layer) (model.BackendSet, bool) { s, has := l.tables.Sets[id]; return s, has })
}

func (n *Node) view(key model.ViewKey) (model.View, bool) {
	return first(n, func(l *Layer) (model.View, bool) { v, has := l.tables.Views[key]; return v, has })
}

func (n *Node) backend(id model.BackendID) (model.Backend, bool) {
	return first(n, func(l *Layer) (model.Backend, bool) { b, has := l.tables.Backends[id]; return b, has })
}

// lasting returns a backend by the number that flows, sockets and affinities remember: that of the cluster layer, so
// that they outlive a traffic policy or a hint; its own where the cluster layer has none of the same root (yet).
func (n *Node) lasting(b model.Backend) model.Backend {
	if twin, has := n.backend(b.Twin); has && twin.Set == b.Set {
		b.ID = b.Twin
	}
	return b
}

// members returns the backends of a set. A set's members are in the layer of the set.
func (n *Node) members(set model.SetID) []model.BackendID {
	ids, _ := first(n, func(l *Layer) ([]model.BackendID, bool) { return l.members[set], len(l.members[set]) > 0 })
	return ids
}

// Endpoint returns the pod of this node that has address.
func (n *Node) Endpoint(address netip.Addr) (model.Endpoint, bool) {
	return first(n, func(l *Layer) (model.Endpoint, bool) { e, has := l.tables.Endpoints[address]; return e, has })
}

// zone returns the node's own.
func (n *Node) zone() model.Place {
	self, _ := first(n, func(l *Layer) (model.Self, bool) { s, has := l.tables.Selves[model.SelfKey{}]; return s, has })
	return model.PlaceOf(self.Zone)
}

// inRanges says whether a set's frontends take clients with this address.
func (n *Node) inRanges(set model.SetID, client netip.Addr) bool {
	for _, l := range n.layers {
		if slices.ContainsFunc(l.ranges[set], func(p netip.Prefix) bool { return p.Contains(client) }) {
			return true
		}
	}
	return false
}

// network returns the kind of the longest prefix that has address, 0 for none.
func (n *Node) network(address netip.Addr) model.NetworkKind {
	var longest model.Network
	for _, l := range n.layers {
		i := slices.IndexFunc(l.networks, func(w model.Network) bool { return w.Prefix.Contains(address) })
		if i >= 0 && (longest.Kind == 0 || l.networks[i].Prefix.Bits() > longest.Prefix.Bits()) {
			longest = l.networks[i]
		}
	}
	return longest.Kind
}

// StaysHere says that what goes to address doesn't leave by an uplink: a pod of the node has it, or the node itself.
func (n *Node) StaysHere(address netip.Addr) bool {
	_, isPod := n.Endpoint(address)
	_, isNode := n.Locals[address]
	return isPod || isNode || n.Nearby[address]
}
