// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// rearrange gives members their slots: those that stay keep theirs, newcomers take the slots of those that leave or
// the end, and the last ones move into the holes that remain. So one backend less costs one slot moved, one
// backend for another costs one slot written.
func rearrange(now []model.BackendID, leaves func(model.BackendID) bool, newcomers []model.BackendID) []model.BackendID {
	next := make([]model.BackendID, len(now), max(len(now), len(now)+len(newcomers)))
	var holes []int
	for i, b := range now {
		if next[i] = b; leaves(b) {
			holes = append(holes, i)
		}
	}
	taken := min(len(holes), len(newcomers))
	for i, b := range newcomers[:taken] {
		next[holes[i]] = b
	}
	next = append(next, newcomers[taken:]...)
	holes = holes[taken:]
	for len(holes) > 0 {
		last := len(next) - 1
		if holes[len(holes)-1] == last {
			holes = holes[:len(holes)-1]
		} else {
			next[holes[0]] = next[last]
			holes = holes[1:]
		}
		next = next[:last]
	}
	return next
}

// moves is who joins and who leaves one set.
type moves struct{ join, leave []model.BackendID }

// link works out the new slots of every set that changes, and counts the pointers anew.
func (t *transaction) link() {
	changed := map[model.SetID]*moves{}
	of := func(id model.SetID) *moves {
		m := changed[id]
		if m == nil {
			m = &moves{}
			changed[id] = m
		}
		return m
	}
	for _, kind := range kinds {
		for _, s := range t.changes[kind].Put.Sets {
			of(s.ID)
		}
		for _, m := range t.changes[kind].Put.Members {
			of(m.Set).join = append(of(m.Set).join, m.Backend)
		}
	}
	for m := range t.membersBefore {
		of(m.Set).leave = append(of(m.Set).leave, m.Backend)
	}
	for id := range t.setsBefore {
		of(id)
	}
	for id := range t.damaged {
		of(id)
	}
	for id, m := range changed {
		t.linkSet(id, m)
	}
	for id := range t.backendsBefore {
		t.wasLinked[id] = t.slotsOf[id] > 0
	}
	t.noteRoots()
	t.notePolicy()
	t.count(1)
	t.linked = true
}

func (t *transaction) linkSet(id model.SetID, m *moves) {
	now, held := t.slots[id]
	t.slotsBefore[id] = now
	t.wasRead[id] = t.pointersTo[id] > 0
	if _, kind := t.set(id); kind == 0 {
		t.left = append(t.left, filled(now)...)
		delete(t.slots, id)
		return
	}
	if !held || now == nil {
		now = []model.BackendID{}
	}
	slices.Sort(m.join)
	leaves := func(b model.BackendID) bool { return slices.Contains(m.leave, b) }
	if len(m.leave) > 16 {
		leaving := map[model.BackendID]bool{}
		for _, b := range m.leave {
			leaving[b] = true
		}
		leaves = func(b model.BackendID) bool { return leaving[b] }
	}
	if _, damaged := t.damaged[id]; damaged || slices.ContainsFunc(m.join, leaves) {
		t.slots[id] = t.linkCarefully(id, now, m.join)
		return
	}
	t.joined = append(t.joined, m.join...)
	t.left = append(t.left, m.leave...)
	t.slots[id] = rearrange(now, leaves, m.join)
}

// linkCarefully trusts neither the slots to be members, each once, nor those who join to be new: after a crash a
// slot may be empty or stand twice, and a member that one layer takes from another both leaves and joins.
func (t *transaction) linkCarefully(id model.SetID, now, join []model.BackendID) []model.BackendID {
	members := t.tables[t.layerOfSet(id)].Members
	seen := map[model.BackendID]bool{}
	for _, b := range now {
		seen[b] = true
	}
	var newcomers []model.BackendID
	for _, b := range join {
		if !seen[b] {
			newcomers = append(newcomers, b)
		}
	}
	clear(seen)
	next := rearrange(now, func(b model.BackendID) bool {
		_, member := members[model.Member{Set: id, Backend: b}]
		leaves := !member || seen[b] || b == 0
		seen[b] = true
		return leaves
	}, newcomers)
	t.left = append(t.left, filled(now)...)
	t.joined = append(t.joined, next...)
	return next
}

// filled returns the slots that are not empty.
func filled(slots []model.BackendID) []model.BackendID {
	return slices.DeleteFunc(slices.Clone(slots), func(b model.BackendID) bool { return b == 0 })
}

// count moves the counts of pointers to where they are after the change, or back if sign is -1.
func (t *transaction) count(sign int32) {
	for _, b := range t.joined {
		add(t.slotsOf, b, sign)
	}
	for _, b := range t.left {
		add(t.slotsOf, b, -sign)
	}
	for _, kind := range kinds {
		for _, f := range t.changes[kind].Put.Frontends {
			add(t.pointersTo, f.Set, sign)
		}
		for _, v := range t.changes[kind].Put.Views {
			add(t.pointersTo, v.Target, sign)
		}
	}
	for _, f := range t.frontendsBefore {
		add(t.pointersTo, f.row.Set, -sign)
	}
	for _, v := range t.viewsBefore {
		add(t.pointersTo, v.row.Target, -sign)
	}
	t.countPolicy(sign)
}

// noteRoots notes which sets were pointed at before the change, of those for which it may be otherwise after.
func (t *transaction) noteRoots() {
	note := func(root model.SetID) { t.pointedAt[root] = t.pointersTo[root] > 0 }
	for _, kind := range kinds {
		for _, f := range t.changes[kind].Put.Frontends {
			note(f.Set)
		}
	}
	for _, f := range t.frontendsBefore {
		note(f.row.Set)
	}
}

func add[K comparable](counts map[K]int32, key K, n int32) {
	if counts[key] += n; counts[key] == 0 {
		delete(counts, key)
	}
}
