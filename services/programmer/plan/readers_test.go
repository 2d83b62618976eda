// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
)

type story struct {
	name          string
	before, after *model.Tables
}

// stories are changes that have broken data planes before.
var stories = []story{
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
	{
		"hints come",
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here),
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
	},
	{
		"hints go while backends are replaced",
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
		rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(3, 1, 3), in(1, 1), in(1, 3), here),
	},
	{
		"a Service with hints appears",
		rows(here),
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
	},
	{
		"a Service with hints goes",
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
		rows(here),
	},
	{
		"the ids of a Service with hints are given to another with hints",
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
		rows(flagged(set(1, 2), model.ZoneHints), frontend(2, 1), backend(1, 1, 8), backend(2, 1, 9), in(1, 1), in(1, 2), here,
			part(11, 1, 2, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 2)),
	},
	{
		"a root and its part exchange ids",
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(2, 1, 1, model.ScopeZone, "here"), view(2, 1, model.ScopeZone, "here"), in(2, 1)),
		rows(flagged(set(2, 1), model.ZoneHints), frontend(1, 2), backend(1, 2, 1), backend(2, 2, 2), in(2, 1), in(2, 2), here,
			part(1, 2, 1, model.ScopeZone, "here"), view(1, 2, model.ScopeZone, "here"), in(1, 1)),
	},
	{
		"the zones' sets of two Services exchange ids",
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), in(1, 1), here,
			flagged(set(2, 2), model.ZoneHints), frontend(2, 2), backend(2, 2, 2), in(2, 2),
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1),
			part(12, 2, 2, model.ScopeZone, "here"), view(12, 2, model.ScopeZone, "here"), in(12, 2)),
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), in(1, 1), here,
			flagged(set(2, 2), model.ZoneHints), frontend(2, 2), backend(2, 2, 2), in(2, 2),
			part(12, 1, 1, model.ScopeZone, "here"), view(12, 1, model.ScopeZone, "here"), in(12, 1),
			part(11, 2, 2, model.ScopeZone, "here"), view(11, 2, model.ScopeZone, "here"), in(11, 2)),
	},
	{
		"the node moves to another zone",
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), here,
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
		rows(flagged(set(1, 1), model.ZoneHints), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2), model.Self{Zone: "there"},
			part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"), in(11, 1)),
	},
	{
		"source ranges come",
		rows(set(1, 1), policy(frontend(1, 1), 0), backend(1, 1, 1), in(1, 1)),
		rows(set(1, 1), policy(frontend(1, 1), model.SourceRanges), backend(1, 1, 1), in(1, 1), sources(1, "192.0.2.0/24"), sources(1, "10.0.0.0/8")),
	},
	{
		"source ranges are replaced",
		rows(set(1, 1), policy(frontend(1, 1), model.SourceRanges), backend(1, 1, 1), in(1, 1), sources(1, "192.0.2.0/24")),
		rows(set(1, 1), policy(frontend(1, 1), model.SourceRanges), backend(1, 1, 1), in(1, 1), sources(1, "192.0.2.0/25"), sources(1, "10.0.0.0/8")),
	},
	{
		"source ranges go",
		rows(set(1, 1), policy(frontend(1, 1), model.SourceRanges), backend(1, 1, 1), in(1, 1), sources(1, "192.0.2.0/24")),
		rows(set(1, 1), policy(frontend(1, 1), 0), backend(1, 1, 1), in(1, 1)),
	},
	{
		"the id of a set with source ranges is given to another with other ranges",
		rows(set(1, 1), policy(frontend(1, 1), model.SourceRanges), backend(1, 1, 1), in(1, 1), sources(1, "192.0.2.0/24")),
		rows(set(1, 2), policy(frontend(2, 1), model.SourceRanges), backend(1, 1, 2), in(1, 1), sources(1, "10.0.0.0/8")),
	},
	{
		"traffic becomes local",
		rows(set(1, 1), policy(frontend(1, 1), 0), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2)),
		rows(set(1, 1), policy(frontend(1, 1), model.ExternalLocal|model.InternalLocal), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2),
			part(11, 1, 1, model.ScopeLocal, "node-a"), view(11, 1, model.ScopeLocal, ""), in(11, 1)),
	},
	{
		"a port of a Service goes while the others are refused",
		rows(set(1, 1), frontend(1, 1), refused(1), backend(1, 1, 1), in(1, 1)), rows(),
	},
	{
		"a Service comes whose other ports are refused",
		rows(), rows(set(1, 1), frontend(1, 1), refused(1), backend(1, 1, 1), in(1, 1)),
	},
	{
		"networks, health checks and the node's own row come",
		rows(),
		rows(here, model.Network{Prefix: netip.MustParsePrefix("10.96.0.0/12"), Kind: model.NetworkServices},
			model.Network{Prefix: netip.MustParsePrefix("fd00::/108"), Kind: model.NetworkPods},
			model.HealthCheck{Port: 30100, Namespace: "shop", Name: "s1"}),
	},
	{
		"networks, health checks and the node's own row go",
		rows(here, model.Network{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Kind: model.NetworkServices},
			model.Network{Prefix: netip.MustParsePrefix("::/0"), Kind: model.NetworkPods},
			model.HealthCheck{Port: 30100, Namespace: "shop", Name: "s1"}),
		rows(model.Self{Zone: "there", Draining: true}, model.Network{Prefix: netip.MustParsePrefix("::/0"), Kind: model.NetworkServices}),
	},
}

var here = model.Self{Zone: "here"}

// Promise P2: between any two writes of a change a reader finds a path of before or of after it.
func TestNoReaderSeesAHalfAppliedChange(t *testing.T) {
	for _, story := range slices.Concat(stories, externalStories()) {
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

// TestAViewOfARootThatItsFrontendLeftComesAfterItsTarget brings the first view of a root right after the change that took
// away its frontend. No grace period lies between the two, so programs may still be at the root and look for the view.
func TestAViewOfARootThatItsFrontendLeftComesAfterItsTarget(t *testing.T) {
	before := rows(flagged(set(1, 1), model.NodeHints), frontend(1, 1), backend(1, 1, 1), in(1, 1), set(2, 1), backend(2, 2, 2), in(2, 2))
	left := edited(before, func(t *model.Tables) { t.Frontends[frontendKey(1)] = frontend(1, 2) })
	node := rows(part(21, 1, 1, model.ScopeNode, "node-a"), view(21, 1, model.ScopeNode, ""), backend(21, 1, 3), in(21, 21))
	for seed := range uint64(20) {
		memory, s := filled(t, before)
		w := plantest.NewWitness(memory, before)
		random := rand.New(rand.NewPCG(seed, 0))
		for _, to := range []struct {
			kind model.LayerKind
			rows *model.Tables
		}{{model.LayerCluster, left}, {model.LayerNode, node}} {
			p := mustApply(t, s, towards(s, to.kind, to.rows))
			w.Expect(s.Tables(model.LayerCluster).Clone(), s.Tables(model.LayerNode).Clone())
			if err := carryOut(w, p, random); err != nil {
				t.Fatal(err)
			}
		}
		noProblems(t, w)
		holds(t, memory, s, model.LayerCluster, left)
		holds(t, memory, s, model.LayerNode, node)
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

// Fault 3: after a crash at any write the next plan starts from what is in the maps, and no reader notices.
func TestAfterACrashAtAnyWriteTheMapsAreRepairedUnseen(t *testing.T) {
	for _, story := range slices.Concat(stories, externalStories()) {
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
