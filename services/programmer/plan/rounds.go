// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// phases returns the writes from what was to what is, if there is room for them.
func (t *transaction) phases(capacities Capacities) ([]Phase, error) {
	swap := t.standIns()
	first := round{transaction: t, settle: !t.Whole()}
	first.leave(swap)
	first.leftovers()
	phases, err := first.finish(capacities)
	if err != nil || swap.none() {
		return phases, err
	}
	second := round{transaction: t}
	second.arrive(swap)
	more, err := second.finish(capacities)
	return append(phases, more...), err
}

// standIns are temporary ids for sets and backends whose id means something else after the change, and for all
// backends of such a set, since programs check that a backend is of the set that led to it. They are far above those
// that the compiler gives out, which are the lowest free ones.
type standIns struct {
	sets     map[model.SetID]model.SetID
	backends map[model.BackendID]model.BackendID
}

const firstStandIn = 1 << 31

func (s *standIns) none() bool { return len(s.sets)+len(s.backends) == 0 }

func (t *transaction) standIns() *standIns {
	swap := &standIns{sets: map[model.SetID]model.SetID{}, backends: map[model.BackendID]model.BackendID{}}
	freeSet := model.SetID(firstStandIn)
	for id, before := range t.setsBefore {
		now, kind := t.State.set(id)
		if kind == 0 || now.SetKey == before.row.SetKey || !t.wasRead[id] {
			continue
		}
		for t.setTaken(freeSet) {
			freeSet++
		}
		swap.sets[id] = freeSet
		freeSet++
	}
	freeBackend := model.BackendID(firstStandIn)
	for id := range t.reusedBackends(swap) {
		for t.backendTaken(freeBackend) {
			freeBackend++
		}
		swap.backends[id] = freeBackend
		freeBackend++
	}
	return swap
}

func (t *transaction) reusedBackends(swap *standIns) map[model.BackendID]struct{} {
	reused := map[model.BackendID]struct{}{}
	for id := range swap.sets {
		for _, b := range t.slots[id] {
			reused[b] = struct{}{}
		}
	}
	var moved map[model.BackendID]bool
	for id, before := range t.backendsBefore {
		now, kind := t.State.backend(id)
		if kind == 0 || now.BackendKey == before.row.BackendKey || !t.wasLinked[id] {
			continue
		}
		if moved == nil {
			moved = t.moved()
		}
		// Another address in the same place is one write, and that is the switch.
		if now.Set != before.row.Set || moved[id] {
			reused[id] = struct{}{}
		}
	}
	return reused
}

// moved returns the backends that get or lose a slot.
func (t *transaction) moved() map[model.BackendID]bool {
	moved := map[model.BackendID]bool{}
	for _, list := range [][]model.BackendID{t.joined, t.left} {
		for _, b := range list {
			moved[b] = true
		}
	}
	return moved
}

func (t *transaction) setTaken(id model.SetID) bool {
	var a arena
	_, kind := t.State.set(id)
	_, before := t.setsBefore[id]
	_, foreign := t.foreign[entryKey{abi.Sets, string(a.id(uint32(id)))}]
	stray := false
	for s := range t.stray {
		stray = stray || s.set == id
	}
	return kind != 0 || before || foreign || stray
}

func (t *transaction) backendTaken(id model.BackendID) bool {
	var a arena
	_, kind := t.State.backend(id)
	_, before := t.backendsBefore[id]
	_, foreign := t.foreign[entryKey{abi.Backends, string(a.id(uint32(id)))}]
	return kind != 0 || before || foreign
}

// leave goes from what was to what is, with stand-ins for ids that are used again.
func (r *round) leave(swap *standIns) {
	for _, f := range r.frontendTurns(swap) {
		r.frontend(f.key, f.before, swap.frontend(f.after))
	}
	for _, id := range r.setIDs(swap) {
		if other, reused := swap.sets[id]; reused {
			r.set(id, r.setBefore(id), set{})
			r.set(other, set{}, swap.set(r.setNow(id)))
		} else {
			r.set(id, r.setBefore(id), swap.set(r.setNow(id)))
		}
	}
	put := map[model.BackendID]bool{} // of those with stand-ins
	for _, kind := range kinds {
		for _, b := range r.changes[kind].Put.Backends {
			if swap.reuses(b.ID) {
				put[b.ID] = true
			} else {
				r.backend(b.ID, r.backendBefore(b.ID), backend{row: b, kind: kind})
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(swap.backends)) {
		before, now := r.backendBefore(id), r.backendNow(id)
		if before.kind == 0 && !put[id] {
			before = now
		}
		r.backend(id, before, backend{})
		r.backend(swap.backends[id], backend{}, swap.backend(now))
	}
	for _, id := range slices.Sorted(maps.Keys(r.backendsBefore)) {
		if _, kind := r.State.backend(id); kind == 0 {
			r.backend(id, r.backendBefore(id), backend{})
		}
	}
	r.endpoints()
}

// arrive goes from the stand-ins to the ids themselves.
func (r *round) arrive(swap *standIns) {
	for _, f := range r.frontendTurns(swap) {
		r.frontend(f.key, swap.frontend(f.after), f.after)
	}
	for _, id := range r.setIDs(swap) {
		now := r.setNow(id)
		before := swap.set(now)
		if other, reused := swap.sets[id]; reused {
			r.set(id, set{}, now)
			r.set(other, before, set{})
		} else {
			r.set(id, before, now)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(swap.backends)) {
		now := r.backendNow(id)
		r.backend(id, backend{}, now)
		r.backend(swap.backends[id], swap.backend(now), backend{})
	}
}

func (s *standIns) frontend(f frontend) frontend {
	if other, reused := s.sets[f.row.Set]; reused {
		f.row.Set = other
	}
	return f
}

func (s *standIns) backend(b backend) backend {
	b.row.ID = s.backends[b.row.ID]
	if other, reused := s.sets[b.row.Set]; reused {
		b.row.Set = other
	}
	return b
}

func (s *standIns) set(of set) set {
	if other, reused := s.sets[of.row.ID]; reused {
		of.row.ID = other
	}
	if len(s.backends) > 0 {
		of.slots = slices.Clone(of.slots)
		for i, b := range of.slots {
			if other, reused := s.backends[b]; reused {
				of.slots[i] = other
			}
		}
	}
	return of
}

// frontendTurn is a frontend before and after the change.
type frontendTurn struct {
	key           model.FrontendKey
	before, after frontend
}

// frontendTurns returns the frontends that change, and those that point at a set that is used again.
func (t *transaction) frontendTurns(swap *standIns) []frontendTurn {
	var turns []frontendTurn
	seen := map[model.FrontendKey]bool{}
	for _, kind := range kinds {
		for _, f := range t.changes[kind].Put.Frontends {
			turns = append(turns, frontendTurn{f.FrontendKey, frontend(t.frontendsBefore[f.FrontendKey]), frontend{f, kind}})
			seen[f.FrontendKey] = len(swap.sets) > 0 || len(t.frontendsBefore) > 0
		}
	}
	sorted := len(turns)
	for key, w := range t.frontendsBefore {
		if !seen[key] {
			turns = append(turns, frontendTurn{key, frontend(w), frontend{}})
		}
	}
	for _, kind := range kinds {
		if len(swap.sets) == 0 {
			break
		}
		for key, f := range t.tables[kind].Frontends {
			if _, reused := swap.sets[f.Set]; reused && !seen[key] {
				turns = append(turns, frontendTurn{key, frontend{f, kind}, frontend{f, kind}})
			}
		}
	}
	slices.SortFunc(turns[sorted:], func(a, b frontendTurn) int {
		return cmp.Or(a.key.Addr.Compare(b.key.Addr), cmp.Compare(a.key.Port, b.key.Port), cmp.Compare(a.key.Protocol, b.key.Protocol))
	})
	return turns
}

// setIDs returns the sets that change, and those that have a backend whose id is used again, in order.
func (t *transaction) setIDs(swap *standIns) []model.SetID {
	ids := slices.Collect(maps.Keys(t.slotsBefore))
	if len(swap.backends) > 0 {
		for id, slots := range t.slots {
			if _, listed := t.slotsBefore[id]; !listed && slices.ContainsFunc(slots, swap.reuses) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *standIns) reuses(b model.BackendID) bool {
	_, reused := s.backends[b]
	return reused
}

func (t *transaction) setBefore(id model.SetID) set {
	slots, changed := t.slotsBefore[id]
	if !changed {
		return t.setNow(id)
	}
	if slots == nil {
		return set{}
	}
	s := set{count: uint32(len(slots)), slots: slots, read: t.wasRead[id]}
	if w, replaced := t.setsBefore[id]; replaced {
		s.row, s.kind = w.row, w.kind
	} else {
		s.row, s.kind = t.State.set(id)
	}
	if count, damaged := t.damaged[id]; damaged {
		s.count = count
	}
	return s
}

func (t *transaction) setNow(id model.SetID) set {
	row, kind := t.State.set(id)
	return set{row: row, kind: kind, count: uint32(len(t.slots[id])), slots: t.slots[id], read: true}
}

func (t *transaction) backendBefore(id model.BackendID) backend {
	w := t.backendsBefore[id]
	return backend{row: w.row, kind: w.kind, read: t.wasLinked[id]}
}

func (t *transaction) backendNow(id model.BackendID) backend {
	row, kind := t.State.backend(id)
	return backend{row: row, kind: kind, read: true}
}

func (r *round) endpoints() {
	for _, kind := range kinds {
		for _, e := range r.changes[kind].Put.Endpoints {
			r.endpoint(r.endpointsBefore[e.Addr], was[model.Endpoint]{e, kind})
		}
	}
	for addr, before := range r.endpointsBefore {
		if !r.endpointHeld(addr) {
			r.endpoint(before, was[model.Endpoint]{})
		}
	}
}

func (s *State) endpointHeld(addr netip.Addr) bool {
	for _, kind := range kinds {
		if _, held := s.tables[kind].Endpoints[addr]; held {
			return true
		}
	}
	return false
}
