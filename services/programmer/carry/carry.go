// SPDX-License-Identifier: Apache-2.0

// Package carry carries out what a programmer's core wants done with the maps, and tells the core how it went. It is
// what the service and the tests have in common: give it real maps or faulty ones.
package carry

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// Driver drives a Core on Maps. One goroutine at a time may use it.
type Driver struct {
	Core *core.Core
	Maps maps.Maps
	Now  func() time.Time
	// Defer lets the last phase of a plan, reclaim, wait for its grace period while other inputs are worked on. Then
	// Late tells when to call Finish.
	Defer bool
	// Background runs deferred grace periods in a goroutine, which Finish waits for.
	Background bool

	late *late

	cursor  maps.Cursor
	entries []core.Entry // of the last slice, and
	bytes   []byte       // what is in them
}

// Step puts one input in, carries out the effects that touch the maps, puts their results in, and so on until nothing
// is to be done with the maps. It returns the other effects, in order.
func (d *Driver) Step(in core.Input) []core.Effect {
	return d.do(d.Core.Step(d.Now(), in))
}

func (d *Driver) do(todo []core.Effect) (others []core.Effect) {
	for len(todo) > 0 {
		e := todo[0]
		todo = todo[1:]
		answer, mine := d.carryOut(e)
		if !mine {
			others = append(others, e)
		}
		if answer != nil {
			// What follows from the answer comes after what was already to be done.
			todo = slices.Concat(todo, d.Core.Step(d.Now(), answer))
		}
	}
	return others
}

// carryOut does one effect if it touches the maps.
func (d *Driver) carryOut(e core.Effect) (answer core.Input, mine bool) {
	switch e := e.(type) {
	case core.Load:
		_ = d.finish() // what it could not reclaim, reading shows
		return d.load(), true
	case core.Transact:
		return d.transact(e), true
	case core.Read:
		return d.read(e), true
	case core.Record:
		if d.late != nil {
			d.late.records = append(d.late.records, e) // not before the rows are all that is there
			return nil, true
		}
		if err := d.Maps.SetPosition(e.Kind, e.Position); err != nil {
			// Without its position the next start reads rows that it can't place, and asks for them.
			return core.Unrecorded{Err: err}, true
		}
		return nil, true
	}
	return nil, false
}

func (d *Driver) load() core.Loaded {
	in := core.Loaded{Positions: map[model.LayerKind]model.Position{}}
	in.State, in.Err = d.Load()
	for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
		p, err := d.Maps.Position(kind)
		if err != nil && in.Err == nil {
			in.Err = fmt.Errorf("reading how far layer kind %d has come: %w", kind, err)
		}
		in.Positions[kind] = p
	}
	epoch, err := d.Maps.Epoch()
	if err != nil && in.Err == nil {
		in.Err = fmt.Errorf("reading whether connections are judged: %w", err)
	}
	in.Judging = epoch != 0
	return in
}

// Load reads what the maps hold.
func (d *Driver) Load() (*plan.State, error) {
	return plan.Load(func(m abi.Map, each func(key, value []byte) error) error { return maps.Dump(d.Maps, m, each) })
}

func (d *Driver) transact(e core.Transact) (done core.Done) {
	if d.late != nil && d.late.inTheWay(e.Phases) {
		if done.Err = d.finish(); done.Err != nil {
			return done
		}
	}
	for i, phase := range e.Phases {
		if phase.Name == "reclaim" && done.Switched.IsZero() {
			done.Switched = d.Now()
		}
		if d.Defer && phase.Name == "reclaim" && i == len(e.Phases)-1 {
			if done.Err = d.finish(); done.Err == nil {
				d.postpone(phase)
			}
			return done
		}
		done.Err = d.phase(phase)
		if errors.Is(done.Err, maps.ErrFull) && d.late != nil {
			// What was put off may take up the room that this needs.
			if done.Err = d.finish(); done.Err == nil {
				done.Err = d.phase(phase)
			}
		}
		if done.Err != nil {
			return done
		}
	}
	if done.Switched.IsZero() {
		done.Switched = d.Now()
	}
	return done
}

func (d *Driver) phase(phase plan.Phase) error {
	if phase.Grace {
		if err := d.Maps.Grace(); err != nil {
			return fmt.Errorf("before the phase %q: %w", phase.Name, err)
		}
	}
	for _, batch := range phase.Batches {
		if err := d.Maps.Write(batch); err != nil {
			return fmt.Errorf("in the phase %q: %w", phase.Name, err)
		}
	}
	if err := d.Maps.Fill(phase.Tables); err != nil {
		return fmt.Errorf("in the phase %q: %w", phase.Name, err)
	}
	if phase.Judge == plan.JudgeAsBefore {
		return nil
	}
	if err := d.Maps.Judge(phase.Judge == plan.JudgeAgain); err != nil {
		return fmt.Errorf("in the phase %q: %w", phase.Name, err)
	}
	return nil
}

func (d *Driver) read(e core.Read) core.Slice {
	if err := d.finish(); err != nil {
		return core.Slice{Map: e.Map, Err: err}
	}
	if e.Start {
		d.cursor = maps.Cursor{}
	}
	d.entries, d.bytes = d.entries[:0], d.bytes[:0]
	in := core.Slice{Map: e.Map}
	in.End, in.Err = d.Maps.Read(e.Map, &d.cursor, e.Limit, func(key, value []byte) error {
		d.entries = append(d.entries, core.Entry{Key: d.keep(key), Value: d.keep(value)})
		return nil
	})
	in.Entries = d.entries
	return in
}

// keep copies b to where it stays until the next slice.
func (d *Driver) keep(b []byte) []byte {
	if cap(d.bytes)-len(d.bytes) < len(b) {
		d.bytes = make([]byte, 0, max(64<<10, 2*cap(d.bytes)))
	}
	from := len(d.bytes)
	d.bytes = append(d.bytes, b...)
	return d.bytes[from:len(d.bytes):len(d.bytes)]
}
