// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Difference is what changes when units are compiled again.
type Difference struct {
	// Stages are to be committed one after the other, each as a whole. The first has what units come to. The others
	// are for policies: between any two of them each connection is judged as before or as after (see package policy).
	Stages []Stage
	// Changed are the units of which at least one row changed, by the layer that the row is in.
	Changed map[model.Layer][]Unit
	// SetAside by unit, for each unit that was compiled; none if the unit has nothing set aside.
	SetAside map[Unit][]state.SetAside
	// Refused are the policies that are beyond the limits, if what policies are about was compiled.
	Refused []state.SetAside
	// Units counts the units compiled.
	Units int
}

// Stage is changes by layer; none is empty.
type Stage = policy.Stage

func newDifference() Difference {
	return Difference{Stages: []Stage{{}}, Changed: map[model.Layer][]Unit{}, SetAside: map[Unit][]state.SetAside{}}
}

// Work is what has to be compiled again.
type Work struct {
	Units  []Unit
	Policy state.Policed
}

// Update compiles what has to be, from the state before and after, and returns the difference. What has no id yet gets
// one; ids of what goes are left to be freed when the difference is committed (ids.Allocator.Fold). The engine is that
// which compiled the policies of the state before.
func Update(before, after *state.Snapshot, alloc *ids.Allocator, engine *policy.Engine, settings Settings, work Work) Difference {
	units := slices.Clone(work.Units)
	if before.Policed() != after.Policed() {
		for _, node := range slices.Concat(nodeNames(before), nodeNames(after)) {
			units = append(units, NodeUnit(node))
		}
	}
	slices.SortFunc(units, Unit.Compare)
	d := newDifference()
	for _, unit := range slices.Compact(units) {
		d.Units++
		now := compileUnit(after, &settings, unit)
		d.SetAside[unit] = now.aside
		d.unit(unit, alloc, compileUnit(before, &settings, unit), now)
	}
	if !work.Policy.Empty() {
		d.add(engine.Update(after, work.Policy))
		d.Refused = engine.SetAside()
	}
	d.tidy()
	return d
}

// add adds stages of policy; the first goes with what units come to.
func (d *Difference) add(stages []Stage) {
	for i, stage := range stages {
		if i > 0 {
			d.Stages = append(d.Stages, stage)
			continue
		}
		for layer, change := range stage {
			c := d.change(layer)
			c.Put.Append(&change.Put)
			c.Remove.Append(&change.Remove)
		}
	}
}

// unit adds how one unit differs.
func (d *Difference) unit(unit Unit, alloc *ids.Allocator, before, after content) {
	begun := map[model.Layer]int{} // how many changes a layer had before those of this unit
	diffContent(unit, alloc, before, after, func(layer model.Layer) *model.Change {
		c := d.change(layer)
		if _, is := begun[layer]; !is {
			begun[layer] = c.Put.Len() + c.Remove.Len()
		}
		return c
	})
	for layer, n := range begun {
		if c := d.Stages[0][layer]; c.Put.Len()+c.Remove.Len() > n {
			d.Changed[layer] = append(d.Changed[layer], unit)
		}
	}
}

// change returns the change of a layer in the first stage.
func (d *Difference) change(layer model.Layer) *model.Change {
	c := d.Stages[0][layer]
	if c == nil {
		c = &model.Change{}
		d.Stages[0][layer] = c
	}
	return c
}

// tidy drops what is empty, and removals of what another unit puts: addresses and ports may move between Services.
func (d *Difference) tidy() {
	for layer, c := range d.Stages[0] {
		c.Remove.Frontends = without(c.Remove.Frontends, c.Put.Frontends)
		c.Remove.HealthChecks = without(c.Remove.HealthChecks, c.Put.HealthChecks)
		if c.Empty() {
			delete(d.Stages[0], layer)
		}
	}
	d.Stages = slices.DeleteFunc(d.Stages, func(s Stage) bool { return len(s) == 0 })
}

// without returns the keys that no row to put has.
func without[K comparable, R keyed[K]](remove []K, put []R) []K {
	if len(remove) == 0 || len(put) == 0 {
		return remove
	}
	kept := make(map[K]bool, len(put))
	for _, row := range put {
		kept[row.Key()] = true
	}
	return slices.DeleteFunc(remove, func(k K) bool { return kept[k] })
}
