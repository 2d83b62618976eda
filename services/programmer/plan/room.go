// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// choice is the rule sets that are kept, and all that they need.
type choice struct {
	*wanting
	kept   map[model.RuleSetID]bool
	all    bool // everything is, also what no rule set needs
	ports  map[model.PortsID]bool
	rules  map[model.RuleID]bool
	known  map[model.IdentityID]bool
	peers  map[netip.Addr]bool
	trees  map[int]bool
	counts [abi.MapCount]int
	// beside is what the maps hold, if rows that are there cost nothing; else nil.
	beside *model.Tables
	undo   []func() // of the last add
}

// room is how many entries more of each map may be taken.
type room [abi.MapCount]int

// roomFor returns what the maps have room for: for all of the node's rows, or beside those that are there.
func (s *State) roomFor(capacities Capacities, beside bool) (r room) {
	cluster := s.tables[model.LayerCluster]
	others := [abi.MapCount]int{
		abi.Peers: len(cluster.Peers), abi.Blocks: len(cluster.Blocks), abi.Verdicts: len(cluster.Verdicts),
		abi.PortVerdicts: len(cluster.PortVerdicts), abi.RuleSets: len(cluster.RuleSets), abi.Rules: len(cluster.Rules),
	}
	for m, capacity := range capacities {
		switch {
		case capacity == 0:
			r[m] = math.MaxInt
		case beside:
			r[m] = capacity - s.entries[m]
		default:
			r[m] = capacity - others[m]
		}
	}
	return r
}

func (w *wanting) nothing(beside *model.Tables) *choice {
	return &choice{
		wanting: w, kept: map[model.RuleSetID]bool{}, ports: map[model.PortsID]bool{}, rules: map[model.RuleID]bool{},
		known: map[model.IdentityID]bool{}, peers: map[netip.Addr]bool{}, trees: map[int]bool{}, beside: beside,
	}
}

// choose keeps as many rule sets as there is room for: first those that judge already, each before those that are larger,
// and of the same size by id, so that the same ones are kept whenever it is asked.
func (w *wanting) choose(r room, judges func(model.RuleSetID) bool, beside *model.Tables) *choice {
	c := w.nothing(beside)
	if beside == nil && w.need().fits(r) {
		c.all, c.kept = true, map[model.RuleSetID]bool{}
		for id := range w.RuleSets {
			c.kept[id] = true
		}
		return c
	}
	ids := slices.SortedFunc(maps.Keys(w.RuleSets), func(a, b model.RuleSetID) int {
		return cmp.Or(cmp.Compare(flag(judges(b)), flag(judges(a))), cmp.Compare(w.sizes[a], w.sizes[b]), cmp.Compare(a, b))
	})
	for _, id := range ids {
		c.undo = c.undo[:0]
		c.add(id)
		if needs(c.counts).fits(r) {
			c.kept[id] = true
			continue
		}
		for _, undo := range c.undo {
			undo()
		}
	}
	return c
}

// needs is how many entries of each map are needed.
type needs [abi.MapCount]int

func (n needs) fits(r room) bool {
	for m := range n {
		if n[m] > r[m] && n[m] > 0 {
			return false
		}
	}
	return true
}

// need returns what all rows of policy need.
func (w *wanting) need() needs {
	return needs{
		abi.Peers: len(w.Peers), abi.Blocks: len(w.Blocks), abi.Verdicts: len(w.Verdicts),
		abi.PortVerdicts: len(w.PortVerdicts), abi.RuleSets: len(w.RuleSets), abi.Rules: len(w.Rules),
	}
}

// add adds what a rule set needs.
func (c *choice) add(id model.RuleSetID) {
	count(c, abi.RuleSets, tablesOf(c.beside).RuleSets, id)
	for _, v := range c.verdicts[id] {
		count(c, abi.Verdicts, tablesOf(c.beside).Verdicts, v.VerdictKey)
		c.addRule(v.Rule)
		if note(c, c.ports, v.Ports) {
			for _, p := range c.wanting.ports[v.Ports] {
				count(c, abi.PortVerdicts, tablesOf(c.beside).PortVerdicts, p.PortKey)
				c.addRule(p.Rule)
			}
		}
		if v.Identity != 0 && note(c, c.known, v.Identity) {
			c.addIdentity(v.Identity)
		}
	}
}

func (c *choice) addRule(id model.RuleID) {
	if _, named := c.Rules[id]; named && note(c, c.rules, id) {
		count(c, abi.Rules, tablesOf(c.beside).Rules, id)
	}
}

func (c *choice) addIdentity(id model.IdentityID) {
	for _, addr := range c.wanting.peers[id] {
		if note(c, c.peers, addr) {
			_, there := tablesOf(c.beside).Peers.Get(addr)
			c.count(abi.Peers, there)
		}
	}
	for _, tree := range c.wanting.trees[id] {
		if note(c, c.trees, tree) {
			for _, p := range c.wanting.blocks[tree] {
				count(c, abi.Blocks, tablesOf(c.beside).Blocks, p)
			}
		}
	}
}

func tablesOf(t *model.Tables) *model.Tables {
	if t == nil {
		return &model.Tables{}
	}
	return t
}

func count[K comparable, R any](c *choice, m abi.Map, held map[K]R, key K) {
	_, there := held[key]
	c.count(m, there)
}

func (c *choice) count(m abi.Map, there bool) {
	if there {
		return
	}
	c.counts[m]++
	c.undo = append(c.undo, func() { c.counts[m]-- })
}

// note adds key to noted; false if it is there.
func note[K comparable](c *choice, noted map[K]bool, key K) bool {
	if noted[key] {
		return false
	}
	noted[key] = true
	c.undo = append(c.undo, func() { delete(noted, key) })
	return true
}

// rows returns the rows of policy that the maps are to hold: what is kept, and endpoints that are closed where theirs are
// not. What closes has the names of the policies as long as there is room for them.
func (c *choice) rows(r room) *model.Tables {
	if c.all {
		return policyOnly(c.Tables)
	}
	t := model.NewTables()
	for id := range c.kept {
		t.RuleSets[id] = c.RuleSets[id]
		for _, v := range c.verdicts[id] {
			t.Verdicts[v.VerdictKey] = v
		}
	}
	for id := range c.ports {
		for _, v := range c.wanting.ports[id] {
			t.PortVerdicts[v.PortKey] = v
		}
	}
	for id := range c.rules {
		t.Rules[id] = c.Rules[id]
	}
	for addr := range c.peers {
		row, _ := c.Peers.Get(addr)
		t.Peers.Put(row)
	}
	for tree := range c.trees {
		for _, p := range c.wanting.blocks[tree] {
			t.Blocks[p] = c.Blocks[p]
		}
	}
	for addr, e := range c.Endpoints {
		e.Ingress, e.Egress = c.judgeOf(e.Ingress), c.judgeOf(e.Egress)
		t.Endpoints[addr] = e
	}
	named := c.counts[abi.RuleSets]
	for _, id := range c.leftOut() {
		row := c.RuleSets[id]
		row.ID = c.closed(id)
		if named++; named <= r[abi.RuleSets] {
			t.RuleSets[row.ID] = row
		}
	}
	return t
}

// judgeOf returns what an endpoint is judged by.
func (c *choice) judgeOf(id model.RuleSetID) model.RuleSetID {
	if id == 0 || c.kept[id] {
		return id
	}
	return c.closed(id)
}

// leftOut returns the rule sets that are not kept, in order.
func (c *choice) leftOut() (ids []model.RuleSetID) {
	for _, id := range slices.Sorted(maps.Keys(c.RuleSets)) {
		if !c.kept[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// policyOnly returns the tables of policy, and the endpoints that it judges, and no others.
func policyOnly(t *model.Tables) *model.Tables {
	return &model.Tables{
		Endpoints: t.Endpoints, RuleSets: t.RuleSets, Rules: t.Rules, PortVerdicts: t.PortVerdicts, Verdicts: t.Verdicts,
		Blocks: t.Blocks, Peers: t.Peers,
	}
}
