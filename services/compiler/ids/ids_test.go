// SPDX-License-Identifier: Apache-2.0

package ids

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func setKey(n int) model.SetKey {
	return model.SetKey{
		Service: model.ServicePort{Namespace: "shop", Name: fmt.Sprint("s", n), Port: 80, Protocol: model.TCP},
		Family:  model.IPv4, Scope: model.ScopeAll,
	}
}

func setRow(n int, id model.SetID) model.BackendSet {
	return model.BackendSet{ID: id, SetKey: setKey(n)}
}

func TestLowestFreeIDIsGivenFirst(t *testing.T) {
	a := New(DefaultQuarantine)
	for n, want := range []model.SetID{1, 2, 3} {
		if got := a.Set(setKey(n)); got != want {
			t.Errorf("Set(key %d) = %d, want %d", n, got, want)
		}
	}
	if again := a.Set(setKey(1)); again != 2 {
		t.Errorf("asked again, key 1 has id %d, want 2", again)
	}
}

func TestFreedIDRestsUntilItsQuarantineIsOver(t *testing.T) {
	a := New(time.Minute)
	tables := model.NewTables()
	tables.Sets[1], tables.Sets[2] = setRow(0, a.Set(setKey(0))), setRow(1, a.Set(setKey(1)))
	a.Fold(tables, &model.Change{Remove: model.Keys{Sets: []model.SetID{1}}}, start)

	a.Advance(start.Add(time.Minute - 1))
	if got := a.Set(setKey(2)); got != 3 {
		t.Errorf("during the quarantine of 1 a new key got %d, want 3", got)
	}
	a.Advance(start.Add(time.Minute))
	if got := a.Set(setKey(3)); got != 1 {
		t.Errorf("after the quarantine of 1 a new key got %d, want 1", got)
	}
}

func TestIDsThatRestAreGivenLaterUnlessTheyMeanSomething(t *testing.T) {
	a := New(time.Minute)
	a.Set(setKey(0))
	a.Restore([]Freed[model.SetID]{{ID: 2, At: start}}, nil)
	now := start.Add(30 * time.Second)
	a.Rest(map[model.SetID]bool{1: true, 2: true, 4: true}, nil, now)
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	a.Advance(start.Add(time.Minute))
	got := []model.SetID{a.Set(setKey(0)), a.Set(setKey(1)), a.Set(setKey(2))}
	a.Advance(now.Add(time.Minute))
	got = append(got, a.Set(setKey(3)), a.Set(setKey(4)))
	if diff := cmp.Diff([]model.SetID{1, 3, 5, 2, 4}, got); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func TestQuarantineSurvivesACheckpoint(t *testing.T) {
	a := New(time.Minute)
	tables := model.NewTables()
	tables.Sets[1], tables.Sets[2] = setRow(0, a.Set(setKey(0))), setRow(1, a.Set(setKey(1)))
	removal := &model.Change{Remove: model.Keys{Sets: []model.SetID{1}}}
	a.Fold(tables, removal, start)
	tables.Apply(removal, model.Digest{})

	b := New(time.Minute)
	b.Fold(model.NewTables(), &model.Change{Put: tables.Rows()}, start)
	b.Restore(a.Quarantined())
	if got := b.Set(setKey(2)); got != 3 {
		t.Errorf("after the checkpoint a new key got %d, want 3: 1 is in quarantine", got)
	}
	if err := b.Check(); err != nil {
		t.Error(err)
	}
}

func TestManyIDsFreedAtOnceStayInOrder(t *testing.T) {
	a, tables := New(time.Minute), model.NewTables()
	var removal model.Change
	for n := range 5000 {
		id := a.Set(setKey(n))
		tables.Sets[id] = setRow(n, id)
		removal.Remove.Sets = append(removal.Remove.Sets, id)
	}
	slices.Reverse(removal.Remove.Sets)
	a.Fold(tables, &removal, start)
	sets, _ := a.Quarantined()
	if len(sets) != 5000 || sets[0].ID != 1 || sets[4999].ID != 5000 {
		t.Errorf("quarantine holds %d ids, from %v to %v; want 5000, from 1 to 5000", len(sets), sets[0], sets[len(sets)-1])
	}
}

// TestFoldedRowsGiveTheSameIDs plays random commits on a leader, and folds the leader's log on a standby.
func TestFoldedRowsGiveTheSameIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leader, standby := New(time.Minute), New(time.Minute)
		rows := model.NewTables()
		now := start
		for range rapid.IntRange(1, 30).Draw(t, "commits") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
			leader.Advance(now)
			change := randomChange(t, leader, rows)
			leader.Fold(rows, change, now)
			standby.Advance(now)
			standby.Fold(rows, change, now)
			rows.Apply(change, model.Digest{})
			for _, a := range []*Allocator{leader, standby} {
				if err := a.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		probe := model.BackendKey{Set: 1, Addr: netip.MustParseAddr("10.9.9.9"), Port: 1}
		if l, s := leader.Set(setKey(99)), standby.Set(setKey(99)); l != s {
			t.Errorf("the next set is %d for the leader, %d for the standby", l, s)
		}
		if l, s := leader.Backend(probe), standby.Backend(probe); l != s {
			t.Errorf("the next backend is %d for the leader, %d for the standby", l, s)
		}
	})
}

func randomChange(t *rapid.T, a *Allocator, rows *model.Tables) *model.Change {
	var change model.Change
	for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 20), 0, 6, rapid.ID[int]).Draw(t, "keys") {
		if id := a.LookupSet(setKey(n)); id != 0 {
			change.Remove.Sets = append(change.Remove.Sets, id)
		} else {
			change.Put.Sets = append(change.Put.Sets, setRow(n, a.Set(setKey(n))))
		}
		key := model.BackendKey{Set: 7, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Port: 80}
		if id := a.LookupBackend(key); id != 0 {
			change.Remove.Backends = append(change.Remove.Backends, id)
		} else {
			change.Put.Backends = append(change.Put.Backends, model.Backend{ID: a.Backend(key), BackendKey: key, State: 1})
		}
	}
	return &change
}

func TestBitmapFindsTheLowestMissingNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bitmap
		slow := map[uint32]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			first := rapid.Uint32Range(0, 9000).Draw(t, "first")
			length := rapid.Uint32Range(1, 5000).Draw(t, "length")
			adding := rapid.Bool().Draw(t, "adding")
			for n := first; n < first+length; n++ {
				if adding {
					b.set(n)
					slow[n] = true
				} else {
					b.clear(n)
					delete(slow, n)
				}
			}
			want := uint32(0)
			for slow[want] {
				want++
			}
			if got := b.lowestClear(); got != want {
				t.Fatalf("lowest missing number is %d, want %d", got, want)
			}
			if diff := cmp.Diff(len(slow), b.count()); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func BenchmarkGiveAndFreeAmongAMillion(b *testing.B) {
	a, tables := New(0), model.NewTables()
	key := func(n int) model.BackendKey {
		return model.BackendKey{Set: 1, Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Port: 80}
	}
	for n := range 1_000_000 {
		a.Backend(key(n))
	}
	removal := &model.Change{Remove: model.Keys{Backends: []model.BackendID{0}}}
	for n := 0; b.Loop(); n = (n + 1) % 1_000_000 {
		id := a.Backend(key(n))
		tables.Backends[id] = model.Backend{ID: id, BackendKey: key(n)}
		removal.Remove.Backends[0] = id
		a.Fold(tables, removal, start)
		a.Advance(start)
		a.Backend(key(n))
	}
}
