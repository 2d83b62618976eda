// SPDX-License-Identifier: Apache-2.0

// Package ids numbers backend sets and backends.
//
// It promises that the rows of the log are the whole record: an Allocator that folded the same rows and frees
// gives the same numbers, so that a failover changes nothing on any node. It gives the lowest free number
// first, and gives none again before its quarantine is over: a node may still hold a flow that means the old
// one. It has no clock: time comes with Free and Advance, and only ever from the log or the core's ticks.
package ids

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// DefaultQuarantine is how long a freed id stays unused.
const DefaultQuarantine = 60 * time.Second

// Allocator knows which id means what.
type Allocator struct {
	sets     pool[model.SetKey, model.SetID]
	backends pool[model.BackendKey, model.BackendID]
}

// Freed is an id in quarantine since At.
type Freed[I any] struct {
	ID I
	At time.Time
}

// New returns an Allocator that has given no ids.
func New(quarantine time.Duration) *Allocator {
	return &Allocator{
		sets:     newPool[model.SetKey, model.SetID](quarantine),
		backends: newPool[model.BackendKey, model.BackendID](quarantine),
	}
}

// Advance ends the quarantine of what was freed long enough before now.
func (a *Allocator) Advance(now time.Time) {
	a.sets.advance(now)
	a.backends.advance(now)
}

// Set returns the id that means key, giving it one if it has none.
func (a *Allocator) Set(key model.SetKey) model.SetID { return a.sets.give(key) }

// Backend returns the id that means key, giving it one if it has none.
func (a *Allocator) Backend(key model.BackendKey) model.BackendID { return a.backends.give(key) }

// LookupSet returns the id that means key, or 0.
func (a *Allocator) LookupSet(key model.SetKey) model.SetID { return a.sets.ids[key] }

// LookupBackend returns the id that means key, or 0.
func (a *Allocator) LookupBackend(key model.BackendKey) model.BackendID { return a.backends.ids[key] }

// Fold takes in a change that the log holds: the ids in its rows are taken, those of the rows it removes are
// freed at the time the change was committed. Before are the rows that the change is about to change.
func (a *Allocator) Fold(before *model.Tables, change *model.Change, committed time.Time) {
	for _, id := range change.Remove.Backends {
		if row, held := before.Backends[id]; held {
			a.backends.free(row.BackendKey, committed)
		}
	}
	for _, id := range change.Remove.Sets {
		if row, held := before.Sets[id]; held {
			a.sets.free(row.SetKey, committed)
		}
	}
	for _, row := range change.Put.Sets {
		if old, held := before.Sets[row.ID]; held && old.SetKey != row.SetKey {
			delete(a.sets.ids, old.SetKey)
		}
		a.sets.take(row.SetKey, row.ID)
	}
	for _, row := range change.Put.Backends {
		if old, held := before.Backends[row.ID]; held && old.BackendKey != row.BackendKey {
			delete(a.backends.ids, old.BackendKey)
		}
		a.backends.take(row.BackendKey, row.ID)
	}
}

// Restore puts ids into quarantine that a checkpoint says were freed.
func (a *Allocator) Restore(sets []Freed[model.SetID], backends []Freed[model.BackendID]) {
	a.sets.restore(sets)
	a.backends.restore(backends)
}

// RestBelow puts all ids into quarantine that are below the given ones and not taken.
func (a *Allocator) RestBelow(set model.SetID, backend model.BackendID, freed time.Time) {
	a.sets.restBelow(set, freed)
	a.backends.restBelow(backend, freed)
}

// Rest puts ids into quarantine that have no meaning, also those that have been there for a while.
func (a *Allocator) Rest(sets map[model.SetID]bool, backends map[model.BackendID]bool, now time.Time) {
	a.sets.rest(sets, now)
	a.backends.rest(backends, now)
}

// Quarantined returns the ids in quarantine, the longest freed first.
func (a *Allocator) Quarantined() ([]Freed[model.SetID], []Freed[model.BackendID]) {
	return a.sets.quarantined(), a.backends.quarantined()
}

// Next returns the lowest ids that are above all that are taken or in quarantine.
func (a *Allocator) Next() (model.SetID, model.BackendID) { return a.sets.next(), a.backends.next() }

// Len returns the number of sets and backends that have ids.
func (a *Allocator) Len() (sets, backends int) { return len(a.sets.ids), len(a.backends.ids) }

// pool gives ids to keys. Invariant: an id is marked in taken if and only if it is 0, a value of ids, or in
// quarantine; no id is in two of these.
type pool[K comparable, I ~uint32] struct {
	ids        map[K]I
	taken      bitmap
	quarantine []Freed[I] // by At, oldest first
	length     time.Duration
}

func newPool[K comparable, I ~uint32](quarantine time.Duration) pool[K, I] {
	p := pool[K, I]{ids: map[K]I{}, length: quarantine}
	p.taken.set(0)
	return p
}

func (p *pool[K, I]) give(key K) I {
	id, known := p.ids[key]
	if !known {
		id = I(p.taken.lowestClear())
		p.ids[key] = id
		p.taken.set(uint32(id))
	}
	return id
}

// take records what the log says, even where this allocator would have given another id.
func (p *pool[K, I]) take(key K, id I) {
	old, known := p.ids[key]
	if known && old == id {
		return
	}
	if known {
		p.taken.clear(uint32(old))
	}
	if p.taken.has(uint32(id)) {
		p.quarantine = slices.DeleteFunc(p.quarantine, func(f Freed[I]) bool { return f.ID == id })
	}
	p.ids[key] = id
	p.taken.set(uint32(id))
}

func (p *pool[K, I]) free(key K, at time.Time) {
	id, known := p.ids[key]
	if !known {
		return
	}
	delete(p.ids, key)
	p.enter(Freed[I]{id, at})
}

func (p *pool[K, I]) restore(freed []Freed[I]) {
	for _, f := range freed {
		if !p.taken.has(uint32(f.ID)) {
			p.taken.set(uint32(f.ID))
			p.enter(f)
		}
	}
}

func (p *pool[K, I]) restBelow(next I, at time.Time) {
	for id := p.taken.lowestClear(); id < uint32(next); id = p.taken.lowestClear() {
		p.taken.set(id)
		p.enter(Freed[I]{I(id), at})
	}
}

func (p *pool[K, I]) rest(ids map[I]bool, now time.Time) {
	p.quarantine = slices.DeleteFunc(p.quarantine, func(f Freed[I]) bool {
		if ids[f.ID] {
			p.taken.clear(uint32(f.ID))
		}
		return ids[f.ID]
	})
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if !p.taken.has(uint32(id)) {
			p.taken.set(uint32(id))
			p.enter(Freed[I]{id, now})
		}
	}
}

// enter keeps the quarantine in order; time hardly ever runs backwards, so the place is at the end.
func (p *pool[K, I]) enter(f Freed[I]) {
	i := len(p.quarantine)
	for i > 0 && p.quarantine[i-1].At.After(f.At) {
		i--
	}
	p.quarantine = slices.Insert(p.quarantine, i, f)
}

func (p *pool[K, I]) quarantined() []Freed[I] {
	return slices.SortedFunc(slices.Values(p.quarantine), func(f, g Freed[I]) int {
		return cmp.Or(f.At.Compare(g.At), cmp.Compare(f.ID, g.ID))
	})
}

func (p *pool[K, I]) advance(now time.Time) {
	over := 0
	for over < len(p.quarantine) && now.Sub(p.quarantine[over].At) >= p.length {
		p.taken.clear(uint32(p.quarantine[over].ID))
		over++
	}
	p.quarantine = slices.Delete(p.quarantine, 0, over)
}

func (p *pool[K, I]) next() I { return I(p.taken.highest() + 1) }

// Check returns an error if an invariant is broken. Tests call it.
func (a *Allocator) Check() error {
	if err := a.sets.check(); err != nil {
		return fmt.Errorf("sets: %w", err)
	}
	if err := a.backends.check(); err != nil {
		return fmt.Errorf("backends: %w", err)
	}
	return nil
}

func (p *pool[K, I]) check() error {
	used := map[I]bool{0: true}
	freed := make([]I, 0, len(p.quarantine))
	for _, f := range p.quarantine {
		freed = append(freed, f.ID)
	}
	for _, id := range slices.Concat(slices.Collect(maps.Values(p.ids)), freed) {
		if used[id] {
			return fmt.Errorf("id %d is used twice", id)
		}
		if !p.taken.has(uint32(id)) {
			return fmt.Errorf("id %d is used and counts as free", id)
		}
		used[id] = true
	}
	if marked := p.taken.count(); marked != len(used) {
		return fmt.Errorf("%d ids are marked, %d are used", marked, len(used))
	}
	return nil
}
