// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
)

// drawer draws tables that are closed in themselves, from so few ids that they are used again often.
type drawer struct {
	*rapid.T
	name   string
	tables *model.Tables
	plain  bool // no parts, hints, policies or ranges
}

// special draws what only rows that aren't plain have.
func (d *drawer) special(what string, n int) int {
	if d.plain {
		return 0
	}
	return d.draw(what, n)
}

func (d *drawer) draw(what string, n int) int {
	return rapid.IntRange(0, n-1).Draw(d.T, d.name+" "+what)
}

func (d *drawer) put(all ...any) {
	rows := rows(all...).Rows()
	d.tables.Apply(&model.Change{Put: rows}, model.Digest{})
}

// anyRows draws a cluster's layer.
func anyRows(t *rapid.T, name string, plain bool) *model.Tables {
	d := &drawer{t, name, model.NewTables(), plain}
	for id := range 3 {
		if d.draw(fmt.Sprintf("set %d", id), 4) > 0 {
			flags := model.SetFlags(d.special(fmt.Sprintf("hints of set %d", id), 4))
			flags |= model.External * model.SetFlags(d.draw(fmt.Sprintf("set %d is external", id), 2))
			d.put(flagged(set(model.SetID(id+1), d.draw(fmt.Sprintf("service of set %d", id), 3)), flags))
		}
	}
	for id := range 4 {
		of := model.SetID(d.draw(fmt.Sprintf("set of backend %d", id), 4))
		if _, held := d.tables.Sets[of]; !held {
			continue
		}
		row := backend(model.BackendID(id+1), of, d.draw(fmt.Sprintf("host of backend %d", id), 4))
		row.Node = model.NodeID(d.special(fmt.Sprintf("node of backend %d", id), 3)) // with a row or not
		d.put(row)
		if d.draw(fmt.Sprintf("backend %d is member", id), 5) > 0 {
			d.put(in(of, model.BackendID(id+1)))
		}
	}
	if last := d.special("node", 3); last > 0 {
		d.put(model.Node{ID: 1, V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(last)})})
	}
	// One id between roots and parts, so that either may become the other.
	d.part(3, d.roots(), model.ScopeZone, "here", 0)
	d.part(5, d.roots(), model.ScopeZone, "here", 0)
	for n := range 3 {
		of := model.SetID(d.draw(fmt.Sprintf("set of frontend %d", n), 4))
		if row, held := d.tables.Sets[of]; held && row.Root == of {
			d.put(policy(frontend(n, of), model.FrontendFlags(d.special(fmt.Sprintf("flags of frontend %d", n), 8))))
		}
		root := model.SetID(n + 1)
		if _, held := d.tables.Sets[root]; held && d.special(fmt.Sprintf("ranges of set %d", n), 3) == 1 {
			d.put(sources(root, []string{"192.0.2.0/24", "0.0.0.0/0", "10.0.0.0/8"}[d.draw("range", 3)]))
		}
	}
	return d.tables
}

func (d *drawer) roots() map[model.SetID]model.BackendSet {
	return d.tables.Sets
}

// part draws a part of one of roots, if it may have the id, and its view.
func (d *drawer) part(id model.SetID, roots map[model.SetID]model.BackendSet, scope model.Scope, place string, firstBackend model.BackendID) {
	root := roots[model.SetID(d.special(fmt.Sprintf("root of part %d", id), 4))]
	key := view(id, root.ID, scope, place)
	if scope != model.ScopeZone {
		key.Place = 0
	}
	_, taken := d.tables.Sets[id]
	_, viewed := d.tables.Views[key.ViewKey]
	if root.ID == 0 || root.Root != root.ID || taken || viewed {
		return
	}
	p := part(id, root.ID, 0, scope, place)
	p.Service = root.Service
	if scope == model.ScopeZone {
		p.Flags = root.Flags & model.External
	}
	d.put(p, key)
	for i := range model.BackendID(2) {
		b := firstBackend + i
		if firstBackend > 0 {
			row := backend(b, root.ID, d.draw(fmt.Sprintf("host of backend %d", b), 4))
			row.Place = model.PlaceOf("node-a")
			row.Twin = model.BackendID(d.draw(fmt.Sprintf("twin of backend %d", b), 5)) // there or not
			d.put(row)
		} else {
			b = model.BackendID(1 + d.draw(fmt.Sprintf("member %d of part %d", i, id), 4))
		}
		if row, held := d.tables.Backends[b]; held && row.Set == root.ID {
			d.put(in(id, b))
		}
	}
}

// anyNode draws a node's layer to a cluster's.
func anyNode(t *rapid.T, name string, cluster *model.Tables) *model.Tables {
	d := &drawer{t, name, model.NewTables(), false}
	d.put(here)
	d.part(21, cluster.Sets, model.ScopeLocal, "node-a", 21)
	d.part(22, cluster.Sets, model.ScopeNode, "node-a", 23)
	d.part(23, cluster.Sets, model.ScopeLocal, "node-a", 25)
	return d.tables
}

// Promise P2: whatever the rows before and after, no reader sees what is neither.
func TestAnyChangeIsUnseenAndComplete(t *testing.T) {
	for name, plain := range map[string]bool{"one set a Service": true, "parts, hints, policies and ranges": false} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { anyChanges(rt, plain) })
		})
	}
}

func anyChanges(rt *rapid.T, plain bool) {
	draw := func(name string) *model.Tables {
		rows := anyRows(rt, name, plain)
		rows.Selves[here.Key()] = here
		return rows
	}
	before := draw("before")
	memory, s := filled(rt, before)
	w := plantest.NewWitness(memory, before)
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
	for i := range 3 {
		after := draw(fmt.Sprintf("after %d", i))
		w.Expect(after)
		p := mustApply(rt, s, towards(s, model.LayerCluster, after))
		failAt := rapid.IntRange(0, 12).Draw(rt, "fail at")
		if err := carryOut(&maps.Faulty{Maps: w, FailAt: failAt}, p, random); err != nil {
			if !errors.Is(err, maps.ErrInjected) {
				rt.Fatal(err)
			}
			s = load(rt, memory)
			if err := carryOut(w, mustApply(rt, s, towards(s, model.LayerCluster, after)), random); err != nil {
				rt.Fatal(err)
			}
		}
		whole(rt, w, !plain)
		holds(rt, memory, s, model.LayerCluster, after)
	}
}

// whole checks that no reader's path ended at nothing, or at another Service's row. Where several aspects of a
// Service change at once (its hints, policies, ranges and backends) a reader may see some before and some after: that
// is told apart from a broken path.
func whole(t tester, w *plantest.Witness, mixed bool) {
	t.Helper()
	for problem := range w.Problems {
		if !mixed || !plantest.Stale(problem) {
			t.Error(problem)
		}
	}
}

// TestLayersComeInAnyOrder brings the cluster's layer and the node's, which names the cluster's roots, one after the
// other, with a failed write now and then.
func TestLayersComeInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		memory, s := filled(t, rows())
		w := plantest.NewWitness(memory)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		for i := range 4 {
			cluster := anyRows(rt, fmt.Sprintf("cluster %d", i), false)
			node := anyNode(rt, fmt.Sprintf("node %d", i), cluster)
			order := []model.LayerKind{model.LayerCluster, model.LayerNode}
			if rapid.Bool().Draw(rt, "the node's first") {
				order = []model.LayerKind{model.LayerNode, model.LayerCluster, model.LayerNode}
			}
			for _, kind := range order {
				want := map[model.LayerKind]*model.Tables{model.LayerCluster: cluster, model.LayerNode: node}[kind]
				p, err := s.Apply(plan.Capacities{}, towards(s, kind, want))
				if _, refused := errors.AsType[*plan.Refusal](err); refused && kind == model.LayerNode {
					continue // its roots mean another Service as yet
				}
				if err != nil {
					rt.Fatal(err)
				}
				// What was evicted is in no rows.
				clusterNow, nodeNow := s.Tables(model.LayerCluster).Clone(), s.Tables(model.LayerNode).Clone()
				w.Expect(clusterNow, nodeNow)
				failAt := rapid.IntRange(0, 12).Draw(rt, "fail at")
				if err := carryOut(&maps.Faulty{Maps: w, FailAt: failAt}, p, random); err != nil {
					if !errors.Is(err, maps.ErrInjected) {
						rt.Fatal(err)
					}
					s = load(rt, memory)
					p := mustApply(rt, s, towards(s, model.LayerCluster, clusterNow), towards(s, model.LayerNode, nodeNow))
					if err := carryOut(w, p, random); err != nil {
						rt.Fatal(err)
					}
				}
				whole(rt, w, true)
			}
			holds(rt, memory, s, model.LayerCluster, cluster)
			holds(rt, memory, s, model.LayerNode, node)
		}
	})
}
