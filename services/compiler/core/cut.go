// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// What a row takes in a message, in bytes, at most; names of sets and pods are counted with their longest.
const (
	sizeSet         = 192
	sizeFrontend    = 48
	sizeBackend     = 64
	sizeMember      = 16
	sizeEndpoint    = 345
	sizeView        = 28
	sizeSourceRange = 34
	sizeNetwork     = 28
	sizeHealthCheck = 140
	sizeNode        = 34
	sizeSelf        = 80
	sizeRuleSet     = 280
	sizeRule        = 460
	sizePortVerdict = 36
	sizeVerdict     = 40
	sizeBlock       = 34
	sizePeer        = 44 // alone in its identity
	sizeKey         = 34
)

// cut makes several changes of one that is too large for a batch, to be applied in order as revisions of their
// own. Each of them leaves tables that are whole: first come additions, root by root, a frontend after all of its
// sets' backends and the ranges it takes clients from; then removals, a frontend before its set. So a client finds at
// each revision at least the backends that stay. A change that fits, which is nearly every one, is returned as it is.
func cut(change *model.Change, maxBytes int) []*model.Change {
	if size(change) <= maxBytes {
		return []*model.Change{change}
	}
	c := cutter{most: maxBytes}
	c.additions(&change.Put)
	c.removals(&change.Remove)
	return c.pieces
}

func size(c *model.Change) int {
	r := &c.Put
	return len(r.Sets)*sizeSet + len(r.Frontends)*sizeFrontend + len(r.Backends)*sizeBackend +
		len(r.Members)*sizeMember + len(r.Endpoints)*sizeEndpoint + len(r.Views)*sizeView +
		len(r.SourceRanges)*sizeSourceRange + len(r.Networks)*sizeNetwork + len(r.HealthChecks)*sizeHealthCheck +
		len(r.Nodes)*sizeNode + len(r.Selves)*sizeSelf + len(r.RuleSets)*sizeRuleSet + len(r.Rules)*sizeRule +
		len(r.PortVerdicts)*sizePortVerdict + len(r.Verdicts)*sizeVerdict + len(r.Blocks)*sizeBlock +
		len(r.Peers)*sizePeer + c.Remove.Len()*sizeKey
}

type cutter struct {
	most, used int
	pieces     []*model.Change
}

// piece returns the change that the next row goes to.
func (c *cutter) piece(size int) *model.Change {
	if len(c.pieces) == 0 || c.used+size > c.most {
		c.pieces = append(c.pieces, &model.Change{})
		c.used = 0
	}
	c.used += size
	return c.pieces[len(c.pieces)-1]
}

// additions places what belongs to no set, then rows root by root: backends, sets, members, views, source ranges,
// frontends. A root may span pieces.
func (c *cutter) additions(r *model.Rows) {
	place(c, sizeNetwork, r.Networks, func(p *model.Change) *[]model.Network { return &p.Put.Networks })
	place(c, sizeNode, r.Nodes, func(p *model.Change) *[]model.Node { return &p.Put.Nodes })
	place(c, sizeSelf, r.Selves, func(p *model.Change) *[]model.Self { return &p.Put.Selves })
	g := group(r)
	for _, root := range g.order() {
		place(c, sizeBackend, g.backends[root], func(p *model.Change) *[]model.Backend { return &p.Put.Backends })
		place(c, sizeSet, g.sets[root], func(p *model.Change) *[]model.BackendSet { return &p.Put.Sets })
		place(c, sizeMember, g.members[root], func(p *model.Change) *[]model.Member { return &p.Put.Members })
		place(c, sizeView, g.views[root], func(p *model.Change) *[]model.View { return &p.Put.Views })
		place(c, sizeSourceRange, g.ranges[root], func(p *model.Change) *[]model.SourceRange { return &p.Put.SourceRanges })
		place(c, sizeFrontend, g.frontends[root], func(p *model.Change) *[]model.Frontend { return &p.Put.Frontends })
	}
	place(c, sizeHealthCheck, r.HealthChecks, func(p *model.Change) *[]model.HealthCheck { return &p.Put.HealthChecks })
	c.policy(r)
}

// policy places what judges before the addresses that it judges, and the endpoints that lead to it last.
func (c *cutter) policy(r *model.Rows) {
	place(c, sizeRuleSet, r.RuleSets, func(p *model.Change) *[]model.RuleSet { return &p.Put.RuleSets })
	place(c, sizeRule, r.Rules, func(p *model.Change) *[]model.Rule { return &p.Put.Rules })
	place(c, sizePortVerdict, r.PortVerdicts, func(p *model.Change) *[]model.PortVerdict { return &p.Put.PortVerdicts })
	place(c, sizeVerdict, r.Verdicts, func(p *model.Change) *[]model.Verdict { return &p.Put.Verdicts })
	place(c, sizeBlock, r.Blocks, func(p *model.Change) *[]model.Block { return &p.Put.Blocks })
	place(c, sizePeer, r.Peers, func(p *model.Change) *[]model.Peer { return &p.Put.Peers })
	place(c, sizeEndpoint, r.Endpoints, func(p *model.Change) *[]model.Endpoint { return &p.Put.Endpoints })
}

// removals places keys in the order in which nothing ever points at nothing.
func (c *cutter) removals(k *model.Keys) {
	members := slices.SortedFunc(slices.Values(k.Members), func(a, b model.Member) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Backend, b.Backend))
	})
	place(c, sizeKey, k.HealthChecks, func(p *model.Change) *[]uint16 { return &p.Remove.HealthChecks })
	place(c, sizeKey, k.Frontends, func(p *model.Change) *[]model.FrontendKey { return &p.Remove.Frontends })
	place(c, sizeKey, k.SourceRanges, func(p *model.Change) *[]model.SourceRange { return &p.Remove.SourceRanges })
	place(c, sizeKey, k.Views, func(p *model.Change) *[]model.ViewKey { return &p.Remove.Views })
	place(c, sizeKey, members, func(p *model.Change) *[]model.Member { return &p.Remove.Members })
	place(c, sizeKey, k.Sets, func(p *model.Change) *[]model.SetID { return &p.Remove.Sets })
	place(c, sizeKey, k.Backends, func(p *model.Change) *[]model.BackendID { return &p.Remove.Backends })
	place(c, sizeKey, k.Networks, func(p *model.Change) *[]netip.Prefix { return &p.Remove.Networks })
	place(c, sizeKey, k.Nodes, func(p *model.Change) *[]model.NodeID { return &p.Remove.Nodes })
	place(c, sizeKey, k.Selves, func(p *model.Change) *[]model.SelfKey { return &p.Remove.Selves })
	place(c, sizeKey, k.Endpoints, func(p *model.Change) *[]netip.Addr { return &p.Remove.Endpoints })
	place(c, sizeKey, k.Peers, func(p *model.Change) *[]netip.Addr { return &p.Remove.Peers })
	place(c, sizeKey, k.Blocks, func(p *model.Change) *[]netip.Prefix { return &p.Remove.Blocks })
	place(c, sizeKey, k.Verdicts, func(p *model.Change) *[]model.VerdictKey { return &p.Remove.Verdicts })
	place(c, sizeKey, k.PortVerdicts, func(p *model.Change) *[]model.PortKey { return &p.Remove.PortVerdicts })
	place(c, sizeKey, k.Rules, func(p *model.Change) *[]model.RuleID { return &p.Remove.Rules })
	place(c, sizeKey, k.RuleSets, func(p *model.Change) *[]model.RuleSetID { return &p.Remove.RuleSets })
}

func place[T any](c *cutter, size int, rows []T, list func(*model.Change) *[]T) {
	for _, row := range rows {
		to := list(c.piece(size))
		*to = append(*to, row)
	}
}

// grouped are rows by their root, or by their set where that isn't known.
type grouped struct {
	sets      map[model.SetID][]model.BackendSet
	backends  map[model.SetID][]model.Backend
	members   map[model.SetID][]model.Member
	views     map[model.SetID][]model.View
	ranges    map[model.SetID][]model.SourceRange
	frontends map[model.SetID][]model.Frontend
}

func group(r *model.Rows) grouped {
	roots := map[model.SetID]model.SetID{}
	for _, row := range r.Sets {
		roots[row.ID] = row.Root
	}
	for _, row := range r.Views {
		roots[row.Target] = row.Set
	}
	return grouped{
		sets:     by(r.Sets, func(s model.BackendSet) model.SetID { return s.Root }),
		backends: by(r.Backends, func(b model.Backend) model.SetID { return b.Set }),
		members: by(r.Members, func(m model.Member) model.SetID {
			return cmp.Or(roots[m.Set], m.Set)
		}),
		views:     by(r.Views, func(v model.View) model.SetID { return v.Set }),
		ranges:    by(r.SourceRanges, func(s model.SourceRange) model.SetID { return s.Set }),
		frontends: by(r.Frontends, func(f model.Frontend) model.SetID { return f.Set }),
	}
}

func by[R any](rows []R, root func(R) model.SetID) map[model.SetID][]R {
	groups := map[model.SetID][]R{}
	for _, row := range rows {
		groups[root(row)] = append(groups[root(row)], row)
	}
	return groups
}

func (g *grouped) order() []model.SetID {
	var order []model.SetID
	order = appendKeys(order, g.sets)
	order = appendKeys(order, g.backends)
	order = appendKeys(order, g.members)
	order = appendKeys(order, g.views)
	order = appendKeys(order, g.ranges)
	order = appendKeys(order, g.frontends)
	slices.Sort(order)
	return slices.Compact(order)
}

func appendKeys[R any](order []model.SetID, groups map[model.SetID][]R) []model.SetID {
	for id := range groups {
		order = append(order, id)
	}
	return order
}
