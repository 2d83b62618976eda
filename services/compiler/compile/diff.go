// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
)

// diffContent adds to the changes of layers what turns one content of a unit into another. Only what differs is looked
// up, so that one endpoint of thousands costs little beyond comparing them.
func diffContent(unit Unit, alloc *ids.Allocator, before, after content, change func(model.Layer) *model.Change) {
	merge(before.parts, after.parts, comparePartKeys,
		func(old part) { diffPart(change(old.layer), alloc, old, part{root: old.root, place: old.place}) },
		func(now part) { diffPart(change(now.layer), alloc, part{root: now.root, place: now.place}, now) },
		func(old, now part) { diffPart(change(now.layer), alloc, old, now) })
	c := change(unit.layer())
	merge(before.refused, after.refused, netip.Addr.Compare,
		func(old netip.Addr) { c.Remove.Frontends = append(c.Remove.Frontends, model.FrontendKey{Addr: old}) },
		func(now netip.Addr) { c.Put.Frontends = append(c.Put.Frontends, refusedRow(now)) },
		func(_, _ netip.Addr) {})
	diffRows(&c.Remove.HealthChecks, &c.Put.HealthChecks, before.checks, after.checks, cmp.Compare[uint16])
	diffRows(&c.Remove.Networks, &c.Put.Networks, before.networks, after.networks, netip.Prefix.Compare)
	diffRows(&c.Remove.Nodes, &c.Put.Nodes, before.nodes, after.nodes, cmp.Compare[model.NodeID])
	diffRows(&c.Remove.Selves, &c.Put.Selves, before.selves, after.selves, func(_, _ model.SelfKey) int { return 0 })
}

// diffRows compares rows that have no ids.
func diffRows[K comparable, R keyed[K]](remove *[]K, put *[]R, before, after []R, compare func(a, b K) int) {
	merge(before, after, func(a, b R) int { return compare(a.Key(), b.Key()) },
		func(old R) { *remove = append(*remove, old.Key()) },
		func(now R) { *put = append(*put, now) },
		func(old, now R) {
			if old != now {
				*put = append(*put, now)
			}
		})
}

// diffPart compares one part before and after; what is absent has only the keys.
func diffPart(c *model.Change, alloc *ids.Allocator, before, after part) {
	p := partChange{c, alloc, after, alloc.Set(after.root)}
	merge(before.frontends, after.frontends, compareFrontends,
		func(old frontend) { c.Remove.Frontends = append(c.Remove.Frontends, old.key) },
		func(now frontend) { c.Put.Frontends = append(c.Put.Frontends, now.row(p.root)) },
		func(old, now frontend) {
			if old != now {
				c.Put.Frontends = append(c.Put.Frontends, now.row(p.root))
			}
		})
	merge(before.ranges, after.ranges, netip.Prefix.Compare,
		func(old netip.Prefix) { c.Remove.SourceRanges = append(c.Remove.SourceRanges, p.sourceRange(old)) },
		func(now netip.Prefix) { c.Put.SourceRanges = append(c.Put.SourceRanges, p.sourceRange(now)) },
		func(_, _ netip.Prefix) {})
	merge(before.backends, after.backends, func(a, b backend) int { return a.at.Compare(b.at) },
		func(old backend) { c.Remove.Backends = append(c.Remove.Backends, p.backend(old.at)) },
		p.putBackend,
		func(old, now backend) {
			if old != now {
				p.putBackend(now)
			}
		})
	merge(before.sets, after.sets, compareSets,
		func(old set) { p.removeSet(old) },
		func(now set) { p.putSet(set{}, now) },
		func(old, now set) { p.putSet(old, now) })
}

// partChange is the change of one part.
type partChange struct {
	*model.Change
	alloc *ids.Allocator
	part  part
	root  model.SetID
}

func (p *partChange) sourceRange(prefix netip.Prefix) model.SourceRange {
	return model.SourceRange{Set: p.root, Prefix: prefix}
}

func (p *partChange) backend(at netip.AddrPort) model.BackendID {
	return p.alloc.Backend(p.part.backendKey(p.root, at))
}

func (p *partChange) putBackend(b backend) {
	p.Put.Backends = append(p.Put.Backends, p.part.backendRow(p.alloc, p.root, b))
}

func (p *partChange) removeSet(s set) {
	id := p.alloc.Set(s.key)
	p.Remove.Sets = append(p.Remove.Sets, id)
	if key, is := s.view(p.root); is {
		p.Remove.Views = append(p.Remove.Views, key)
	}
	p.members(id, s.members, nil)
}

func (p *partChange) putSet(old, now set) {
	id := p.alloc.Set(now.key)
	if old.key != now.key || old.flags != now.flags || old.affinity != now.affinity {
		p.Put.Sets = append(p.Put.Sets, now.row(id, p.root))
	}
	if key, is := now.view(p.root); is && old.key != now.key {
		p.Put.Views = append(p.Put.Views, model.View{ViewKey: key, Target: id})
	}
	p.members(id, old.members, now.members)
}

func (p *partChange) members(id model.SetID, before, after []netip.AddrPort) {
	merge(before, after, netip.AddrPort.Compare,
		func(old netip.AddrPort) {
			p.Remove.Members = append(p.Remove.Members, model.Member{Set: id, Backend: p.backend(old)})
		},
		func(now netip.AddrPort) {
			p.Put.Members = append(p.Put.Members, model.Member{Set: id, Backend: p.backend(now)})
		},
		func(_, _ netip.AddrPort) {})
}

// merge walks two sorted lists and calls gone, come or both for each element.
func merge[E any](before, after []E, compare func(a, b E) int, gone, come func(E), both func(old, now E)) {
	for len(before) > 0 || len(after) > 0 {
		switch order := side(before, after, compare); {
		case order < 0:
			gone(before[0])
			before = before[1:]
		case order > 0:
			come(after[0])
			after = after[1:]
		default:
			both(before[0], after[0])
			before, after = before[1:], after[1:]
		}
	}
}

func side[E any](before, after []E, compare func(a, b E) int) int {
	switch {
	case len(after) == 0:
		return -1
	case len(before) == 0:
		return 1
	}
	return compare(before[0], after[0])
}
