// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/schemas"
)

// TestSpoiltLogIsNoticed drops, repeats, swaps, cuts and changes records of a log: folding it must never panic,
// and what it takes for whole must be rows that belong together.
func TestSpoiltLogIsNoticed(t *testing.T) {
	good := shop(t, Options{MaxMessage: 9000, MaxBatch: 5}, 30, 20)
	for i := range 5 {
		good.facts(sliceFact(i, 0, 25, good.now), podFact(fmt.Sprint("p", i), "n1", fmt.Sprint("10.200.0.", i+2)))
		good.pass(time.Second)
	}
	rapid.Check(t, func(t *rapid.T) {
		log := slices.Clone(good.log)
		for range rapid.IntRange(1, 3).Draw(t, "spoils") {
			i := rapid.IntRange(0, len(log)-1).Draw(t, "record")
			switch r := &log[i]; rapid.IntRange(0, 4).Draw(t, "how") {
			case 0:
				log = slices.Delete(log, i, i+1)
			case 1:
				log = slices.Insert(log, i, log[i])
			case 2:
				j := rapid.IntRange(0, len(log)-1).Draw(t, "other")
				log[i], log[j] = log[j], log[i]
			case 3:
				r.Data = r.Data[:rapid.IntRange(0, len(r.Data)).Draw(t, "length")]
			case 4:
				if len(r.Data) == 0 {
					continue // cut to nothing before
				}
				r.Data = slices.Clone(r.Data)
				r.Data[rapid.IntRange(0, len(r.Data)-1).Draw(t, "byte")] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
			}
		}
		f := NewFold(0)
		for _, r := range log {
			_ = f.Add(r.Subject, r.Data)
		}
		if f.Whole() != nil {
			f.Lose()
		}
		for l, held := range f.layers {
			if held.rows.Digest() != held.at.Digest {
				t.Fatalf("layer %s counts as whole, but has other rows than its digest", l)
			}
		}
		if err := f.ids.Check(); err != nil {
			t.Fatalf("%v; the log counts as whole", err)
		}
	})
}

// TestRandomHistories lets random events, pauses, slow logs and restarts happen, and holds nodes and log to a
// compilation of everything.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Options{MaxMessage: 9000, MaxBatch: 20, MaxBatchBytes: 20_000, RecentBytes: 4000}
		w := newWorld(t, o)
		last, apps := map[string]*schemas.Fact{}, rapid.SampledFrom([]string{"a", "b", "c"})
		tell := func(f *schemas.Fact) {
			last[f.GetObject().GetKind()+f.GetObject().GetName()] = f
			w.facts(f)
		}
		w.ready()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch i := rapid.IntRange(0, 5).Draw(t, "service"); rapid.IntRange(0, 15).Draw(t, "step") {
			case 0:
				tell(serviceFact(i))
			case 1:
				tell(goneFact(serviceFact(i)))
			case 2, 3:
				tell(sliceFact(i, rapid.IntRange(0, 5).Draw(t, "first"), rapid.IntRange(0, 60).Draw(t, "endpoints"), w.now))
			case 4:
				tell(podFact(fmt.Sprint("p", i), fmt.Sprint("n", i%3), fmt.Sprint("10.200.0.", i+1)))
			case 5:
				w.pass(time.Duration(rapid.IntRange(1, 70_000).Draw(t, "milliseconds")) * time.Millisecond)
			case 6:
				w.slow = true
				w.pass(20 * time.Millisecond)
				w.settle()
			case 7:
				w.pass(time.Second)
				w.restart(o)
				w.facts(slices.Collect(maps.Values(last))...)
				w.ready()
			case 8:
				tell(openService(i, rapid.Bool().Draw(t, "local")))
			case 9, 10:
				tell(placed(sliceFact(i, rapid.IntRange(0, 5).Draw(t, "first"), rapid.IntRange(0, 20).Draw(t, "endpoints"), w.now)))
			case 11:
				tell(nodeFact(fmt.Sprint("n", i%3), rapid.SampledFrom([]string{"", "z0", "z1"}).Draw(t, "zone")))
			case 12:
				tell(labelledPod(fmt.Sprint("p", i), fmt.Sprint("n", i%3), fmt.Sprint("10.200.0.", i+1), apps.Draw(t, "app")))
			case 13, 14:
				block := rapid.SampledFrom([]string{"", "10.0.0.0/8", "10.200.0.2/31"}).Draw(t, "block")
				port := rapid.Uint32Range(80, 82).Draw(t, "port")
				tell(ingressPolicy(fmt.Sprint("p", i%2), apps.Draw(t, "to"), apps.Draw(t, "from"), port, block, w.now))
			case 15:
				tell(goneFact(ingressPolicy(fmt.Sprint("p", i%2), "", "", 0, "", w.now)))
			}
		}
		w.pass(2 * time.Second)
		w.checkConverged()
		if err := w.core.ids.Check(); err != nil {
			t.Fatal(err)
		}
	})
}
