// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Compare compiles everything and returns what turns the rows there are into that: the same as comparing them
// with Full, without holding everything a second time. It is for the start, where rows come from the log, and
// for checks. The SetAside of the result has only units that have something set aside, and no unit is Changed.
//
// The engine is a new one, and goes on from here. It takes over the identities that the rows have.
func Compare(
	snap *state.Snapshot, alloc *ids.Allocator, engine *policy.Engine, settings Settings, rows map[model.Layer]*model.Tables,
) Difference {
	d := newDifference()
	d.add(comparePolicies(ofNodes(rows), engine.Load(snap, ofNodes(rows))))
	d.Refused = engine.SetAside()
	wanted := wanted{layers: map[model.Layer]*wantedLayer{}}
	for unit := range allUnits(snap, &settings) {
		now := compileUnit(snap, &settings, unit)
		d.Units++
		if len(now.aside) > 0 {
			d.SetAside[unit] = now.aside
		}
		for layer, all := range now.rows(unit, alloc) {
			if all.Len() == 0 {
				continue
			}
			wanted.add(layer, all)
			if lacking := lacks(tables(rows, layer), all); lacking.Len() > 0 {
				d.change(layer).Put.Append(lacking)
			}
		}
	}
	for layer, held := range rows {
		if gone := wanted.leftOver(layer, held); gone.Len() > 0 {
			d.change(layer).Remove.Append(&gone)
		}
	}
	d.tidy()
	return d
}

func tables(rows map[model.Layer]*model.Tables, l model.Layer) *model.Tables {
	if t := rows[l]; t != nil {
		return t
	}
	return &model.Tables{}
}

// wanted are the keys of all rows that there should be. No id is in two layers, and ids are dense: a bit each does.
type wanted struct {
	sets, backends bits
	members        memberships
	layers         map[model.Layer]*wantedLayer
}

type wantedLayer struct {
	frontends keys[model.FrontendKey]
	views     keys[model.ViewKey]
	ranges    keys[model.SourceRange]
	rest      keys[any] // networks, health checks, nodes, selves
}

type keys[K comparable] map[K]struct{}

func (k keys[K]) has(key K) bool { _, has := k[key]; return has }

func addKeys[K comparable, R keyed[K]](k *keys[K], rows []R) {
	if *k == nil && len(rows) > 0 {
		*k = keys[K]{}
	}
	for _, row := range rows {
		(*k)[row.Key()] = struct{}{}
	}
}

func (w *wanted) add(layer model.Layer, r *model.Rows) {
	l := w.layers[layer]
	if l == nil {
		l = &wantedLayer{rest: keys[any]{}}
		w.layers[layer] = l
	}
	for _, row := range r.Sets {
		w.sets.add(uint32(row.ID))
	}
	for _, row := range r.Backends {
		w.backends.add(uint32(row.ID))
	}
	addKeys(&l.frontends, r.Frontends)
	for _, m := range r.Members {
		w.members.add(m)
	}
	addKeys(&l.views, r.Views)
	addKeys(&l.ranges, r.SourceRanges)
	addRest(l.rest, r.Networks)
	addRest(l.rest, r.HealthChecks)
	addRest(l.rest, r.Nodes)
	addRest(l.rest, r.Selves)
}

func addRest[K comparable, R keyed[K]](k keys[any], rows []R) {
	for _, row := range rows {
		k[row.Key()] = struct{}{}
	}
}

// leftOver returns the keys that a layer holds and nothing wants.
func (w *wanted) leftOver(layer model.Layer, held *model.Tables) (gone model.Keys) {
	l := w.layers[layer]
	if l == nil {
		l = &wantedLayer{}
	}
	gone.Sets = extra(held.Sets, func(id model.SetID) bool { return w.sets.has(uint32(id)) })
	gone.Backends = extra(held.Backends, func(id model.BackendID) bool { return w.backends.has(uint32(id)) })
	gone.Frontends = extra(held.Frontends, l.frontends.has)
	gone.Members = extra(held.Members, w.members.has)
	gone.Views = extra(held.Views, l.views.has)
	gone.SourceRanges = extra(held.SourceRanges, l.ranges.has)
	gone.Networks = extraRest(held.Networks, l.rest)
	gone.HealthChecks = extraRest(held.HealthChecks, l.rest)
	gone.Nodes = extraRest(held.Nodes, l.rest)
	gone.Selves = extraRest(held.Selves, l.rest)
	return gone
}

func extra[K comparable, R any](held map[K]R, wanted func(K) bool) (gone []K) {
	for key := range held {
		if !wanted(key) {
			gone = append(gone, key)
		}
	}
	return gone
}

func extraRest[K comparable, R any](held map[K]R, wanted keys[any]) []K {
	return extra(held, func(key K) bool { return wanted.has(key) })
}

// memberships are the members there should be. Most backends are in one set, which takes 4 bytes.
type memberships struct {
	first []model.SetID // by backend
	more  keys[model.Member]
}

func (s *memberships) add(m model.Member) {
	if n := int(m.Backend) + 1 - len(s.first); n > 0 {
		s.first = append(s.first, make([]model.SetID, n)...)
	}
	if s.first[m.Backend] == 0 {
		s.first[m.Backend] = m.Set
		return
	}
	addKeys(&s.more, []model.Member{m})
}

func (s *memberships) has(m model.Member) bool {
	return int(m.Backend) < len(s.first) && s.first[m.Backend] == m.Set || s.more.has(m)
}

// bits is a set of small numbers.
type bits struct{ words []uint64 }

func (b *bits) add(n uint32) {
	for int(n/64) >= len(b.words) {
		b.words = append(b.words, 0)
	}
	b.words[n/64] |= 1 << (n % 64)
}

func (b *bits) has(n uint32) bool {
	return int(n/64) < len(b.words) && b.words[n/64]&(1<<(n%64)) != 0
}
