// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
)

// Join returns the change that comes to the same as these, one after the other.
func Join(changes ...*Change) *Change {
	if len(changes) == 1 {
		return changes[0]
	}
	of := func(pick func(*Change)) {
		for _, c := range slices.Backward(changes) {
			pick(c)
		}
	}
	var c Change
	join(of, &c.Put.Frontends, &c.Remove.Frontends, func(c *Change) ([]Frontend, []FrontendKey) { return c.Put.Frontends, c.Remove.Frontends })
	join(of, &c.Put.Sets, &c.Remove.Sets, func(c *Change) ([]BackendSet, []SetID) { return c.Put.Sets, c.Remove.Sets })
	join(of, &c.Put.Backends, &c.Remove.Backends, func(c *Change) ([]Backend, []BackendID) { return c.Put.Backends, c.Remove.Backends })
	join(of, &c.Put.Members, &c.Remove.Members, func(c *Change) ([]Member, []Member) { return c.Put.Members, c.Remove.Members })
	join(of, &c.Put.Endpoints, &c.Remove.Endpoints, func(c *Change) ([]Endpoint, []netip.Addr) { return c.Put.Endpoints, c.Remove.Endpoints })
	join(of, &c.Put.Views, &c.Remove.Views, func(c *Change) ([]View, []ViewKey) { return c.Put.Views, c.Remove.Views })
	join(of, &c.Put.SourceRanges, &c.Remove.SourceRanges, func(c *Change) ([]SourceRange, []SourceRange) { return c.Put.SourceRanges, c.Remove.SourceRanges })
	join(of, &c.Put.Networks, &c.Remove.Networks, func(c *Change) ([]Network, []netip.Prefix) { return c.Put.Networks, c.Remove.Networks })
	join(of, &c.Put.HealthChecks, &c.Remove.HealthChecks, func(c *Change) ([]HealthCheck, []uint16) { return c.Put.HealthChecks, c.Remove.HealthChecks })
	join(of, &c.Put.Nodes, &c.Remove.Nodes, func(c *Change) ([]Node, []NodeID) { return c.Put.Nodes, c.Remove.Nodes })
	join(of, &c.Put.Selves, &c.Remove.Selves, func(c *Change) ([]Self, []SelfKey) { return c.Put.Selves, c.Remove.Selves })
	join(of, &c.Put.RuleSets, &c.Remove.RuleSets, func(c *Change) ([]RuleSet, []RuleSetID) { return c.Put.RuleSets, c.Remove.RuleSets })
	join(of, &c.Put.Rules, &c.Remove.Rules, func(c *Change) ([]Rule, []RuleID) { return c.Put.Rules, c.Remove.Rules })
	join(of, &c.Put.PortVerdicts, &c.Remove.PortVerdicts, func(c *Change) ([]PortVerdict, []PortKey) { return c.Put.PortVerdicts, c.Remove.PortVerdicts })
	join(of, &c.Put.Verdicts, &c.Remove.Verdicts, func(c *Change) ([]Verdict, []VerdictKey) { return c.Put.Verdicts, c.Remove.Verdicts })
	join(of, &c.Put.Blocks, &c.Remove.Blocks, func(c *Change) ([]Block, []netip.Prefix) { return c.Put.Blocks, c.Remove.Blocks })
	join(of, &c.Put.Peers, &c.Remove.Peers, func(c *Change) ([]Peer, []netip.Addr) { return c.Put.Peers, c.Remove.Peers })
	return &c
}

// join keeps of each key what the newest change says; of gives the newest first.
func join[K comparable, R interface{ Key() K }](of func(func(*Change)), put *[]R, remove *[]K, list func(*Change) ([]R, []K)) {
	rest := 0
	of(func(c *Change) {
		rows, keys := list(c)
		rest += len(rows) + len(keys)
	})
	seen := map[K]struct{}{}
	of(func(c *Change) {
		rows, keys := list(c)
		rest -= len(rows) + len(keys)
		for _, r := range rows {
			if _, newer := seen[r.Key()]; !newer {
				*put = append(*put, r)
			}
		}
		for _, k := range keys {
			if _, newer := seen[k]; !newer {
				*remove = append(*remove, k)
			}
		}
		if rest == 0 {
			return // the oldest ones, which may be all rows, needn't be remembered
		}
		for _, r := range rows {
			seen[r.Key()] = struct{}{}
		}
		for _, k := range keys {
			seen[k] = struct{}{}
		}
	})
}

// Trim leaves out of c what is in t already: rows that are held as they are, and keys that aren't.
func (c *Change) Trim(t *Tables) {
	trim(t.Frontends, &c.Put.Frontends, &c.Remove.Frontends)
	trim(t.Sets, &c.Put.Sets, &c.Remove.Sets)
	trim(t.Backends, &c.Put.Backends, &c.Remove.Backends)
	trim(t.Members, &c.Put.Members, &c.Remove.Members)
	trim(t.Endpoints, &c.Put.Endpoints, &c.Remove.Endpoints)
	trim(t.Views, &c.Put.Views, &c.Remove.Views)
	trim(t.SourceRanges, &c.Put.SourceRanges, &c.Remove.SourceRanges)
	trim(t.Networks, &c.Put.Networks, &c.Remove.Networks)
	trim(t.HealthChecks, &c.Put.HealthChecks, &c.Remove.HealthChecks)
	trim(t.Nodes, &c.Put.Nodes, &c.Remove.Nodes)
	trim(t.Selves, &c.Put.Selves, &c.Remove.Selves)
	trim(t.RuleSets, &c.Put.RuleSets, &c.Remove.RuleSets)
	trim(t.Rules, &c.Put.Rules, &c.Remove.Rules)
	trim(t.PortVerdicts, &c.Put.PortVerdicts, &c.Remove.PortVerdicts)
	trim(t.Verdicts, &c.Put.Verdicts, &c.Remove.Verdicts)
	trim(t.Blocks, &c.Put.Blocks, &c.Remove.Blocks)
	c.Put.Peers = slices.DeleteFunc(c.Put.Peers, func(p Peer) bool {
		old, held := t.Peers.Get(p.Addr)
		return held && old == p
	})
	c.Remove.Peers = slices.DeleteFunc(c.Remove.Peers, func(addr netip.Addr) bool {
		_, held := t.Peers.Get(addr)
		return !held
	})
}

func trim[K comparable, R row[K]](table map[K]R, put *[]R, remove *[]K) {
	*put = slices.DeleteFunc(*put, func(r R) bool {
		old, held := table[r.Key()]
		return held && old == r
	})
	*remove = slices.DeleteFunc(*remove, func(k K) bool {
		_, held := table[k]
		return !held
	})
}

// Find returns the rows that t holds of some keys.
func (t *Tables) Find(k *Keys) (r Rows) {
	r.Frontends = find(t.Frontends, k.Frontends)
	r.Sets = find(t.Sets, k.Sets)
	r.Backends = find(t.Backends, k.Backends)
	r.Members = find(t.Members, k.Members)
	r.Endpoints = find(t.Endpoints, k.Endpoints)
	r.Views = find(t.Views, k.Views)
	r.SourceRanges = find(t.SourceRanges, k.SourceRanges)
	r.Networks = find(t.Networks, k.Networks)
	r.HealthChecks = find(t.HealthChecks, k.HealthChecks)
	r.Nodes = find(t.Nodes, k.Nodes)
	r.Selves = find(t.Selves, k.Selves)
	r.RuleSets = find(t.RuleSets, k.RuleSets)
	r.Rules = find(t.Rules, k.Rules)
	r.PortVerdicts = find(t.PortVerdicts, k.PortVerdicts)
	r.Verdicts = find(t.Verdicts, k.Verdicts)
	r.Blocks = find(t.Blocks, k.Blocks)
	for _, addr := range k.Peers {
		if p, held := t.Peers.Get(addr); held {
			r.Peers = append(r.Peers, p)
		}
	}
	return r
}

func find[K comparable, R any](table map[K]R, keys []K) (rows []R) {
	for _, k := range keys {
		if r, held := table[k]; held {
			rows = append(rows, r)
		}
	}
	return rows
}

// Lacking returns the keys of what t holds and what isn't among rows.
func (t *Tables) Lacking(rows *Rows) Keys {
	return Keys{
		Frontends:    lacking(t.Frontends, rows.Frontends),
		Sets:         lacking(t.Sets, rows.Sets),
		Backends:     lacking(t.Backends, rows.Backends),
		Members:      lacking(t.Members, rows.Members),
		Endpoints:    lacking(t.Endpoints, rows.Endpoints),
		Views:        lacking(t.Views, rows.Views),
		SourceRanges: lacking(t.SourceRanges, rows.SourceRanges),
		Networks:     lacking(t.Networks, rows.Networks),
		HealthChecks: lacking(t.HealthChecks, rows.HealthChecks),
		Nodes:        lacking(t.Nodes, rows.Nodes),
		Selves:       lacking(t.Selves, rows.Selves),
		RuleSets:     lacking(t.RuleSets, rows.RuleSets),
		Rules:        lacking(t.Rules, rows.Rules),
		PortVerdicts: lacking(t.PortVerdicts, rows.PortVerdicts),
		Verdicts:     lacking(t.Verdicts, rows.Verdicts),
		Blocks:       lacking(t.Blocks, rows.Blocks),
		Peers:        lackingPeers(t.Peers, rows.Peers),
	}
}

func lacking[K comparable, R interface{ Key() K }](held map[K]R, rows []R) (keys []K) {
	if len(held) == 0 {
		return nil
	}
	kept := make(map[K]struct{}, len(rows))
	for _, r := range rows {
		kept[r.Key()] = struct{}{}
	}
	for k := range held {
		if _, ok := kept[k]; !ok {
			keys = append(keys, k)
		}
	}
	return keys
}

func lackingPeers(held Peers, rows []Peer) (addrs []netip.Addr) {
	if len(held) == 0 {
		return nil
	}
	kept := make(Peers, len(rows))
	for _, row := range rows {
		kept.Put(row)
	}
	for addr := range held.All() {
		if _, ok := kept.Get(addr); !ok {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
