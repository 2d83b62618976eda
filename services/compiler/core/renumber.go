// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/deltaplane/deltaplane/internal/model"
)

// renumbering gives rows of before the ids that they may have now. Nodes' flows remember ids, so an id must not turn to
// mean something else: what has an id today keeps it, and what had one whose meaning has never changed since gets it
// back, so that its connections go on. Everything else gets an id that nothing means.
type renumbering struct {
	sets     map[model.SetID]model.SetID
	backends map[model.BackendID]model.BackendID
}

// renumbered returns the layers of a history with the ids that they may have now, which it takes.
func (c *Core) renumbered(h *History) map[model.Layer]*model.Tables {
	n := renumbering{sets: map[model.SetID]model.SetID{0: 0}, backends: map[model.BackendID]model.BackendID{0: 0}}
	c.numberSets(h, n.sets)
	c.numberBackends(h, n)
	all := make(map[model.Layer]*model.Tables, len(h.fold.layers))
	for l, held := range h.fold.layers {
		rows := held.rows.Rows()
		n.apply(&rows)
		t := model.NewTables()
		t.Apply(&model.Change{Put: rows}, model.Digest{})
		all[l] = t
	}
	return all
}

func (c *Core) numberSets(h *History, ids map[model.SetID]model.SetID) {
	var again []model.BackendSet // get their old ids, before others get new ones
	var fresh []model.BackendSet
	for _, held := range inOrderOf(h.fold.layers) {
		for _, row := range sorted(held.rows.Sets) {
			key, later := h.sets[row.ID]
			switch id := c.ids.LookupSet(row.SetKey); {
			case id != 0:
				ids[row.ID] = id
			case !h.unknown && (!later || key == row.SetKey):
				ids[row.ID] = row.ID
				again = append(again, row)
			default:
				fresh = append(fresh, row)
			}
		}
	}
	c.ids.Fold(&model.Tables{}, &model.Change{Put: model.Rows{Sets: again}}, c.last.at)
	for _, row := range fresh {
		ids[row.ID] = c.ids.Set(row.SetKey)
	}
}

func (c *Core) numberBackends(h *History, n renumbering) {
	var again, fresh []model.Backend
	for _, held := range inOrderOf(h.fold.layers) {
		for _, row := range sorted(held.rows.Backends) {
			key, later := h.backends[row.ID]
			same := !h.unknown && n.sets[row.Set] == row.Set && (!later || key == row.BackendKey)
			row.Set = n.sets[row.Set]
			switch id := c.ids.LookupBackend(row.BackendKey); {
			case id != 0:
				n.backends[row.ID] = id
			case same:
				n.backends[row.ID] = row.ID
				again = append(again, row)
			default:
				fresh = append(fresh, row)
			}
		}
	}
	c.ids.Fold(&model.Tables{}, &model.Change{Put: model.Rows{Backends: again}}, c.last.at)
	for _, row := range fresh {
		n.backends[row.ID] = c.ids.Backend(row.BackendKey)
	}
}

// apply changes all ids in rows.
func (n *renumbering) apply(r *model.Rows) {
	for i := range r.Sets {
		row := &r.Sets[i]
		row.ID, row.Root = n.sets[row.ID], n.sets[row.Root]
	}
	for i := range r.Backends {
		row := &r.Backends[i]
		row.ID, row.Set = n.backends[row.ID], n.sets[row.Set]
		if twin, known := n.backends[row.Twin]; known {
			row.Twin = twin
		} else {
			row.Twin = 0 // it may be missing, and its id may mean another by now
		}
	}
	for i := range r.Members {
		row := &r.Members[i]
		row.Set, row.Backend = n.sets[row.Set], n.backends[row.Backend]
	}
	for i := range r.Views {
		row := &r.Views[i]
		row.Set, row.Target = n.sets[row.Set], n.sets[row.Target]
	}
	for i := range r.SourceRanges {
		r.SourceRanges[i].Set = n.sets[r.SourceRanges[i].Set]
	}
	for i := range r.Frontends {
		r.Frontends[i].Set = n.sets[r.Frontends[i].Set]
	}
}
