// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// phases returns the writes from what was to what is, if there is room for them.
func (t *transaction) phases(capacities Capacities) ([]Phase, error) {
	services, err := t.servicePhases(capacities)
	if err != nil {
		return nil, err
	}
	policy, err := t.policyPhases(capacities)
	if err != nil {
		return nil, err
	}
	return join(services, policy), nil
}

// join makes one plan of two: what both have to reclaim comes last, after one grace period.
func join(services, policy []Phase) []Phase {
	last := len(services) - 1
	if len(policy) == 0 || last < 0 || services[last].Name != "reclaim" {
		return append(services, policy...)
	}
	reclaim := services[last]
	phases := append(services[:last:last], policy...)
	if end := len(phases) - 1; phases[end].Name == "reclaim" {
		reclaim.Batches = append(phases[end].Batches, reclaim.Batches...)
		phases = phases[:end]
	}
	return append(phases, reclaim)
}

// servicePhases returns the writes of all but policy.
func (t *transaction) servicePhases(capacities Capacities) ([]Phase, error) {
	swap := t.standIns()
	t.turnTables(capacities[abi.MaglevIndex], swap)
	first := round{transaction: t, settle: !t.Whole(), readBefore: t.rootWasRead(), readAfter: swap.leads(t, false)}
	first.leave(swap)
	first.leftovers()
	if swap.none() {
		first.fillTables(false)
	} else {
		first.hideTables()
	}
	phases, err := first.finish(capacities)
	if err != nil || swap.none() {
		return phases, err
	}
	second := round{transaction: t, readBefore: swap.leads(t, false), readAfter: swap.leads(t, true)}
	second.arrive(swap)
	second.fillTables(true)
	more, err := second.finish(capacities)
	return append(phases, more...), err
}

// standIns are temporary ids for sets and backends whose id means something else after the change, for all parts of such
// a set, and for all its backends, since programs check that a backend is of the root that led to it. They are far above
// those that the compiler gives out, which are the lowest free ones.
type standIns struct {
	sets     map[model.SetID]model.SetID
	backends map[model.BackendID]model.BackendID
}

const firstStandIn = 1 << 31

func (s *standIns) none() bool { return len(s.sets)+len(s.backends) == 0 }

func (t *transaction) standIns() *standIns {
	swap := &standIns{sets: map[model.SetID]model.SetID{}, backends: map[model.BackendID]model.BackendID{}}
	freeSet := model.SetID(firstStandIn)
	for _, id := range slices.Sorted(slices.Values(t.reusedSets())) {
		for t.setTaken(freeSet) {
			freeSet++
		}
		swap.sets[id] = freeSet
		freeSet++
	}
	freeBackend := model.BackendID(firstStandIn)
	for _, id := range slices.Sorted(maps.Keys(t.reusedBackends(swap))) {
		for t.backendTaken(freeBackend) {
			freeBackend++
		}
		swap.backends[id] = freeBackend
		freeBackend++
	}
	return swap
}

// reusedSets returns the sets that mean something else than what programs may be reading, and their parts.
func (t *transaction) reusedSets() (ids []model.SetID) {
	reused := map[model.SetID]bool{}
	for id, before := range t.setsBefore {
		now, kind := t.State.set(id)
		reused[id] = kind != 0 && !same(now, before.row) && t.wasRead[id]
		if reused[id] {
			ids = append(ids, id)
		}
	}
	for _, kind := range kinds {
		if len(ids) == 0 {
			break
		}
		for id, row := range t.tables[kind].Sets {
			if reused[row.Root] && !reused[id] && row.Root != id {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// same says whether two sets of the same id are the same, with other members and flags perhaps.
func same(a, b model.BackendSet) bool { return a.SetKey == b.SetKey && a.Root == b.Root }

func (t *transaction) reusedBackends(swap *standIns) map[model.BackendID]struct{} {
	reused := map[model.BackendID]struct{}{}
	for id := range swap.sets {
		for _, b := range t.slots[id] {
			row, _ := t.State.backend(b)
			if _, ofReused := swap.sets[row.Set]; ofReused {
				reused[b] = struct{}{}
			}
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
	for _, f := range turnsOf(r.transaction, frontends, r.frontendsBefore, touch(swap, swap.touchesFrontend)) {
		r.frontend(turn[model.FrontendKey, model.Frontend]{f.key, f.before, swap.frontend(f.after)})
	}
	for _, v := range turnsOf(r.transaction, views, r.viewsBefore, touch(swap, swap.touchesView)) {
		v.after = swap.view(v.after)
		for _, of := range moved(v) {
			r.view(of)
		}
	}
	for _, s := range turnsOf(r.transaction, sourceRanges, r.sourceRangesBefore, touch(swap, swap.touchesRange)) {
		s.after = swap.sourceRange(s.after)
		for _, of := range moved(s) {
			r.sourceRange(of)
		}
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
	r.rest()
}

// arrive goes from the stand-ins to the ids themselves.
func (r *round) arrive(swap *standIns) {
	for _, f := range turnsOf(r.transaction, frontends, r.frontendsBefore, touch(swap, swap.touchesFrontend)) {
		r.frontend(turn[model.FrontendKey, model.Frontend]{f.key, swap.frontend(f.after), f.after})
	}
	for _, v := range turnsOf(r.transaction, views, r.viewsBefore, touch(swap, swap.touchesView)) {
		v.before = swap.view(v.after)
		for _, of := range moved(v) {
			r.view(of)
		}
	}
	for _, s := range turnsOf(r.transaction, sourceRanges, r.sourceRangesBefore, touch(swap, swap.touchesRange)) {
		s.before = swap.sourceRange(s.after)
		for _, of := range moved(s) {
			r.sourceRange(of)
		}
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

// leads says which sets frontends point at: those they will in the end, or while there are stand-ins.
func (s *standIns) leads(t *transaction, end bool) func(model.SetID) bool {
	return func(id model.SetID) bool {
		if _, reused := s.sets[id]; reused && !end {
			return false
		}
		return t.pointersTo[id] > 0 || id >= firstStandIn && !end
	}
}

// rootWasRead says which sets frontends pointed at before the change.
func (t *transaction) rootWasRead() func(model.SetID) bool {
	return func(id model.SetID) bool {
		if was, noted := t.pointedAt[id]; noted {
			return was
		}
		return t.pointersTo[id] > 0
	}
}

// touch returns touches if there is anything to touch.
func touch[R any](s *standIns, touches func(R) bool) func(R) bool {
	if len(s.sets) == 0 {
		return nil
	}
	return touches
}

func (s *standIns) reusesSet(id model.SetID) bool {
	_, reused := s.sets[id]
	return reused
}

func (s *standIns) touchesFrontend(f model.Frontend) bool { return s.reusesSet(f.Set) }
func (s *standIns) touchesView(v model.View) bool {
	return s.reusesSet(v.Set) || s.reusesSet(v.Target)
}
func (s *standIns) touchesRange(r model.SourceRange) bool { return s.reusesSet(r.Set) }

// id returns the stand-in of a set's id, if it has one.
func (s *standIns) id(id model.SetID) model.SetID {
	if other, reused := s.sets[id]; reused {
		return other
	}
	return id
}

func (s *standIns) frontend(f was[model.Frontend]) was[model.Frontend] {
	f.row.Set = s.id(f.row.Set)
	return f
}

func (s *standIns) view(v was[model.View]) was[model.View] {
	v.row.Set, v.row.Target = s.id(v.row.Set), s.id(v.row.Target)
	return v
}

func (s *standIns) sourceRange(r was[model.SourceRange]) was[model.SourceRange] {
	r.row.Set = s.id(r.row.Set)
	return r
}

func (s *standIns) backend(b backend) backend {
	b.row.ID, b.row.Set = s.backends[b.row.ID], s.id(b.row.Set)
	if other, reused := s.backends[b.row.Twin]; reused {
		b.row.Twin = other
	}
	return b
}

func (s *standIns) set(of set) set {
	of.row.ID, of.row.Root = s.id(of.row.ID), s.id(of.row.Root)
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

// setIDs returns the sets that change, those that get stand-ins, and those that have a backend whose id is used again,
// in order.
func (t *transaction) setIDs(swap *standIns) []model.SetID {
	ids := slices.Collect(maps.Keys(t.slotsBefore))
	if !swap.none() {
		for id, slots := range t.slots {
			if _, listed := t.slotsBefore[id]; !listed && (swap.reusesSet(id) || slices.ContainsFunc(slots, swap.reuses)) {
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
