// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// turn is a row before and after the change.
type turn[K comparable, R any] struct {
	key           K
	before, after was[R]
}

// turnsOf returns the rows of one table that change, and those that are touched without a change of their own: they
// name an id that is used again.
func turnsOf[K comparable, R row[K]](t *transaction, c *codec[K, R], before map[K]was[R], touched func(R) bool) []turn[K, R] {
	var turns []turn[K, R]
	seen := map[K]bool{}
	for _, kind := range kinds {
		for _, r := range *c.puts(&t.changes[kind].Put) {
			turns = append(turns, turn[K, R]{r.Key(), before[r.Key()], was[R]{r, kind}})
			if touched != nil || len(before) > 0 {
				seen[r.Key()] = true
			}
		}
	}
	sorted := len(turns)
	for key, w := range before {
		if !seen[key] {
			turns = append(turns, turn[K, R]{key, w, was[R]{}})
			seen[key] = true
		}
	}
	for _, kind := range kinds {
		if touched == nil {
			break
		}
		for key, r := range c.of(t.tables[kind]).All() {
			if touched(r) && !seen[key] {
				turns = append(turns, turn[K, R]{key, was[R]{r, kind}, was[R]{r, kind}})
			}
		}
	}
	var a arena
	slices.SortFunc(turns[sorted:], func(x, y turn[K, R]) int { return bytes.Compare(c.key(&a, x.key), c.key(&a, y.key)) })
	return turns
}

// entry writes a row into one batch, or removes it in another.
func entry[K comparable, R row[K]](r *round, c *codec[K, R], of turn[K, R], put, remove *batches) {
	switch {
	case of.before == of.after:
	case of.after.kind == 0:
		remove.remove(c.in, c.key(&r.arena, of.key))
		r.removed[c.in]++
	default:
		r.put(put, c.in, c.key(&r.arena, of.key), c.value(&r.arena, of.after.row, of.after.kind), of.before.kind == 0)
	}
}

// moved writes a row that has another key after than before, as stand-ins make it have.
func moved[K comparable, R row[K]](of turn[K, R]) []turn[K, R] {
	if of.before.kind == 0 || of.after.kind == 0 || of.before.row.Key() == of.after.row.Key() {
		key := of.before.row.Key()
		if of.after.kind != 0 {
			key = of.after.row.Key()
		}
		return []turn[K, R]{{key, of.before, of.after}}
	}
	return []turn[K, R]{{of.before.row.Key(), of.before, was[R]{}}, {of.after.row.Key(), was[R]{}, of.after}}
}

// frontend writes a frontend. A row that refuses all other ports of an address comes after the rows of the ports
// that are served and goes before them.
func (r *round) frontend(of turn[model.FrontendKey, model.Frontend]) {
	if of.key.Port == 0 {
		entry(r, frontends, of, &r.refuse, &r.lead)
		return
	}
	entry(r, frontends, of, &r.point, &r.point)
}

// view writes a view: once its target is there, and before the frontends that count on it. Also if no frontend points at
// its root: programs that read one before it was moved away may still be looking for the root's views. It goes before
// its target, or with it where nothing looks for it any more.
func (r *round) view(of turn[model.ViewKey, model.View]) {
	key := of.key
	remove := &r.lead
	if !r.readAfter(key.Set) || !r.looksAt(key) {
		remove = &r.reclaim
	}
	entry(r, views, of, &r.lead, r.unlessLeftOver(key.Set, of.after.kind == 0, remove))
}

// unlessLeftOver returns where a row of a root is removed: before anything points at the root, if nothing did.
func (r *round) unlessLeftOver(root model.SetID, goes bool, in *batches) *batches {
	if goes && !r.readBefore(root) && r.readAfter(root) {
		r.settle = true
		return &r.prepare
	}
	return in
}

// looksAt says whether programs look for a view, after the change.
func (r *round) looksAt(key model.ViewKey) bool {
	row, _ := r.State.set(key.Set)
	switch key.Scope {
	case model.ScopeNode:
		return row.Flags&model.NodeHints != 0
	case model.ScopeZone:
		return row.Flags&model.ZoneHints != 0
	}
	return true
}

// sourceRange writes a range before any frontend asks for it, and removes it when none does any more.
func (r *round) sourceRange(of turn[model.SourceRange, model.SourceRange]) {
	entry(r, sourceRanges, of, &r.prepare, r.unlessLeftOver(of.key.Set, of.after.kind == 0, &r.reclaim))
}

// rest writes the tables that no id leads to or from, and nodes: before backends say that they are there, and until none
// does any more. A backend whose node has no row is one whose node isn't known.
func (r *round) rest() {
	for _, of := range turnsOf(r.transaction, nodes, r.nodesBefore, nil) {
		entry(r, nodes, of, &r.prepare, &r.reclaim)
	}
	for _, of := range turnsOf(r.transaction, networks, r.networksBefore, nil) {
		entry(r, networks, of, &r.prepare, &r.reclaim)
	}
	for _, of := range turnsOf(r.transaction, healthChecks, r.healthChecksBefore, nil) {
		entry(r, healthChecks, of, &r.point, &r.point)
	}
	for _, of := range turnsOf(r.transaction, selves, r.selvesBefore, nil) {
		entry(r, selves, of, &r.point, &r.point)
	}
}
