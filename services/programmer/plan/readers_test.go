// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
)

// stories are changes that have broken data planes before.
var stories = []struct {
	name          string
	before, after *model.Tables
}{
	{
		"a Service appears", rows(),
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2)),
	},
	{
		"a Service goes",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2)), rows(),
	},
	{
		"the first of three backends goes",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), backend(3, 1, 3), in(1, 1), in(1, 2), in(1, 3)),
		rows(set(1, 1), frontend(1, 1), backend(2, 1, 2), backend(3, 1, 3), in(1, 2), in(1, 3)),
	},
	{
		"the last backend goes",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1)),
		rows(set(1, 1), frontend(1, 1)),
	},
	{
		"the first backend comes",
		rows(set(1, 1), frontend(1, 1)),
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1)),
	},
	{
		"all backends are replaced by fewer",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), backend(3, 1, 3), in(1, 1), in(1, 2), in(1, 3)),
		rows(set(1, 1), frontend(1, 1), backend(4, 1, 4), in(1, 4)),
	},
	{
		"a backend's id is given to another pod of the same Service",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2)),
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 9), backend(2, 1, 2), in(1, 1), in(1, 2)),
	},
	{
		"a backend's id is given to a pod of another Service",
		rows(set(1, 1), set(2, 2), frontend(1, 1), frontend(2, 2), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2)),
		rows(set(1, 1), set(2, 2), frontend(1, 1), frontend(2, 2), backend(1, 2, 9), backend(2, 1, 2), in(2, 1), in(1, 2)),
	},
	{
		"two backends exchange ids",
		rows(set(1, 1), set(2, 2), frontend(1, 1), frontend(2, 2), backend(1, 1, 1), backend(2, 2, 2), in(1, 1), in(2, 2)),
		rows(set(1, 1), set(2, 2), frontend(1, 1), frontend(2, 2), backend(2, 1, 1), backend(1, 2, 2), in(1, 2), in(2, 1)),
	},
	{
		"two sets exchange ids",
		rows(set(1, 1), set(2, 2), frontend(1, 1), frontend(2, 2), backend(1, 1, 1), backend(2, 2, 2), in(1, 1), in(2, 2)),
		rows(set(2, 1), set(1, 2), frontend(1, 2), frontend(2, 1), backend(1, 2, 1), backend(2, 1, 2), in(2, 1), in(1, 2)),
	},
	{
		"a set's id is given to a larger set while its frontend goes",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1)),
		rows(set(1, 2), frontend(2, 1), backend(2, 1, 2), backend(3, 1, 3), in(1, 2), in(1, 3)),
	},
	{
		"a frontend moves to another set",
		rows(set(1, 1), set(2, 2), frontend(1, 1), backend(1, 1, 1), backend(2, 2, 2), in(1, 1), in(2, 2)),
		rows(set(2, 2), frontend(1, 2), backend(2, 2, 2), in(2, 2)),
	},
	{
		"a frontend moves to an empty set",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1)),
		rows(set(2, 2), frontend(1, 2)),
	},
	{
		"a set's id is given to another Service with the same backend",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1)),
		rows(set(1, 2), frontend(2, 1), backend(1, 1, 1), in(1, 1)),
	},
}

func TestNoReaderSeesAHalfAppliedChange(t *testing.T) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			for seed := range uint64(20) {
				memory, s := filled(t, story.before)
				w := plantest.NewWitness(memory, story.before)
				p := mustApply(t, s, towards(s, model.LayerCluster, story.after))
				w.Expect(story.after)
				if err := carryOut(w, p, rand.New(rand.NewPCG(seed, 0))); err != nil {
					t.Fatal(err)
				}
				noProblems(t, w)
				holds(t, memory, s, model.LayerCluster, story.after)
			}
		})
	}
}

func TestWithoutTheGracePeriodReadersSeeHolesSoTheWitnessCanTell(t *testing.T) {
	broken := 0
	for _, story := range stories {
		memory, s := filled(t, story.before)
		w := plantest.NewWitness(memory, story.before)
		p := mustApply(t, s, towards(s, model.LayerCluster, story.after))
		w.Expect(story.after)
		for i := range p.Phases {
			p.Phases[i].Grace = false
		}
		if err := carryOut(w, p, nil); err != nil {
			t.Fatal(err)
		}
		if len(w.Problems) > 0 {
			broken++
		}
	}
	if broken < 8 {
		t.Errorf("only %d of %d stories are broken without a grace period", broken, len(stories))
	}
}

func TestAfterACrashAtAnyWriteTheMapsAreRepairedUnseen(t *testing.T) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			for at, done := 1, false; !done; at++ {
				memory, s := filled(t, story.before)
				w := plantest.NewWitness(memory, story.before)
				w.Expect(story.after)
				p := mustApply(t, s, towards(s, model.LayerCluster, story.after))
				err := carryOut(&maps.Faulty{Maps: w, FailAt: at}, p, rand.New(rand.NewPCG(uint64(at), 1)))
				done = err == nil
				s = load(t, memory)
				change := towards(s, model.LayerCluster, story.after)
				if err := carryOut(w, mustApply(t, s, change), nil); err != nil {
					t.Fatal(err)
				}
				noProblems(t, w)
				holds(t, memory, s, model.LayerCluster, story.after)
			}
		})
	}
}

// anyRows draws tables that are closed in themselves, from so few ids that they are used again often.
func anyRows(t *rapid.T, name string) *model.Tables {
	tables := model.NewTables()
	draw := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, name+what) }
	for id := range 3 {
		if draw(fmt.Sprintf(" set %d", id), 4) > 0 {
			s := set(model.SetID(id+1), draw(fmt.Sprintf(" service of set %d", id), 3))
			tables.Sets[s.ID] = s
		}
	}
	for id := range 4 {
		of := model.SetID(draw(fmt.Sprintf(" set of backend %d", id), 4))
		if _, held := tables.Sets[of]; !held {
			continue
		}
		b := backend(model.BackendID(id+1), of, draw(fmt.Sprintf(" host of backend %d", id), 4))
		tables.Backends[b.ID] = b
		for other := range tables.Sets {
			if other == of && draw(fmt.Sprintf(" backend %d is member", id), 5) > 0 {
				m := model.Member{Set: other, Backend: b.ID}
				tables.Members[m] = m
			}
		}
	}
	for n := range 3 {
		of := model.SetID(draw(fmt.Sprintf(" set of frontend %d", n), 4))
		if _, held := tables.Sets[of]; held {
			tables.Frontends[frontendKey(n)] = frontend(n, of)
		}
	}
	return tables
}

func TestAnyChangeIsUnseenAndComplete(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		before := anyRows(rt, "before")
		memory, s := filled(t, before)
		w := plantest.NewWitness(memory, before)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		for i := range 3 {
			after := anyRows(rt, fmt.Sprintf("after %d", i))
			w.Expect(after)
			p := mustApply(rt, s, towards(s, model.LayerCluster, after))
			failAt := rapid.IntRange(0, 12).Draw(rt, "fail at")
			if err := carryOut(&maps.Faulty{Maps: w, FailAt: failAt}, p, random); err != nil {
				if !errors.Is(err, maps.ErrInjected) {
					rt.Fatal(err)
				}
				s = load(t, memory)
				if err := carryOut(w, mustApply(rt, s, towards(s, model.LayerCluster, after)), random); err != nil {
					rt.Fatal(err)
				}
			}
			for problem := range w.Problems {
				rt.Error(problem)
			}
			holds(rt, memory, s, model.LayerCluster, after)
		}
	})
}
