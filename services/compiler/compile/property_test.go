// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// The names and addresses are few, so that objects meet: claim the same address, share endpoints, come back.
func randomFact(t *rapid.T) *schemas.Fact {
	pick := func(what string, of ...string) string { return rapid.SampledFrom(of).Draw(t, what) }
	name := pick("name", "a", "b", "c")
	kind := pick("kind", "Service", "EndpointSlice", "EndpointSlice", "Pod")
	if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
		return gone(kind, name)
	}
	protocols := []model.Protocol{model.TCP, model.UDP}
	switch kind {
	case "Service":
		s := &schemas.Service{
			Type: pick("type", "ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"), ProxyName: pick("proxy", "", "", "", "other"),
			Created: timestamppb.New(start.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "age")) * time.Hour)),
		}
		for _, addr := range rapid.SliceOfN(rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "fd96::1", "fd96::2"}), 0, 3).Draw(t, "addresses") {
			s.ClusterIps = append(s.ClusterIps, ip(addr)) // three addresses are one too many: set aside
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "ports") {
			s.Ports = append(s.Ports, port(fmt.Sprint("p", i), rapid.SampledFrom(protocols).Draw(t, "protocol"),
				rapid.Uint32Range(80, 81).Draw(t, "port"))) // the same port twice: set aside
		}
		return serviceFact(name, s)
	case "EndpointSlice":
		family := rapid.SampledFrom([]model.Family{model.IPv4, model.IPv6}).Draw(t, "family")
		m := endpoints(family, nil)
		for range rapid.IntRange(0, 2).Draw(t, "targets") {
			m.Ports = append(m.Ports, target(pick("port name", "p0", "p1"), rapid.SampledFrom(protocols).Draw(t, "protocol"),
				rapid.Uint32Range(0, 2).Draw(t, "number")))
		}
		for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
			e := endpoint(fmt.Sprint("10.1.0.", rapid.IntRange(1, 4).Draw(t, "host")), rapid.SliceOfN(
				rapid.SampledFrom([]string{"ready", "serving", "terminating"}), 0, 2).Draw(t, "conditions")...)
			if family == model.IPv6 && rapid.IntRange(0, 20).Draw(t, "valid") > 0 {
				e.Address = ip(fmt.Sprint("fd00::", rapid.IntRange(1, 4).Draw(t, "host")))
			}
			m.Endpoints = append(m.Endpoints, e)
		}
		return sliceFact("slice-"+name, pick("service", "a", "b", "c", "missing", ""), m)
	}
	p := &schemas.Pod{
		Node:        pick("node", "n1", "n2", ""),
		HostNetwork: rapid.IntRange(0, 5).Draw(t, "host network") == 0, Finished: rapid.IntRange(0, 5).Draw(t, "finished") == 0,
	}
	for range rapid.IntRange(0, 2).Draw(t, "addresses") {
		p.Addresses = append(p.Addresses, ip(fmt.Sprint("10.1.0.", rapid.IntRange(1, 4).Draw(t, "address"))))
	}
	return podFact(name, p)
}

// TestIncrementalEqualsFull applies random events in random groups, commits each group's difference, and
// compares rows, digests and what is set aside with a compilation of everything.
func TestIncrementalEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db, alloc, now := state.New(), ids.New(time.Minute), start
		layers, digests := map[model.Layer]*model.Tables{}, map[model.Layer]model.Digest{}
		aside := map[Unit][]state.SetAside{}
		for range rapid.IntRange(1, 12).Draw(t, "groups") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
			alloc.Advance(now)
			before, units := db.Snapshot(), map[Unit]bool{}
			for range rapid.IntRange(1, 8).Draw(t, "events") {
				changes, err := db.Apply(randomFact(t))
				if err != nil {
					t.Fatal(err)
				}
				addUnits(units, changes)
			}
			d := Update(before, db.Snapshot(), alloc, slices.Collect(maps.Keys(units)))
			for layer, change := range d.Changes {
				checkChange(t, change)
				if layers[layer] == nil {
					layers[layer] = model.NewTables()
				}
				alloc.Fold(layers[layer], change, now)
				digests[layer] = layers[layer].Apply(change, digests[layer])
			}
			maps.Copy(aside, d.SetAside)

			if again := Compare(db.Snapshot(), alloc, layers); len(again.Changes) != 0 {
				t.Fatalf("compared with everything, the rows should change by %+v", again.Changes)
			}
			full := Full(db.Snapshot(), alloc)
			compareLayers(t, layers, digests, full)
			compareAside(t, db.Snapshot(), aside, full)
			if err := alloc.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestCompareEqualsFull compares rows of one random state, some of them spoilt, with another random state.
func TestCompareEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db, alloc := state.New(), ids.New(0)
		some := func() {
			for range rapid.IntRange(0, 20).Draw(t, "events") {
				if _, err := db.Apply(randomFact(t)); err != nil {
					t.Fatal(err)
				}
			}
		}
		some()
		rows := Full(db.Snapshot(), alloc).Layers
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
		d := Compare(db.Snapshot(), alloc, rows)
		for layer, change := range d.Changes {
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
		compareLayers(t, rows, digests, Full(db.Snapshot(), alloc))
	})
}

// TestEveryOrderGivesTheSameRows applies the last facts of random objects in another order.
func TestEveryOrderGivesTheSameRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := map[string]*schemas.Fact{}
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
			out := Full(db.Snapshot(), alloc)
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

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func addUnits(units map[Unit]bool, changes state.Changes) {
	for _, touch := range changes.Touched {
		for _, name := range touch.Services {
			units[ServiceUnit(name)] = true
		}
		for _, node := range touch.Nodes {
			units[NodeUnit(node)] = true
		}
	}
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
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			t.Fatalf("layer %s, incremental differs from full (-full +incremental):\n%s", layer, diff)
		}
		if !maps.Equal(want.Backends, got.Backends) || !maps.Equal(want.Sets, got.Sets) || want.Digest() != digests[layer] {
			t.Fatalf("layer %s: the meaning is the same, ids or digest differ", layer)
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
func checkChange(t *rapid.T, c *model.Change) {
	seen := map[any]bool{}
	once := func(key any) {
		if seen[key] {
			t.Fatalf("key %v stands twice in a change", key)
		}
		seen[key] = true
	}
	for _, r := range c.Put.Frontends {
		once(r.Key())
	}
	for _, r := range c.Put.Sets {
		once(r.Key())
	}
	for _, r := range c.Put.Backends {
		once(r.Key())
	}
	for _, r := range c.Put.Members {
		once(r.Key())
	}
	for _, r := range c.Put.Endpoints {
		once(r.Key())
	}
	for _, k := range c.Remove.Frontends {
		once(k)
	}
	for _, k := range c.Remove.Sets {
		once(k)
	}
	for _, k := range c.Remove.Backends {
		once(k)
	}
	for _, k := range c.Remove.Members {
		once(k)
	}
	for _, k := range c.Remove.Endpoints {
		once(k)
	}
	if slices.Contains(c.Remove.Sets, 0) || slices.Contains(c.Remove.Backends, 0) {
		t.Fatal("a row without an id is removed")
	}
}
