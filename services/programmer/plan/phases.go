// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// round is one passage through the phases.
type round struct {
	*transaction
	arena    arena
	fills    []maps.Table // after the switch
	prepare  batches
	turn     batches // the switch of counts, slots and rows
	lead     batches // views that frontends count on
	point    batches // the switch of frontends
	refuse   batches // what counts once the frontends do
	reclaim  batches
	inserted [abi.MapCount]int
	removed  [abi.MapCount]int
	// settle says that the round writes over what nothing points at any more, but what a program may still be
	// reading: wait before the first write.
	settle bool
	// readBefore and readAfter say whether frontends point at a set, before and after the round.
	readBefore, readAfter func(model.SetID) bool
}

// set and backend are what the maps hold for one key, before or after; kind 0 is nothing.
type (
	backend struct {
		row  model.Backend
		kind model.LayerKind
		read bool // a slot points at it, so programs may be reading it
	}
	set struct {
		row   model.BackendSet
		kind  model.LayerKind
		count uint32 // as it is in the map
		slots []model.BackendID
		read  bool // a frontend or view points at it, so programs may be reading it
	}
)

func (r *round) backend(id model.BackendID, before, after backend) {
	switch {
	case before.row == after.row && before.kind == after.kind:
	case after.kind == 0:
		r.reclaim.remove(abi.Backends, r.arena.id(uint32(id)))
		r.removed[abi.Backends]++
	default:
		in := r.unlessRead(before.kind != 0, before.read)
		r.put(in, abi.Backends, r.arena.id(uint32(id)), r.arena.backend(after.row, after.kind), before.kind == 0)
	}
}

func (r *round) set(id model.SetID, before, after set) {
	for i, b := range after.slots {
		r.slot(id, uint32(i), &before, b)
	}
	for i := len(after.slots); i < len(before.slots); i++ {
		if before.slots[i] != 0 {
			r.reclaim.remove(abi.Slots, r.arena.slotKey(id, uint32(i)))
			r.removed[abi.Slots]++
		}
	}
	switch {
	case before.row == after.row && before.kind == after.kind && before.count == after.count:
	case after.kind == 0:
		r.reclaim.remove(abi.Sets, r.arena.id(uint32(id)))
		r.removed[abi.Sets]++
	default:
		in := r.unlessRead(before.kind != 0, before.read)
		r.put(in, abi.Sets, r.arena.id(uint32(id)), r.arena.set(after.row, after.kind, after.count), before.kind == 0)
	}
}

func (r *round) slot(id model.SetID, index uint32, before *set, b model.BackendID) {
	held := int(index) < len(before.slots) && before.slots[index] != 0
	if held && before.slots[index] == b {
		return
	}
	_, stray := r.stray[slot{id, index}]
	counted := index < before.count
	r.put(r.unlessRead(counted, before.read), abi.Slots, r.arena.slotKey(id, index), r.arena.id(uint32(b)), !held && !stray)
}

// unlessRead returns the phase for what is written over: the switch if programs may be reading it, else prepare,
// after those that may have found it earlier.
func (r *round) unlessRead(held, read bool) *batches {
	if held && read {
		return &r.turn
	}
	r.settle = r.settle || held
	return &r.prepare
}

func (r *round) put(in *batches, m abi.Map, key, value []byte, added bool) {
	in.put(m, key, value)
	if !added {
		return
	}
	if len(r.foreign) > 0 {
		if _, foreign := r.foreign[entryKey{m, string(key)}]; foreign {
			return
		}
	}
	r.inserted[m]++
}

// leftovers removes what a crash or a person left behind, unless a row takes its key.
func (r *round) leftovers() {
	for s := range r.stray {
		if int64(s.index) >= int64(len(r.slots[s.set])) {
			r.reclaim.remove(abi.Slots, r.arena.slotKey(s.set, s.index))
			r.removed[abi.Slots]++
		}
	}
	for e := range r.foreign {
		if e.in.OfPolicy() || r.Expected(e.in, []byte(e.key)) != nil {
			continue
		}
		in := &r.reclaim
		switch e.in {
		case abi.Frontends, abi.Views:
			in = &r.point
		case abi.MaglevIndex:
			in = &r.turn // who finds none picks at random
		}
		in.remove(e.in, []byte(e.key))
		r.removed[e.in]++
	}
}

// finish checks that there is room while old and new stand side by side, and returns the round's phases.
func (r *round) finish(capacities Capacities) ([]Phase, error) {
	return r.fit(capacities, []Phase{
		{Name: "prepare", Batches: r.prepare.list()},
		{Name: "switch", Batches: r.turn.list(), Tables: r.fills},
		{Name: "lead", Batches: r.lead.list()},
		{Name: "point", Batches: r.point.list()},
		{Name: "refuse", Batches: r.refuse.list()},
		{Name: "reclaim", Batches: r.reclaim.list(), Grace: true},
	})
}

// fit returns those phases that have something to do, if there is room for them.
func (r *round) fit(capacities Capacities, all []Phase) ([]Phase, error) {
	for m, more := range r.inserted {
		if abi.Map(m) == abi.MaglevIndex {
			continue // a set gets a table only if there is one
		}
		if capacity := capacities[m]; capacity > 0 && more > 0 && r.entries[m]+more > capacity {
			return nil, r.tooMuch(abi.Map(m), more, capacity, all)
		}
	}
	for m := range r.entries {
		r.entries[m] += r.inserted[m] - r.removed[m]
	}
	var phases []Phase
	for _, p := range all {
		if len(p.Batches)+len(p.Tables) > 0 {
			phases = append(phases, p)
		}
	}
	if len(phases) > 0 && r.settle {
		phases[0].Grace = true
	}
	return phases, nil
}

func (r *round) tooMuch(m abi.Map, more, capacity int, phases []Phase) error {
	return &Refusal{Kind: "capacity", Map: m, Lacking: r.entries[m] + more - capacity, Text: fmt.Sprintf(
		"map %s has %d of %d entries in use and the change needs %d more, such as %s: "+
			"nothing of the change is applied and what was before stays; give the map more room in the programmer's configuration",
		m, r.entries[m], capacity, more, r.such(m, phases))}
}

// such names the last entry that phases put into a map.
func (r *round) such(m abi.Map, phases []Phase) (text string) {
	for _, p := range phases {
		for _, batch := range p.Batches {
			if last := batch[len(batch)-1]; last.Map == m && last.Value != nil {
				text = r.describe(m, last.Key, last.Value)
			}
		}
	}
	return text
}

// batches keep puts and deletions of each map apart, since the kernel takes many of a kind in one call, and in pieces,
// so that a cold start doesn't move half a million writes each time a list grows.
type batches struct{ puts, deletions [abi.MapCount][][]maps.Write }

// pieceMost is as many writes as go in one call.
const pieceMost = 1024

func (b *batches) put(m abi.Map, key, value []byte) {
	b.puts[m] = piece(b.puts[m], maps.Write{Map: m, Key: key, Value: value})
}

func (b *batches) remove(m abi.Map, key []byte) {
	b.deletions[m] = piece(b.deletions[m], maps.Write{Map: m, Key: key})
}

func piece(pieces [][]maps.Write, w maps.Write) [][]maps.Write {
	last := len(pieces) - 1
	if last < 0 || len(pieces[last]) == pieceMost {
		pieces = append(pieces, nil)
		last++
	}
	pieces[last] = append(pieces[last], w)
	return pieces
}

func (b *batches) list() (list [][]maps.Write) {
	for m := range b.puts {
		list = append(append(list, b.puts[m]...), b.deletions[m]...)
	}
	return list
}
