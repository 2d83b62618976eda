// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// external has clients from outside get to all roots and zones' parts of rows.
func external(of *model.Tables) *model.Tables {
	rows := of.Clone()
	for id, s := range rows.Sets {
		if s.Scope == model.ScopeAll || s.Scope == model.ScopeZone {
			s.Flags |= model.External
			rows.Sets[id] = s
		}
	}
	for key, f := range rows.Frontends {
		if f.Kind == model.FrontendClusterIP {
			f.Kind = model.FrontendLoadBalancer
			rows.Frontends[key] = f
		}
	}
	return rows
}

// externalStories are the stories of Services that clients from outside get to, and some of their own.
func externalStories() (all []story) {
	for _, s := range stories {
		all = append(all, story{s.name + ", from outside", external(s.before), external(s.after)})
	}
	two := rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2))
	three := rows(set(1, 1), frontend(1, 1), backend(2, 1, 2), backend(3, 1, 3), backend(4, 1, 4), in(1, 2), in(1, 3), in(1, 4))
	weighted := edited(external(two), func(t *model.Tables) {
		b := t.Backends[1]
		b.Weight = 50
		t.Backends[1] = b
	})
	exchanged := func(a, b model.SetID) *model.Tables {
		return external(rows(set(a, 1), frontend(1, a), backend(1, a, 1), backend(2, a, 2), in(a, 1), in(a, 2),
			set(b, 2), frontend(2, b), backend(3, b, 3), backend(4, b, 4), in(b, 3), in(b, 4)))
	}
	return append(all,
		story{"a Service opens to the outside", two, external(two)},
		story{"a Service closes to the outside", external(two), two},
		story{"most backends are replaced", external(two), external(three)},
		story{"a weight changes", external(two), weighted},
		story{"two Services with tables exchange ids", exchanged(1, 2), exchanged(2, 1)},
		story{"the backends of two Services exchange ids", exchanged(1, 2), external(rows(
			set(1, 1), frontend(1, 1), backend(3, 1, 1), backend(4, 1, 2), in(1, 3), in(1, 4),
			set(2, 2), frontend(2, 2), backend(1, 2, 3), backend(2, 2, 4), in(2, 1), in(2, 2)))},
	)
}

// tabled returns the sets that the maps have a Maglev table of. It fails the test if one holds anything but what the members
// of the set come to.
func tabled(t tester, m *maps.Memory, s *plan.State) (sets []model.SetID) {
	t.Helper()
	numbers := map[model.SetID]uint32{}
	must(maps.Dump(m, abi.MaglevIndex, func(key, value []byte) error {
		numbers[model.SetID(binary.NativeEndian.Uint32(key))] = binary.NativeEndian.Uint32(value)
		return nil
	}))
	taken := map[uint32]bool{}
	for id, number := range numbers {
		sets = append(sets, id)
		if taken[number] {
			t.Errorf("table %d is of two sets", number)
		}
		taken[number] = true
		var members []maglev.Member
		for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
			for member := range s.Tables(kind).Members {
				if b := s.Tables(kind).Backends[member.Backend]; member.Set == id {
					members = append(members, maglev.Member{ID: uint32(b.ID), At: netip.AddrPortFrom(b.Addr, b.Port), Weight: b.Share()})
				}
			}
		}
		slots := m.Slots(number)
		if diff := cmp.Diff(maglev.Fill(uint32(len(slots)), members), slots); diff != "" {
			t.Errorf("table %d of set %d is not that of its members (-want +got):\n%s", number, id, diff)
		}
	}
	slices.Sort(sets)
	return sets
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Row 17: a Service that clients from outside get to has a table of its backends whatever has changed before: theirs, their weights, what
// ids mean, and the node's zone.
func TestTablesFollowMembers(t *testing.T) {
	for _, story := range externalStories() {
		t.Run(story.name, func(t *testing.T) {
			memory, s := filled(t, story.before)
			tabled(t, memory, s)
			if err := carryOut(memory, mustApply(t, s, towards(s, model.LayerCluster, story.after)), nil); err != nil {
				t.Fatal(err)
			}
			var want []model.SetID
			place := model.PlaceOf(story.after.Selves[model.SelfKey{}].Zone)
			for id, row := range story.after.Sets {
				if row.Flags&model.External != 0 && s.Size(id) > 1 && (row.Scope != model.ScopeZone || row.Place == place) {
					want = append(want, id)
				}
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, tabled(t, memory, s)); diff != "" {
				t.Errorf("sets with a table (-want +got):\n%s", diff)
			}
		})
	}
}

// many returns n Services of two backends each, that clients from outside get to.
func many(n int) *model.Tables {
	all := model.NewTables()
	for i := range n {
		id, b := model.SetID(i+1), model.BackendID(2*i+1)
		all.Apply(&model.Change{Put: rows(set(id, i), frontend(i, id), backend(b, id, int(b)), backend(b+1, id, int(b)+1), in(id, b), in(id, b+1)).Rows()}, model.Digest{})
	}
	return external(all)
}

// Row 17: where there are fewer tables than Services the others are named, and get one as soon as one is free.
func TestServicesWaitForATable(t *testing.T) {
	var capacities plan.Capacities
	capacities[abi.MaglevIndex] = 3
	apply := func(m maps.Maps, s *plan.State, rows *model.Tables) {
		t.Helper()
		p, err := s.Apply(capacities, towards(s, model.LayerCluster, rows))
		if err != nil {
			t.Fatal(err)
		}
		if err := carryOut(m, p, nil); err != nil {
			t.Fatal(err)
		}
	}
	var small [abi.MapCount]uint32
	small[abi.MaglevIndex] = 3
	memory, s := maps.NewMemory(small), plan.Empty()
	five := many(5)
	apply(memory, s, five)
	if left, large := s.Tableless(); left != (plan.Lacking{Sets: 2, Such: 4}) || large.Sets != 0 {
		t.Errorf("without a table: %v and %v, want 4 and another", left, large)
	}
	if got := tabled(t, memory, s); !slices.Equal(got, []model.SetID{1, 2, 3}) {
		t.Errorf("with a table: %v", got)
	}
	fewer := edited(five, func(t *model.Tables) { delete(t.Members, model.Member{Set: 2, Backend: 3}); delete(t.Backends, 3) })
	apply(memory, s, fewer)
	if got := tabled(t, memory, s); !slices.Equal(got, []model.SetID{1, 3, 4}) {
		t.Errorf("with a table, after set 2 lost its second backend: %v", got)
	}
	// What is refused changes nothing.
	capacities[abi.Backends] = 9
	if _, err := s.Apply(capacities, towards(s, model.LayerCluster, many(6))); err == nil {
		t.Fatal("more backends than there is room for")
	}
	if left, _ := s.Tableless(); left != (plan.Lacking{Sets: 1, Such: 5}) {
		t.Errorf("without a table after a refused change: %v, want 5", left)
	}
	drifted(t, memory, s)
	// Another process with fewer tables, and then with more.
	capacities = plan.Capacities{}
	for _, tables := range []int{1, 5} {
		capacities[abi.MaglevIndex] = tables
		s = load(t, memory)
		if s.Sure() {
			t.Error("what is in the tables is known")
		}
		apply(memory, s, fewer)
		left, _ := s.Tableless()
		if got := tabled(t, memory, s); len(got) != min(tables, 4) || len(got)+left.Sets != 4 {
			t.Errorf("of %d tables: %v, and %v have none", tables, got, left)
		}
		small[abi.MaglevIndex] = 5
		memory = grown(t, memory, small)
	}
}

// grown returns memory with other capacities.
func grown(t *testing.T, from *maps.Memory, capacities [abi.MapCount]uint32) *maps.Memory {
	t.Helper()
	to := maps.NewMemory(capacities)
	for m := range abi.MapCount {
		must(maps.Dump(from, m, func(key, value []byte) error {
			return to.Write([]maps.Write{{Map: m, Key: slices.Clone(key), Value: slices.Clone(value)}})
		}))
	}
	return to
}

func TestASetLargerThanATableHasNone(t *testing.T) {
	s := plan.Empty()
	s.SetTableSlots(1021)
	all := crowd(1022, 1)
	memory := maps.NewMemory([abi.MapCount]uint32{})
	for _, c := range []struct {
		rows *model.Tables
		want plan.Lacking
	}{{external(all), plan.Lacking{Sets: 1, Such: 1}}, {edited(external(all), func(t *model.Tables) { delete(t.Members, model.Member{Set: 1, Backend: 1}) }), plan.Lacking{}}} {
		if err := carryOut(memory, mustApply(t, s, towards(s, model.LayerCluster, c.rows)), nil); err != nil {
			t.Fatal(err)
		}
		if left, large := s.Tableless(); left.Sets != 0 || large != c.want {
			t.Errorf("without a table: %v and %v, want %v", left, large, c.want)
		}
		if got := len(tabled(t, memory, s)); got != 1-c.want.Sets {
			t.Errorf("%d tables", got)
		}
	}
}

// Row 17: a change writes the slots that differ and no others; a restart with nothing new writes none, and one after someone has
// changed slots those.
func TestOnlySlotsThatDifferAreWritten(t *testing.T) {
	before := external(crowd(10, 1))
	memory, s := filled(t, before)
	slots := memory.Slots(0)
	if err := carryOut(memory, mustApply(t, s, plan.LayerChange{Kind: model.LayerCluster, Change: removal(3)}), nil); err != nil {
		t.Fatal(err)
	}
	differ := 0
	for i, id := range memory.Slots(0) {
		if id != slots[i] {
			differ++
		}
	}
	if differ == 0 || differ > len(slots)/5 {
		t.Errorf("%d of %d slots differ after one of ten backends went", differ, len(slots))
	}
	restart := func() uint64 {
		writes := memory.Writes()
		if err := carryOut(memory, mustApply(t, load(t, memory)), nil); err != nil {
			t.Fatal(err)
		}
		return memory.Writes() - writes
	}
	if n := restart(); n != 0 {
		t.Errorf("a restart writes %d", n)
	}
	must(memory.Fill([]maps.Table{{Number: 0, Members: []maglev.Member{{ID: 99, At: netip.MustParseAddrPort("192.0.2.1:1")}}}}))
	if n := restart(); n != uint64(len(slots)) {
		t.Errorf("a restart after all of %d slots changed writes %d", len(slots), n)
	}
}

func TestTwoSetsOfOneTableAreTakenApart(t *testing.T) {
	memory, s := filled(t, many(2))
	must(memory.Write([]maps.Write{
		{Map: abi.MaglevIndex, Key: abi.Encode(uint32(2)), Value: abi.Encode(uint32(0))},
		{Map: abi.MaglevIndex, Key: abi.Encode(uint32(77)), Value: abi.Encode(uint32(5))},
	}))
	if text := s.Drift(abi.MaglevIndex, abi.Encode(uint32(77)), abi.Encode(uint32(5))); !strings.Contains(text, "Maglev table 5") {
		t.Errorf("drift: %q", text)
	}
	s = load(t, memory)
	if err := carryOut(memory, mustApply(t, s), rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(tabled(t, memory, s)); got != "[1 2]" {
		t.Errorf("sets with a table: %s", got)
	}
	holds(t, memory, s, model.LayerCluster, many(2))
}

// besides adds n Services of two backends each, that clients from outside get to.
func besides(all *model.Tables, n int) *model.Tables {
	for i := range n {
		id, b := model.SetID(i+2), model.BackendID(100_000+2*i)
		more := external(rows(set(id, i+2), frontend(i+1, id), backend(b, id, 2*i), backend(b+1, id, 2*i+1), in(id, b), in(id, b+1)))
		all.Apply(&model.Change{Put: more.Rows()}, model.Digest{})
	}
	return all
}

// Services that wait for a table cost a change of another Service nothing: 9,000 of them make it allocate no more.
func TestServicesThatWaitForATableCostNothing(t *testing.T) {
	var capacities plan.Capacities
	capacities[abi.MaglevIndex] = 3
	allocated := func(services int) uint64 {
		s := plan.Empty()
		apply := func(change plan.LayerChange) {
			if _, err := s.Apply(capacities, change); err != nil {
				t.Fatal(err)
			}
		}
		apply(towards(s, model.LayerCluster, besides(external(crowd(10, 1)), services)))
		if left, _ := s.Tableless(); left.Sets != services-2 {
			t.Fatalf("%d wait", left.Sets)
		}
		least := uint64(math.MaxUint64)
		for range 10 { // other goroutines may allocate as well
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			apply(plan.LayerChange{Kind: model.LayerCluster, Change: removal(3)})
			apply(plan.LayerChange{Kind: model.LayerCluster, Change: addition(3, 3)})
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		return least
	}
	few, lots := allocated(10), allocated(9000)
	if t.Logf("%d bytes, %d bytes", few, lots); lots > few+8192 {
		t.Errorf("a change allocates %d bytes with 9,000 Services, and %d with 10", lots, few)
	}
}

// BenchmarkChangeOf1000Backends is what a backend that goes and one that comes cost, two changes, where clients from outside get to the
// set: slots included. All Services but 1,023 wait for a table.
func BenchmarkChangeOf1000Backends(b *testing.B) {
	for _, services := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			memory, s := maps.NewMemory([abi.MapCount]uint32{}), plan.Empty()
			memory.SetTableSlots(maglev.DefaultSize)
			var capacities plan.Capacities
			capacities[abi.MaglevIndex] = int(maps.DefaultCapacities[abi.MaglevIndex])
			apply := func(change plan.LayerChange) {
				p, err := s.Apply(capacities, change)
				must(err)
				must(carryOut(memory, p, nil))
			}
			apply(towards(s, model.LayerCluster, besides(external(crowd(1000, 1)), services)))
			writes := memory.Writes()
			for b.Loop() {
				apply(plan.LayerChange{Kind: model.LayerCluster, Change: removal(3)})
				apply(plan.LayerChange{Kind: model.LayerCluster, Change: addition(3, 3)})
			}
			b.ReportMetric(float64(memory.Writes()-writes)/float64(b.N)/2, "writes/change")
		})
	}
}
