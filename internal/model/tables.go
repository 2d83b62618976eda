// SPDX-License-Identifier: Apache-2.0

package model

import (
	"maps"
	"net/netip"
)

// Tables are the rows of one layer, or of all layers of one node. A zero Tables is empty and ready for
// reading; NewTables makes one for writing.
type Tables struct {
	Frontends    map[FrontendKey]Frontend
	Sets         map[SetID]BackendSet
	Backends     map[BackendID]Backend
	Members      map[Member]Member
	Endpoints    map[netip.Addr]Endpoint
	Views        map[ViewKey]View
	SourceRanges map[SourceRange]SourceRange
	Networks     map[netip.Prefix]Network
	HealthChecks map[uint16]HealthCheck
	Nodes        map[NodeID]Node
	Selves       map[SelfKey]Self
	RuleSets     map[RuleSetID]RuleSet
	Rules        map[RuleID]Rule
	PortVerdicts map[PortKey]PortVerdict
	Verdicts     map[VerdictKey]Verdict
	Blocks       map[netip.Prefix]Block
	Peers        Peers
}

// Change is what turns one Tables into another. A row to put replaces the row of the same key. No key is both
// put and removed, and no key stands twice in one list. The order within a list has no meaning.
type Change struct {
	Put    Rows
	Remove Keys
}

// Rows are rows of all tables.
type Rows struct {
	Frontends    []Frontend
	Sets         []BackendSet
	Backends     []Backend
	Members      []Member
	Endpoints    []Endpoint
	Views        []View
	SourceRanges []SourceRange
	Networks     []Network
	HealthChecks []HealthCheck
	Nodes        []Node
	Selves       []Self
	RuleSets     []RuleSet
	Rules        []Rule
	PortVerdicts []PortVerdict
	Verdicts     []Verdict
	Blocks       []Block
	Peers        []Peer
}

// Append adds the rows of another part.
func (r *Rows) Append(part *Rows) {
	r.Frontends = append(r.Frontends, part.Frontends...)
	r.Sets = append(r.Sets, part.Sets...)
	r.Backends = append(r.Backends, part.Backends...)
	r.Members = append(r.Members, part.Members...)
	r.Endpoints = append(r.Endpoints, part.Endpoints...)
	r.Views = append(r.Views, part.Views...)
	r.SourceRanges = append(r.SourceRanges, part.SourceRanges...)
	r.Networks = append(r.Networks, part.Networks...)
	r.HealthChecks = append(r.HealthChecks, part.HealthChecks...)
	r.Nodes = append(r.Nodes, part.Nodes...)
	r.Selves = append(r.Selves, part.Selves...)
	r.RuleSets = append(r.RuleSets, part.RuleSets...)
	r.Rules = append(r.Rules, part.Rules...)
	r.PortVerdicts = append(r.PortVerdicts, part.PortVerdicts...)
	r.Verdicts = append(r.Verdicts, part.Verdicts...)
	r.Blocks = append(r.Blocks, part.Blocks...)
	r.Peers = append(r.Peers, part.Peers...)
}

// Keys name rows of all tables.
type Keys struct {
	Frontends    []FrontendKey
	Sets         []SetID
	Backends     []BackendID
	Members      []Member
	Endpoints    []netip.Addr
	Views        []ViewKey
	SourceRanges []SourceRange
	Networks     []netip.Prefix
	HealthChecks []uint16
	Nodes        []NodeID
	Selves       []SelfKey
	RuleSets     []RuleSetID
	Rules        []RuleID
	PortVerdicts []PortKey
	Verdicts     []VerdictKey
	Blocks       []netip.Prefix
	Peers        []netip.Addr
}

// Append adds the keys of another part.
func (k *Keys) Append(part *Keys) {
	k.Frontends = append(k.Frontends, part.Frontends...)
	k.Sets = append(k.Sets, part.Sets...)
	k.Backends = append(k.Backends, part.Backends...)
	k.Members = append(k.Members, part.Members...)
	k.Endpoints = append(k.Endpoints, part.Endpoints...)
	k.Views = append(k.Views, part.Views...)
	k.SourceRanges = append(k.SourceRanges, part.SourceRanges...)
	k.Networks = append(k.Networks, part.Networks...)
	k.HealthChecks = append(k.HealthChecks, part.HealthChecks...)
	k.Nodes = append(k.Nodes, part.Nodes...)
	k.Selves = append(k.Selves, part.Selves...)
	k.RuleSets = append(k.RuleSets, part.RuleSets...)
	k.Rules = append(k.Rules, part.Rules...)
	k.PortVerdicts = append(k.PortVerdicts, part.PortVerdicts...)
	k.Verdicts = append(k.Verdicts, part.Verdicts...)
	k.Blocks = append(k.Blocks, part.Blocks...)
	k.Peers = append(k.Peers, part.Peers...)
}

// Len returns the number of rows.
func (r *Rows) Len() int {
	return len(r.Frontends) + len(r.Sets) + len(r.Backends) + len(r.Members) + len(r.Endpoints) +
		len(r.Views) + len(r.SourceRanges) + len(r.Networks) + len(r.HealthChecks) + len(r.Nodes) + len(r.Selves) +
		len(r.RuleSets) + len(r.Rules) + len(r.PortVerdicts) + len(r.Verdicts) + len(r.Blocks) + len(r.Peers)
}

// Len returns the number of keys.
func (k *Keys) Len() int {
	return len(k.Frontends) + len(k.Sets) + len(k.Backends) + len(k.Members) + len(k.Endpoints) +
		len(k.Views) + len(k.SourceRanges) + len(k.Networks) + len(k.HealthChecks) + len(k.Nodes) + len(k.Selves) +
		len(k.RuleSets) + len(k.Rules) + len(k.PortVerdicts) + len(k.Verdicts) + len(k.Blocks) + len(k.Peers)
}

// Empty says that the change changes nothing.
func (c *Change) Empty() bool { return c.Put.Len() == 0 && c.Remove.Len() == 0 }

// NewTables returns empty tables.
func NewTables() *Tables {
	return &Tables{
		Frontends:    map[FrontendKey]Frontend{},
		Sets:         map[SetID]BackendSet{},
		Backends:     map[BackendID]Backend{},
		Members:      map[Member]Member{},
		Endpoints:    map[netip.Addr]Endpoint{},
		Views:        map[ViewKey]View{},
		SourceRanges: map[SourceRange]SourceRange{},
		Networks:     map[netip.Prefix]Network{},
		HealthChecks: map[uint16]HealthCheck{},
		Nodes:        map[NodeID]Node{},
		Selves:       map[SelfKey]Self{},
		RuleSets:     map[RuleSetID]RuleSet{},
		Rules:        map[RuleID]Rule{},
		PortVerdicts: map[PortKey]PortVerdict{},
		Verdicts:     map[VerdictKey]Verdict{},
		Blocks:       map[netip.Prefix]Block{},
		Peers:        Peers{},
	}
}

// Clone returns a copy that shares nothing with t.
func (t *Tables) Clone() *Tables {
	c := NewTables()
	maps.Copy(c.Frontends, t.Frontends)
	maps.Copy(c.Sets, t.Sets)
	maps.Copy(c.Backends, t.Backends)
	maps.Copy(c.Members, t.Members)
	maps.Copy(c.Endpoints, t.Endpoints)
	maps.Copy(c.Views, t.Views)
	maps.Copy(c.SourceRanges, t.SourceRanges)
	maps.Copy(c.Networks, t.Networks)
	maps.Copy(c.HealthChecks, t.HealthChecks)
	maps.Copy(c.Nodes, t.Nodes)
	maps.Copy(c.Selves, t.Selves)
	maps.Copy(c.RuleSets, t.RuleSets)
	maps.Copy(c.Rules, t.Rules)
	maps.Copy(c.PortVerdicts, t.PortVerdicts)
	maps.Copy(c.Verdicts, t.Verdicts)
	maps.Copy(c.Blocks, t.Blocks)
	maps.Copy(c.Peers, t.Peers)
	return c
}

// Len returns the number of rows.
func (t *Tables) Len() int {
	return len(t.Frontends) + len(t.Sets) + len(t.Backends) + len(t.Members) + len(t.Endpoints) +
		len(t.Views) + len(t.SourceRanges) + len(t.Networks) + len(t.HealthChecks) + len(t.Nodes) + len(t.Selves) +
		len(t.RuleSets) + len(t.Rules) + len(t.PortVerdicts) + len(t.Verdicts) + len(t.Blocks) + len(t.Peers)
}

// Apply changes t by c and returns digest moved by exactly the rows that differ, so that applying the same
// change twice is the same as applying it once.
func (t *Tables) Apply(c *Change, digest Digest) Digest {
	sum := newSum(digest)
	removeAll(t.Frontends, c.Remove.Frontends, sum)
	removeAll(t.Members, c.Remove.Members, sum)
	removeAll(t.Sets, c.Remove.Sets, sum)
	removeAll(t.Backends, c.Remove.Backends, sum)
	removeAll(t.Endpoints, c.Remove.Endpoints, sum)
	removeAll(t.Views, c.Remove.Views, sum)
	removeAll(t.SourceRanges, c.Remove.SourceRanges, sum)
	removeAll(t.Networks, c.Remove.Networks, sum)
	removeAll(t.HealthChecks, c.Remove.HealthChecks, sum)
	removeAll(t.Nodes, c.Remove.Nodes, sum)
	removeAll(t.Selves, c.Remove.Selves, sum)
	removeAll(t.RuleSets, c.Remove.RuleSets, sum)
	removeAll(t.Rules, c.Remove.Rules, sum)
	removeAll(t.PortVerdicts, c.Remove.PortVerdicts, sum)
	removeAll(t.Verdicts, c.Remove.Verdicts, sum)
	removeAll(t.Blocks, c.Remove.Blocks, sum)
	t.Peers.removeAll(c.Remove.Peers, sum)
	putAll(t.Backends, c.Put.Backends, sum)
	putAll(t.Sets, c.Put.Sets, sum)
	putAll(t.Members, c.Put.Members, sum)
	putAll(t.Frontends, c.Put.Frontends, sum)
	putAll(t.Endpoints, c.Put.Endpoints, sum)
	putAll(t.Views, c.Put.Views, sum)
	putAll(t.SourceRanges, c.Put.SourceRanges, sum)
	putAll(t.Networks, c.Put.Networks, sum)
	putAll(t.HealthChecks, c.Put.HealthChecks, sum)
	putAll(t.Nodes, c.Put.Nodes, sum)
	putAll(t.Selves, c.Put.Selves, sum)
	putAll(t.RuleSets, c.Put.RuleSets, sum)
	putAll(t.Rules, c.Put.Rules, sum)
	putAll(t.PortVerdicts, c.Put.PortVerdicts, sum)
	putAll(t.Verdicts, c.Put.Verdicts, sum)
	putAll(t.Blocks, c.Put.Blocks, sum)
	t.Peers.putAll(c.Put.Peers, sum)
	return sum.Digest
}

// Diff returns the change that turns from into to.
func Diff(from, to *Tables) *Change {
	var c Change
	c.Put.Frontends, c.Remove.Frontends = diff(from.Frontends, to.Frontends)
	c.Put.Sets, c.Remove.Sets = diff(from.Sets, to.Sets)
	c.Put.Backends, c.Remove.Backends = diff(from.Backends, to.Backends)
	c.Put.Members, c.Remove.Members = diff(from.Members, to.Members)
	c.Put.Endpoints, c.Remove.Endpoints = diff(from.Endpoints, to.Endpoints)
	c.Put.Views, c.Remove.Views = diff(from.Views, to.Views)
	c.Put.SourceRanges, c.Remove.SourceRanges = diff(from.SourceRanges, to.SourceRanges)
	c.Put.Networks, c.Remove.Networks = diff(from.Networks, to.Networks)
	c.Put.HealthChecks, c.Remove.HealthChecks = diff(from.HealthChecks, to.HealthChecks)
	c.Put.Nodes, c.Remove.Nodes = diff(from.Nodes, to.Nodes)
	c.Put.Selves, c.Remove.Selves = diff(from.Selves, to.Selves)
	c.Put.RuleSets, c.Remove.RuleSets = diff(from.RuleSets, to.RuleSets)
	c.Put.Rules, c.Remove.Rules = diff(from.Rules, to.Rules)
	c.Put.PortVerdicts, c.Remove.PortVerdicts = diff(from.PortVerdicts, to.PortVerdicts)
	c.Put.Verdicts, c.Remove.Verdicts = diff(from.Verdicts, to.Verdicts)
	c.Put.Blocks, c.Remove.Blocks = diff(from.Blocks, to.Blocks)
	c.Put.Peers, c.Remove.Peers = diffPeers(from.Peers, to.Peers)
	return &c
}

// Rows returns all rows of t in no particular order.
func (t *Tables) Rows() Rows { return Diff(&Tables{}, t).Put }

// Digest returns the digest of all rows of t.
func (t *Tables) Digest() Digest {
	sum := newSum(Digest{})
	for _, row := range t.Frontends {
		sum.add(row)
	}
	for _, row := range t.Sets {
		sum.add(row)
	}
	for _, row := range t.Backends {
		sum.add(row)
	}
	for _, row := range t.Members {
		sum.add(row)
	}
	for _, row := range t.Endpoints {
		sum.add(row)
	}
	for _, row := range t.Views {
		sum.add(row)
	}
	for _, row := range t.SourceRanges {
		sum.add(row)
	}
	for _, row := range t.Networks {
		sum.add(row)
	}
	for _, row := range t.HealthChecks {
		sum.add(row)
	}
	for _, row := range t.Nodes {
		sum.add(row)
	}
	for _, row := range t.Selves {
		sum.add(row)
	}
	for _, row := range t.RuleSets {
		sum.add(row)
	}
	for _, row := range t.Rules {
		sum.add(row)
	}
	for _, row := range t.PortVerdicts {
		sum.add(row)
	}
	for _, row := range t.Verdicts {
		sum.add(row)
	}
	for _, row := range t.Blocks {
		sum.add(row)
	}
	for _, row := range t.Peers.All() {
		sum.add(row)
	}
	return sum.Digest
}

// row is what every table's row can do: name its key and write the bytes that digests are made of.
type row[K comparable] interface {
	comparable
	canonical
	Key() K
}

func putAll[K comparable, R row[K]](table map[K]R, rows []R, sum *sum) {
	for _, r := range rows {
		old, held := table[r.Key()]
		if held && old == r {
			continue
		}
		if held {
			sum.remove(old)
		}
		table[r.Key()] = r
		sum.add(r)
	}
}

func removeAll[K comparable, R row[K]](table map[K]R, keys []K, sum *sum) {
	for _, k := range keys {
		if old, held := table[k]; held {
			delete(table, k)
			sum.remove(old)
		}
	}
}

func diff[K comparable, R row[K]](from, to map[K]R) (put []R, remove []K) {
	for k, r := range to {
		if old, held := from[k]; !held || old != r {
			put = append(put, r)
		}
	}
	for k := range from {
		if _, kept := to[k]; !kept {
			remove = append(remove, k)
		}
	}
	return put, remove
}
