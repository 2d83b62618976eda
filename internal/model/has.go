// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
)

// Has says whether t is as c would make it: applying c would change nothing.
func (t *Tables) Has(c *Change) bool {
	return has(t.Frontends, c.Put.Frontends, c.Remove.Frontends) &&
		has(t.Sets, c.Put.Sets, c.Remove.Sets) &&
		has(t.Backends, c.Put.Backends, c.Remove.Backends) &&
		has(t.Members, c.Put.Members, c.Remove.Members) &&
		has(t.Endpoints, c.Put.Endpoints, c.Remove.Endpoints) &&
		has(t.Views, c.Put.Views, c.Remove.Views) &&
		has(t.SourceRanges, c.Put.SourceRanges, c.Remove.SourceRanges) &&
		has(t.Networks, c.Put.Networks, c.Remove.Networks) &&
		has(t.HealthChecks, c.Put.HealthChecks, c.Remove.HealthChecks) &&
		has(t.Nodes, c.Put.Nodes, c.Remove.Nodes) &&
		has(t.Selves, c.Put.Selves, c.Remove.Selves) &&
		has(t.RuleSets, c.Put.RuleSets, c.Remove.RuleSets) &&
		has(t.Rules, c.Put.Rules, c.Remove.Rules) &&
		has(t.PortVerdicts, c.Put.PortVerdicts, c.Remove.PortVerdicts) &&
		has(t.Verdicts, c.Put.Verdicts, c.Remove.Verdicts) &&
		has(t.Blocks, c.Put.Blocks, c.Remove.Blocks) &&
		t.Peers.has(c.Put.Peers, c.Remove.Peers)
}

func has[K comparable, R row[K]](table map[K]R, put []R, remove []K) bool {
	for _, r := range put {
		if old, held := table[r.Key()]; !held || old != r {
			return false
		}
	}
	for _, k := range remove {
		if _, held := table[k]; held && !slices.ContainsFunc(put, func(r R) bool { return r.Key() == k }) {
			return false
		}
	}
	return true
}

func (p Peers) has(put []Peer, remove []netip.Addr) bool {
	for _, r := range put {
		if old, held := p.Get(r.Addr); !held || old != r {
			return false
		}
	}
	for _, addr := range remove {
		if _, held := p.Get(addr); held && !slices.ContainsFunc(put, func(r Peer) bool { return r.Addr == addr }) {
			return false
		}
	}
	return true
}
