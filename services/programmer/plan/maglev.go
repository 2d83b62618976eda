// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Every node picks the same backend for the same packet from outside, by tables that follow from the members of a set; see
// package maglev. No row tells of them. A set has one if clients from outside get to it on this node and it has more than one
// backend; which of the map's tables it is, is the node's own affair.
//
// Slots of tables are written over after those that are picked at random, while the backends before and after are both there. A
// table that is new to its set is filled before the index leads to it. One whose set goes may be another's at once: a program
// that was led there finds backends of another root, and picks at random.

// tables are the Maglev tables of a State.
type tables struct {
	numbers map[model.SetID]uint32   // as the index has them
	taken   map[uint32]model.SetID   // the same turned round
	free    uint32                   // all numbers below are taken
	without map[model.SetID]want     // sets that should have one and can't
	lacking [wantsLarger + 1]Lacking // by want; Such is 0 where it is to be found
	slots   int                      // of a table
	place   model.Place              // the node's zone, as it was when sets got their tables
	unsure  bool                     // the maps were read anew: what is in the tables isn't known
}

// want is whether a set should have a table.
type want uint8

const (
	wantsNone want = iota
	wantsOne
	wantsLarger // it has more backends than a table slots
)

func newTables() tables {
	return tables{
		numbers: map[model.SetID]uint32{}, taken: map[uint32]model.SetID{}, without: map[model.SetID]want{}, slots: maglev.DefaultSize,
	}
}

// SetTableSlots says how many slots a Maglev table has.
func (s *State) SetTableSlots(slots uint32) { s.maglev.slots = int(slots) }

// Lacking is how many sets should have a Maglev table and can't, and one of them.
type Lacking struct {
	Sets int
	Such model.SetID
}

// Tableless returns the sets that should have a Maglev table and can't: those for which there is none left, and those that
// have more backends than a table slots. It is asked with each change, so it doesn't look at them all unless the first one went.
func (s *State) Tableless() (left, large Lacking) {
	m := &s.maglev
	for w := range m.lacking {
		if l := &m.lacking[w]; l.Sets > 0 && l.Such == 0 {
			l.Such = m.first(want(w))
		}
	}
	return m.lacking[wantsOne], m.lacking[wantsLarger]
}

// lack notes whether a set should have a table and can't.
func (m *tables) lack(id model.SetID, now want) {
	before := m.without[id]
	if before == now {
		return
	}
	delete(m.without, id)
	if now != wantsNone {
		m.without[id] = now
		if l := &m.lacking[now]; l.Sets == 0 || l.Such != 0 && id < l.Such {
			l.Such = id
		}
		m.lacking[now].Sets++
	}
	if before != wantsNone {
		l := &m.lacking[before]
		if l.Sets--; l.Such == id {
			l.Such = 0
		}
	}
}

// first returns the first set that lacks a table so, of all of them; 0 if none does.
func (m *tables) first(w want) (first model.SetID) {
	for id, is := range m.without {
		if is == w && (first == 0 || id < first) {
			first = id
		}
	}
	return first
}

// waiting returns the sets for which there was no table left, in order.
func (m *tables) waiting() []model.SetID {
	sets := make([]model.SetID, 0, m.lacking[wantsOne].Sets)
	for id, is := range m.without {
		if is == wantsOne {
			sets = append(sets, id)
		}
	}
	slices.Sort(sets)
	return sets
}

// wantsTable says whether a set should have a table. A node never looks at other zones' parts.
func (s *State) wantsTable(id model.SetID) want {
	row, _ := s.set(id)
	switch n := len(s.slots[id]); {
	case row.Flags&model.External == 0 || n < 2 || row.Scope == model.ScopeZone && row.Place != s.maglev.place:
		return wantsNone
	case n > s.maglev.slots:
		return wantsLarger
	}
	return wantsOne
}

// release takes a set's table away, if it has one.
func (m *tables) release(id model.SetID) {
	if number, has := m.numbers[id]; has {
		delete(m.numbers, id)
		delete(m.taken, number)
		m.free = min(m.free, number)
	}
}

// give gives a set a table.
func (m *tables) give(id model.SetID, number uint32) {
	m.numbers[id], m.taken[number] = number, id
}

// next returns the first table that is free of as many as there are; 0 tables are without bound.
func (m *tables) next(tables int) (number uint32, found bool) {
	for _, taken := m.taken[m.free]; taken; _, taken = m.taken[m.free] {
		m.free++
	}
	return m.free, tables == 0 || int(m.free) < tables
}

// members returns the backends of a set as its table wants them.
func (s *State) members(id model.SetID) []maglev.Member {
	members := make([]maglev.Member, 0, len(s.slots[id]))
	for _, b := range s.slots[id] {
		row, _ := s.backend(b)
		members = append(members, maglev.Member{ID: uint32(b), At: netip.AddrPortFrom(row.Addr, row.Port), Weight: row.Share()})
	}
	return members
}

// hadTable is what a set had before a transaction.
type hadTable struct {
	number uint32
	had    bool
	want   want
}

// undoTables takes tables back to where they were.
func (t *transaction) undoTables() {
	m := &t.maglev
	for id := range t.tablesBefore {
		m.release(id)
	}
	for id, before := range t.tablesBefore {
		if before.had {
			m.give(id, before.number)
		}
		m.lack(id, before.want)
	}
	m.free, m.place, m.unsure = 0, t.placeBefore, t.unsureBefore
}

// sortedSets returns sets in order.
func sortedSets[V any](sets map[model.SetID]V) []model.SetID { return slices.Sorted(maps.Keys(sets)) }
