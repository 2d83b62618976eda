// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Unit names a unit: a Service, or a node if Node is set.
type Unit struct {
	Service state.Name
	Node    string
}

// ServiceUnit and NodeUnit name the two sorts of units.
func ServiceUnit(name state.Name) Unit { return Unit{Service: name} }

// NodeUnit names the unit of one node.
func NodeUnit(node string) Unit { return Unit{Node: node} }

// Compare orders units: Services by name, then nodes by name.
func (u Unit) Compare(v Unit) int {
	return cmp.Or(cmp.Compare(u.Node, v.Node), u.Service.Compare(v.Service))
}

// Layer returns the layer that has the unit's rows.
func (u Unit) Layer() model.Layer {
	if u.Node != "" {
		return model.NodeLayer(u.Node)
	}
	return model.ClusterLayer
}

// Difference is what changes when units are compiled again.
type Difference struct {
	// Changes by layer; none is empty.
	Changes map[model.Layer]*model.Change
	// Changed are the units of which at least one row changed.
	Changed []Unit
	// SetAside by unit, for each unit that was compiled; none if the unit has nothing set aside.
	SetAside map[Unit][]state.SetAside
	// Units counts the units compiled.
	Units int
}

// Update compiles units from the state before and after and returns the difference. What has no id yet gets
// one; ids of what goes are left to be freed when the difference is committed (ids.Allocator.Fold).
func Update(before, after *state.Snapshot, alloc *ids.Allocator, units []Unit) Difference {
	units = slices.SortedFunc(slices.Values(units), Unit.Compare)
	d := Difference{Changes: map[model.Layer]*model.Change{}, SetAside: map[Unit][]state.SetAside{}}
	for _, unit := range slices.Compact(units) {
		d.Units++
		change := d.change(unit.Layer())
		rows := change.Put.Len() + change.Remove.Len()
		if unit.Node != "" {
			now := compileNode(after, unit.Node)
			d.SetAside[unit] = now.aside
			diffNode(change, compileNode(before, unit.Node), now)
		} else {
			now := compileService(after, unit.Service)
			d.SetAside[unit] = now.aside
			diffService(change, alloc, compileService(before, unit.Service), now)
		}
		if change.Put.Len()+change.Remove.Len() > rows {
			d.Changed = append(d.Changed, unit)
		}
	}
	d.tidy()
	return d
}

func (d *Difference) change(layer model.Layer) *model.Change {
	c := d.Changes[layer]
	if c == nil {
		c = &model.Change{}
		d.Changes[layer] = c
	}
	return c
}

// tidy drops empty changes, and removals of what another unit puts: an address may move between Services.
func (d *Difference) tidy() {
	for layer, c := range d.Changes {
		if len(c.Put.Frontends) > 0 && len(c.Remove.Frontends) > 0 {
			put := map[model.FrontendKey]bool{}
			for _, f := range c.Put.Frontends {
				put[f.FrontendKey] = true
			}
			c.Remove.Frontends = slices.DeleteFunc(c.Remove.Frontends, func(k model.FrontendKey) bool { return put[k] })
		}
		if c.Empty() {
			delete(d.Changes, layer)
		}
	}
}

func diffService(c *model.Change, alloc *ids.Allocator, before, after service) {
	merge(before.sets, after.sets, func(a, b set) int { return compareSetKeys(a.key, b.key) },
		func(old set) {
			id := alloc.LookupSet(old.key)
			c.Remove.Sets = append(c.Remove.Sets, id)
			diffSet(c, alloc, id, old, set{})
		},
		func(now set) {
			id := alloc.Set(now.key)
			c.Put.Sets = append(c.Put.Sets, model.BackendSet{ID: id, SetKey: now.key})
			diffSet(c, alloc, id, set{}, now)
		},
		func(old, now set) { diffSet(c, alloc, alloc.Set(now.key), old, now) })
}

func diffSet(c *model.Change, alloc *ids.Allocator, id model.SetID, before, after set) {
	merge(before.frontends, after.frontends, compareFrontendKeys,
		func(old model.FrontendKey) { c.Remove.Frontends = append(c.Remove.Frontends, old) },
		func(now model.FrontendKey) { c.Put.Frontends = append(c.Put.Frontends, frontendRow(now, id)) },
		func(_, _ model.FrontendKey) {})
	merge(before.backends, after.backends, func(a, b backend) int { return a.at.Compare(b.at) },
		func(old backend) {
			b := alloc.LookupBackend(backendKey(id, old))
			c.Remove.Backends = append(c.Remove.Backends, b)
			if old.member {
				c.Remove.Members = append(c.Remove.Members, model.Member{Set: id, Backend: b})
			}
		},
		func(now backend) { putBackend(c, alloc, id, backend{}, now) },
		func(old, now backend) {
			if old != now {
				putBackend(c, alloc, id, old, now)
			}
		})
}

func putBackend(c *model.Change, alloc *ids.Allocator, set model.SetID, old, now backend) {
	row := backendRow(alloc, set, now)
	if old.state != now.state {
		c.Put.Backends = append(c.Put.Backends, row)
	}
	member := model.Member{Set: set, Backend: row.ID}
	switch {
	case now.member && !old.member:
		c.Put.Members = append(c.Put.Members, member)
	case old.member && !now.member:
		c.Remove.Members = append(c.Remove.Members, member)
	}
}

func diffNode(c *model.Change, before, after node) {
	merge(before.endpoints, after.endpoints, func(a, b model.Endpoint) int { return a.Addr.Compare(b.Addr) },
		func(old model.Endpoint) { c.Remove.Endpoints = append(c.Remove.Endpoints, old.Addr) },
		func(now model.Endpoint) { c.Put.Endpoints = append(c.Put.Endpoints, now) },
		func(old, now model.Endpoint) {
			if old != now {
				c.Put.Endpoints = append(c.Put.Endpoints, now)
			}
		})
}

// merge walks two sorted lists and calls gone, come or both for each element.
func merge[E any](before, after []E, compare func(a, b E) int, gone, come func(E), both func(old, now E)) {
	for len(before) > 0 || len(after) > 0 {
		switch order := side(before, after, compare); {
		case order < 0:
			gone(before[0])
			before = before[1:]
		case order > 0:
			come(after[0])
			after = after[1:]
		default:
			both(before[0], after[0])
			before, after = before[1:], after[1:]
		}
	}
}

func side[E any](before, after []E, compare func(a, b E) int) int {
	switch {
	case len(after) == 0:
		return -1
	case len(before) == 0:
		return 1
	}
	return compare(before[0], after[0])
}
