// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// topology is one ServicePort in one family, on its way from endpoints to sets. Which clients use which set is
// decided in the kernel; the sets are such that this comes to CategorizeEndpoints of kube-proxy:
//
//   - all: the ready endpoints; if there is none, those that terminate and still serve;
//   - of a zone, of a node: the ready endpoints with a hint for it, if all ready ones have such hints;
//   - local: the ready endpoints on a node; if there is none, those on it that terminate and still serve.
type topology struct {
	root     model.SetKey
	affinity uint32
	local    bool           // some clients get local backends alone
	external model.SetFlags // model.External if clients from outside get to any backend

	all   []candidate    // sorted
	hints model.SetFlags // those that count
}

// read takes in the candidates and says which hints count: those that all ready endpoints have
// (topologyModeFromHints of kube-proxy).
func (t *topology) read(all []candidate) {
	t.all = all
	var ready, nodes, zones int
	for i := range all {
		c := &all[i]
		if !c.ready() {
			continue
		}
		ready++
		if len(c.hints.Nodes) > 0 {
			nodes++
		}
		if len(c.hints.Zones) > 0 {
			zones++
		}
	}
	if ready > 0 && nodes == ready {
		t.hints |= model.NodeHints
	}
	if ready > 0 && zones == ready {
		t.hints |= model.ZoneHints
	}
}

// cluster returns the part in the cluster layer: the root, and the sets of zones, which share its backends.
func (t *topology) cluster() part {
	p := part{layer: model.ClusterLayer, root: t.root}
	p.backends = make([]backend, 0, len(t.all))
	for _, c := range t.all {
		p.backends = append(p.backends, c.backend())
	}
	members, flags := choose(t.all)
	p.sets = []set{t.set(t.root, members, flags|t.hints|t.external)}
	if t.hints&model.ZoneHints == 0 {
		return p
	}
	zones := map[string][]netip.AddrPort{}
	for _, c := range t.all {
		for _, zone := range c.hints.Zones {
			if c.ready() {
				zones[zone] = append(zones[zone], c.at)
			}
		}
	}
	for zone, members := range zones {
		p.sets = append(p.sets, t.set(t.part(model.ScopeZone, model.PlaceOf(zone)), members, t.external))
	}
	slices.SortFunc(p.sets, compareSets)
	return p
}

// nodes returns the parts in nodes' layers. A backend is in its own node's layer as long as there may be a set for it,
// so that its connections outlive that it becomes unready, or its hint: controllers take hints away first.
func (t *topology) nodes() []part {
	hinted := slices.ContainsFunc(t.all, func(c candidate) bool { return len(c.hints.Nodes) > 0 })
	if !hinted && !t.local {
		return nil
	}
	byNode := map[string][]candidate{}
	for _, c := range t.all {
		if c.node != "" {
			byNode[c.node] = append(byNode[c.node], c)
		}
		for _, node := range c.hints.Nodes {
			if c.ready() && node != c.node {
				byNode[node] = append(byNode[node], c)
			}
		}
	}
	var parts []part
	for node, on := range byNode {
		parts = append(parts, t.node(node, on))
	}
	return parts
}

// node returns the part in one node's layer, of the candidates that are there or have a hint for it.
func (t *topology) node(node string, on []candidate) part {
	p := part{layer: model.NodeLayer(node), root: t.root, place: model.PlaceOf(node)}
	var given, here []candidate
	for _, c := range on {
		p.backends = append(p.backends, c.backend())
		if c.node == node {
			here = append(here, c)
		}
		if c.ready() && slices.Contains(c.hints.Nodes, node) {
			given = append(given, c)
		}
	}
	if t.hints&model.NodeHints != 0 && len(given) > 0 {
		p.sets = append(p.sets, t.set(t.part(model.ScopeNode, p.place), addresses(given), 0))
	}
	if members, flags := choose(here); t.local && len(members) > 0 {
		p.sets = append(p.sets, t.set(t.part(model.ScopeLocal, p.place), members, flags))
	}
	return p
}

func (t *topology) part(scope model.Scope, place model.Place) model.SetKey {
	key := t.root
	key.Scope, key.Place = scope, place
	return key
}

func (t *topology) set(key model.SetKey, members []netip.AddrPort, flags model.SetFlags) set {
	return set{key: key, flags: flags, affinity: t.affinity, members: members}
}

// choose returns those of some candidates that take new connections: the ready ones, else those that terminate and
// still serve.
func choose(of []candidate) (members []netip.AddrPort, flags model.SetFlags) {
	least := ready
	if !slices.ContainsFunc(of, func(c candidate) bool { return c.ready() }) {
		least = fallback
	}
	members = make([]netip.AddrPort, 0, len(of))
	for _, c := range of {
		if c.condition >= least {
			members = append(members, c.at)
		}
	}
	if least == fallback && len(members) > 0 {
		flags = model.Fallback
	}
	return members, flags
}

func addresses(of []candidate) []netip.AddrPort {
	list := make([]netip.AddrPort, len(of))
	for i, c := range of {
		list[i] = c.at
	}
	return list
}

func (c *candidate) ready() bool { return c.condition == ready }

func (c *candidate) backend() backend {
	b := backend{at: c.at, state: model.BackendTerminating, node: c.number}
	if c.ready() {
		b.state = model.BackendActive
	}
	if c.weight > 1 {
		b.weight = c.weight
	}
	return b
}

func compareSets(a, b set) int {
	return cmp.Or(cmp.Compare(a.key.Scope, b.key.Scope), cmp.Compare(a.key.Place, b.key.Place))
}
