// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Difference is what changes when units are compiled again.
type Difference struct {
	// Changes by layer; none is empty.
	Changes map[model.Layer]*model.Change
	// Changed are the units of which at least one row changed, by the layer that the row is in.
	Changed map[model.Layer][]Unit
	// SetAside by unit, for each unit that was compiled; none if the unit has nothing set aside.
	SetAside map[Unit][]state.SetAside
	// Units counts the units compiled.
	Units int
}

func newDifference() Difference {
	return Difference{
		Changes: map[model.Layer]*model.Change{}, Changed: map[model.Layer][]Unit{}, SetAside: map[Unit][]state.SetAside{},
	}
}

// Update compiles units from the state before and after and returns the difference. What has no id yet gets
// one; ids of what goes are left to be freed when the difference is committed (ids.Allocator.Fold).
func Update(before, after *state.Snapshot, alloc *ids.Allocator, settings Settings, units []Unit) Difference {
	units = slices.SortedFunc(slices.Values(units), Unit.Compare)
	d := newDifference()
	for _, unit := range slices.Compact(units) {
		d.Units++
		now := compileUnit(after, &settings, unit)
		d.SetAside[unit] = now.aside
		d.unit(unit, alloc, compileUnit(before, &settings, unit), now)
	}
	d.tidy()
	return d
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
		if c := d.Changes[layer]; c.Put.Len()+c.Remove.Len() > n {
			d.Changed[layer] = append(d.Changed[layer], unit)
		}
	}
}

func (d *Difference) change(layer model.Layer) *model.Change {
	c := d.Changes[layer]
	if c == nil {
		c = &model.Change{}
		d.Changes[layer] = c
	}
	return c
}

// tidy drops empty changes, and removals of what another unit puts: addresses and ports may move between Services.
func (d *Difference) tidy() {
	for layer, c := range d.Changes {
		c.Remove.Frontends = without(c.Remove.Frontends, c.Put.Frontends)
		c.Remove.HealthChecks = without(c.Remove.HealthChecks, c.Put.HealthChecks)
		if c.Empty() {
			delete(d.Changes, layer)
		}
	}
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
