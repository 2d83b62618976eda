// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// TestIncrementalEqualsFull applies random events in random groups, commits each group's difference, and
// compares rows, digests and what is set aside with a compilation of everything.
//
// Promise P1: rows that were compiled event by event are those of compiling everything, whatever the events and their
// groups.
// Fault 14: what differs would be found here first.
func TestIncrementalEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db, alloc, now, settings := state.New(), ids.New(time.Minute), start, randomSettings(t)
		engine := policy.New(settings.Policy)
		layers, digests := map[model.Layer]*model.Tables{}, map[model.Layer]model.Digest{}
		aside, refused := map[Unit][]state.SetAside{}, []state.SetAside(nil)
		take := func(d Difference, engineRan bool) {
			for layer, change := range changes(d) {
				checkChange(t, change)
				if layers[layer] == nil {
					layers[layer] = model.NewTables()
				}
				alloc.Fold(layers[layer], change, now)
				digests[layer] = layers[layer].Apply(change, digests[layer])
			}
			maps.Copy(aside, d.SetAside)
			if engineRan {
				refused = d.Refused
			}
		}
		take(Compare(db.Snapshot(), alloc, engine, settings, layers), true) // as a compiler begins
		for range rapid.IntRange(1, 12).Draw(t, "groups") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
			alloc.Advance(now)
			before, work := db.Snapshot(), Work{}
			for range rapid.IntRange(1, 8).Draw(t, "events") {
				changes, err := db.Apply(randomFact(t))
				if err != nil {
					t.Fatal(err)
				}
				more := workOf(changes)
				work.Units = append(work.Units, more.Units...)
				work.add(&more.Policy)
			}
			take(Update(before, db.Snapshot(), alloc, engine, settings, work), !work.Policy.Empty())

			again := policy.New(settings.Policy)
			for layer, change := range changes(Compare(db.Snapshot(), alloc, again, settings, layers)) {
				t.Fatalf("compared with everything, layer %s should change by %+v", layer, change)
			}
			for svc := range db.Snapshot().Services() {
				of := func(l model.Layer) *model.Tables { return tables(layers, l) }
				if err := Check(db.Snapshot(), alloc, settings, of, svc.Name); err != nil {
					t.Fatalf("Service %s: %v", svc.Name, err)
				}
			}
			full := FullFrom(db.Snapshot(), alloc, settings, layers)
			compareLayers(t, layers, digests, full)
			aside[Unit{}] = refused
			compareAside(t, db.Snapshot(), aside, full)
			if err := alloc.Check(); err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 3).Draw(t, "takes over") == 0 {
				engine = again // a compiler that takes over goes on from rows
			}
		}
	})
}

// changes iterates over the changes of all stages, in order.
func changes(d Difference) iter.Seq2[model.Layer, *model.Change] {
	return func(yield func(model.Layer, *model.Change) bool) {
		for _, stage := range d.Stages {
			for layer, change := range stage {
				if !yield(layer, change) {
					return
				}
			}
		}
	}
}

// TestCompareEqualsFull compares rows of one random state, some of them spoilt, with another random state.
func TestCompareEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db, alloc, settings := state.New(), ids.New(0), randomSettings(t)
		some := func() {
			for range rapid.IntRange(0, 20).Draw(t, "events") {
				if _, err := db.Apply(randomFact(t)); err != nil {
					t.Fatal(err)
				}
			}
		}
		some()
		rows := Full(db.Snapshot(), alloc, settings).Layers
		some()
		cluster := rows[model.ClusterLayer]
		for id, b := range cluster.Backends {
			switch rapid.IntRange(0, 9).Draw(t, "spoil") {
			case 0:
				b.State = 3 - b.State
				cluster.Backends[id] = b
			case 1:
				delete(cluster.Backends, id)
			case 2:
				m := model.Member{Set: b.Set + 1, Backend: id}
				cluster.Members[m] = m
			case 3:
				b.Set++
				cluster.Backends[id] = b
			case 4:
				m := model.Member{Set: b.Set, Backend: id}
				cluster.Members[m] = m
			}
		}
		for _, tables := range rows {
			spoil(tables, rapid.Uint32().Draw(t, "spoil"))
		}
		d := Compare(db.Snapshot(), alloc, policy.New(settings.Policy), settings, rows)
		for layer, change := range changes(d) {
			checkChange(t, change)
			if rows[layer] == nil {
				rows[layer] = model.NewTables()
			}
			rows[layer].Apply(change, model.Digest{})
		}
		digests := map[model.Layer]model.Digest{}
		for layer := range rows {
			digests[layer] = rows[layer].Digest()
		}
		compareLayers(t, rows, digests, FullFrom(db.Snapshot(), alloc, settings, rows))
	})
}

// TestEveryOrderGivesTheSameRows applies the last facts of random objects in another order.
//
// Fault 7: objects in any order come to the same rows.
func TestEveryOrderGivesTheSameRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last, settings := map[string]*schemas.Fact{}, randomSettings(t)
		for range rapid.IntRange(1, 20).Draw(t, "events") {
			fact := randomFact(t)
			last[fact.GetObject().GetKind()+fact.GetObject().GetName()] = fact
		}
		facts := slices.Collect(maps.Values(last))
		slices.SortFunc(facts, func(a, b *schemas.Fact) int { return cmpString(a.String(), b.String()) })
		var want []string
		for order := range 4 {
			db, alloc := state.New(), ids.New(0)
			for _, fact := range rapid.Permutation(facts).Draw(t, "order") {
				if _, err := db.Apply(fact); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			out := Full(db.Snapshot(), alloc, settings)
			for _, layer := range slices.SortedFunc(maps.Keys(out.Layers), func(a, b model.Layer) int { return cmpString(a.String(), b.String()) }) {
				got = append(got, layer.String(), out.Layers[layer].Digest().String())
			}
			if order == 0 {
				want = got
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("another order gives other rows (-first +this):\n%s", diff)
			}
		}
	})
}

// spoil takes rows away, changes some and adds others, a bit for each.
func spoil(t *model.Tables, how uint32) {
	do := func(bit int) bool { return how&(1<<bit) != 0 }
	for key := range t.Views {
		if do(0) {
			delete(t.Views, key)
		}
	}
	for id, s := range t.Sets {
		if do(1) {
			s.Flags ^= model.Fallback
		}
		if do(2) {
			s.Affinity++
		}
		t.Sets[id] = s
	}
	for key, f := range t.Frontends {
		if do(3) {
			f.Flags ^= model.ExternalLocal
			t.Frontends[key] = f
		}
	}
	if prefix := netip.MustParsePrefix("10.9.0.0/16"); do(4) {
		t.Networks[prefix] = model.Network{Prefix: prefix, Kind: model.NetworkPods}
		t.SourceRanges[model.SourceRange{Set: 1, Prefix: prefix}] = model.SourceRange{Set: 1, Prefix: prefix}
	}
	if do(5) {
		t.HealthChecks[9] = model.HealthCheck{Port: 9, Namespace: "shop", Name: "a"}
		t.Selves[model.SelfKey{}] = model.Self{Zone: "elsewhere"}
		t.Nodes[9] = model.Node{ID: 9, V4: netip.MustParseAddr("192.0.2.9")}
	}
	if key := (model.ViewKey{Set: 99, Scope: model.ScopeLocal}); do(6) {
		t.Views[key] = model.View{ViewKey: key, Target: 98}
	}
	if do(7) {
		clear(t.Members)
		clear(t.SourceRanges)
	}
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func compareLayers(t *rapid.T, layers map[model.Layer]*model.Tables, digests map[model.Layer]model.Digest, full Output) {
	all := map[model.Layer]bool{}
	for layer := range layers {
		all[layer] = true
	}
	for layer := range full.Layers {
		all[layer] = true
	}
	for layer := range all {
		want, got := full.Layers[layer], layers[layer]
		if want == nil {
			want = model.NewTables()
		}
		if got == nil {
			got = model.NewTables()
		}
		if diff := cmp.Diff(text(want, full.Layers[model.ClusterLayer]), text(got, full.Layers[model.ClusterLayer])); diff != "" {
			t.Fatalf("layer %s, incremental differs from full (-full +incremental):\n%s", layer, diff)
		}
		if diff := model.Diff(got, want); !diff.Empty() || want.Digest() != digests[layer] {
			t.Fatalf("layer %s: the meaning is the same, ids or digest differ: %+v", layer, diff)
		}
	}
}

func compareAside(t *rapid.T, snap *state.Snapshot, units map[Unit][]state.SetAside, full Output) {
	line := func(s state.SetAside) string { return s.Object.String() + s.Reason }
	var want, got []string
	for _, s := range full.SetAside {
		want = append(want, line(s))
	}
	for row := range snap.SetAside() {
		got = append(got, line(*row))
	}
	for _, list := range units {
		for _, s := range list {
			got = append(got, line(s))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("set aside (-full +incremental):\n%s", diff)
	}
}

// checkChange holds a change to what model.Change promises.
func checkChange(t fataler, c *model.Change) {
	seen := map[any]bool{}
	once := func(key any) {
		if seen[key] {
			t.Fatalf("key %v stands twice in a change", key)
		}
		seen[key] = true
	}
	onceRows(once, c.Put.Frontends, c.Remove.Frontends)
	onceRows(once, c.Put.Sets, c.Remove.Sets)
	onceRows(once, c.Put.Backends, c.Remove.Backends)
	onceRows(once, c.Put.Members, c.Remove.Members)
	onceRows(once, c.Put.Endpoints, c.Remove.Endpoints)
	onceRows(once, c.Put.Views, c.Remove.Views)
	onceRows(once, c.Put.SourceRanges, c.Remove.SourceRanges)
	onceRows(once, c.Put.Networks, c.Remove.Networks)
	onceRows(once, c.Put.HealthChecks, c.Remove.HealthChecks)
	onceRows(once, c.Put.Nodes, c.Remove.Nodes)
	onceRows(once, c.Put.Selves, c.Remove.Selves)
	onceRows(once, c.Put.RuleSets, c.Remove.RuleSets)
	onceRows(once, c.Put.Rules, c.Remove.Rules)
	onceRows(once, c.Put.PortVerdicts, c.Remove.PortVerdicts)
	onceRows(once, c.Put.Verdicts, c.Remove.Verdicts)
	onceRows(once, c.Put.Blocks, c.Remove.Blocks)
	onceRows(once, c.Put.Peers, c.Remove.Peers)
	if slices.Contains(c.Remove.Sets, 0) || slices.Contains(c.Remove.Backends, 0) {
		t.Fatal("a row without an id is removed")
	}
}

func onceRows[K comparable, R keyed[K]](once func(any), put []R, remove []K) {
	var table R // two tables may have keys of one type
	for _, row := range put {
		once([2]any{table, row.Key()})
	}
	for _, key := range remove {
		once([2]any{table, key})
	}
}

// fataler is what of testing.T and rapid.T is needed here.
type fataler interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}
