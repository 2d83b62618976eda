// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// turnTables gives sets their tables and takes them away: those that this change is about, after those that wait for one if there
// is one again. Those whose tables may change are in tablesBefore then. Those that wait in vain cost nothing.
func (t *transaction) turnTables(tables int, swap *standIns) {
	m := &t.maglev
	t.placeBefore, t.unsureBefore = m.place, m.unsure
	self, _ := selves.held(t.State, model.SelfKey{})
	m.place = model.PlaceOf(self.Zone)
	released := false
	wanting := t.touchedTables(swap)
	for _, id := range wanting {
		t.noteTable(id)
		number, has := m.numbers[id]
		if has && (t.wantsTable(id) != wantsOne || tables > 0 && int(number) >= tables) {
			m.release(id)
			released = true
		}
	}
	if released {
		t.settleWaiting(tables)
	}
	for _, id := range wanting {
		t.settleTable(id, tables)
	}
	m.unsure = false
}

// settleWaiting gives tables to those that wait for one, while there are any.
func (t *transaction) settleWaiting(tables int) {
	for _, id := range t.maglev.waiting() {
		if _, found := t.maglev.next(tables); !found {
			return
		}
		t.noteTable(id)
		t.settleTable(id, tables)
	}
}

// settleTable gives a set a table if it wants one, has none, and there is one.
func (t *transaction) settleTable(id model.SetID, tables int) {
	m := &t.maglev
	want := t.wantsTable(id)
	_, has := m.numbers[id]
	if want == wantsOne && !has {
		var number uint32
		if number, has = m.next(tables); has {
			m.give(id, number)
		}
	}
	if has {
		want = wantsNone
	}
	m.lack(id, want)
}

// noteTable notes what a set had before.
func (t *transaction) noteTable(id model.SetID) {
	if _, noted := t.tablesBefore[id]; !noted {
		number, had := t.maglev.numbers[id]
		t.tablesBefore[id] = hadTable{number, had, t.maglev.without[id]}
	}
}

// touchedTables returns the sets whose tables may change, in order.
func (t *transaction) touchedTables(swap *standIns) []model.SetID {
	m := &t.maglev
	touched := map[model.SetID]bool{}
	touch := func(id model.SetID) {
		_, has := m.numbers[id]
		if has || m.without[id] != wantsNone || t.wantsTable(id) != wantsNone {
			touched[id] = true
		}
	}
	for id := range t.slotsBefore {
		touch(id)
	}
	for id := range swap.sets {
		touch(id)
	}
	for id, before := range t.backendsBefore {
		now, kind := t.State.backend(id)
		if kind == 0 || now.BackendKey == before.row.BackendKey && now.Weight == before.row.Weight {
			continue
		}
		touch(now.Set)
		part, _ := views.held(t.State, model.ViewKey{Set: now.Set, Scope: model.ScopeZone, Place: m.place})
		touch(part.Target)
	}
	if m.unsure || m.place != t.placeBefore {
		for id := range m.numbers {
			touched[id] = true
		}
		for id := range t.tables[model.LayerCluster].Sets {
			touch(id)
		}
	}
	return sortedSets(touched)
}

// fillTables has tables filled, and the index lead to them or no longer: from what it did before, or not at all if that is hidden.
func (r *round) fillTables(hidden bool) {
	for _, id := range sortedSets(r.tablesBefore) {
		before := r.tablesBefore[id]
		before.had = before.had && !hidden
		number, has := r.maglev.numbers[id]
		switch {
		case has && !(before.had && before.number == number):
			r.put(&r.lead, abi.MaglevIndex, r.arena.id(uint32(id)), r.arena.id(number), !before.had)
		case !has && before.had:
			r.turn.remove(abi.MaglevIndex, r.arena.id(uint32(id)))
			r.removed[abi.MaglevIndex]++
		}
		if has {
			r.fills = append(r.fills, maps.Table{Number: number, Members: r.members(id)})
		}
	}
}

// hideTables has the index lead to none of the tables that may change: their ids mean something else for a while.
func (r *round) hideTables() {
	for _, id := range sortedSets(r.tablesBefore) {
		if r.tablesBefore[id].had {
			r.prepare.remove(abi.MaglevIndex, r.arena.id(uint32(id)))
			r.removed[abi.MaglevIndex]++
		}
	}
}
