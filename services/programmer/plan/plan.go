// SPDX-License-Identifier: Apache-2.0

// Package plan turns a change of rows into ordered writes to a node's maps. It is pure: it reads and writes no map.
//
// It promises that no packet ever sees a half-applied change: a packet goes where the rows before or the rows after
// send it (or, if its frontend is about to leave a set, where that set's own new backends are). A packet's path reads four maps in order, frontend →
// set → slot → backend, while the writes go on. The plan writes in phases:
//
//	prepare   what nothing points at yet: backends, slots beyond the count, sets
//	switch    counts, slots in use, rows that keep their meaning; then Maglev tables, see maglev.go
//	lead      views, now that their targets are there, and what leads to new Maglev tables
//	point     frontends, so that one that moves to a set finds it as it is after the change
//	refuse    what refuses an address's other ports, now that those that are served are there
//	  grace   every program that may have read the old pointers has ended
//	reclaim   what nothing points at any more: slots beyond the count, sets, backends
//
// An id that means something else after the change goes through a stand-in: first everything moves to a temporary
// id, then, when nothing reads the old rows any more, back. That is a second round of the same phases.
//
// The one thing to know before changing this: within a phase writes may be made in any order, and a crash or a
// failed write may end it at any point. readers_test.go tries every reader against every point.
package plan

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// Plan is ordered writes that take the maps from one state to the next.
type Plan struct{ Phases []Phase }

// Phase is writes that may be made in any order.
type Phase struct {
	Name string // "prepare", "switch", "lead", "point", "refuse" or "reclaim"
	// Grace asks to wait, before the first write, until every program that runs has ended.
	Grace   bool
	Batches [][]maps.Write
	// Tables are the Maglev tables to be filled, after the writes.
	Tables []maps.Table
	// Judge asks, after the writes, to have connections judged again, or no longer.
	Judge Judge
}

// Judge is what a phase wants of the epoch of what judges.
type Judge uint8

// The wishes.
const (
	JudgeAsBefore Judge = iota
	JudgeAgain
	JudgeNothing
)

// Writes counts the plan's writes.
func (p *Plan) Writes() int {
	n := 0
	for _, phase := range p.Phases {
		for _, batch := range phase.Batches {
			n += len(batch)
		}
	}
	return n
}

// LayerChange is a change of one layer.
type LayerChange struct {
	Kind   model.LayerKind
	Change *model.Change
	// After, if set, is the digest that the layer's rows must have after the change.
	After *model.Digest
	// TakeOver lets the layer have keys that another layer holds, as happens when someone has edited the maps.
	// Without it such a change is refused: layers own disjoint keys.
	TakeOver bool
}

// Capacities are how many entries each map has room for.
type Capacities [abi.MapCount]int

// Apply makes the plan for changes and takes s to the state after it: the caller carries the plan out at once, or
// loads the state anew if it can't. If the changes are refused, s is as before and the error is a *Refusal. Rows
// that are already as wanted cost nothing. Rule sets that there is no room for are left out; see LeftOut.
func (s *State) Apply(capacities Capacities, changes ...LayerChange) (*Plan, error) {
	if s.aside.wanted != nil && judgesOtherwise(changes) {
		return s.fit(capacities, changes)
	}
	phases, _, err := s.apply(capacities, s.inMaps(changes))
	if s.aside.wanted == nil && overflows(err) {
		return s.fit(capacities, changes)
	}
	if err != nil {
		return nil, err
	}
	return &Plan{Phases: phases}, nil
}

// apply makes the plan for changes that fit, and says how to take s back to where it was.
func (s *State) apply(capacities Capacities, changes []LayerChange) (phases []Phase, undo func(), err error) {
	t := begin(s)
	if phases, err = t.run(capacities, changes); err != nil {
		t.undo()
		return nil, nil, err
	}
	judging, rejudge, stray, foreign, damaged := s.judging, s.rejudge, s.stray, s.foreign, s.damaged
	s.judging, s.rejudge = t.judges(), false
	s.stray, s.foreign, s.damaged = map[slot]struct{}{}, map[entryKey]struct{}{}, map[model.SetID]uint32{}
	return phases, func() {
		t.undo()
		s.judging, s.rejudge, s.stray, s.foreign, s.damaged = judging, rejudge, stray, foreign, damaged
	}, nil
}

// Refusal is a change that is not made, as a whole, while the state before stays.
type Refusal struct {
	Kind    string // "capacity", "digest" or "rows"
	Text    string
	Map     abi.Map // that has no room, and
	Lacking int     // for so many entries, if that is why
}

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

func refuse(kind, format string, args ...any) error {
	return &Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}
