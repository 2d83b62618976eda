// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
)

// merged is what both layers of node a hold together, as a packet sees them.
func merged(c *compiler) []*model.Tables {
	return []*model.Tables{c.layers[model.ClusterLayer].Clone(), c.layers[model.NodeLayer("a")].Clone()}
}

// changes are what is committed one after the other in the tests below: growth, replacement, and ids used again.
func changes() []*model.Tables {
	swapped := shop(2, 2, 1)
	swapped.Sets[1], swapped.Sets[2] = exchange(swapped.Sets[1], swapped.Sets[2])
	return []*model.Tables{shop(2, 3, 1), shop(2, 3, 2), shop(1, 2, 2), swapped, shop(2, 2, 4)}
}

// exchange gives two sets each other's meaning.
func exchange(a, b model.BackendSet) (model.BackendSet, model.BackendSet) {
	a.SetKey, b.SetKey = b.SetKey, a.SetKey
	return a, b
}

// inBothWays runs a test with plans that are carried out at once, and with reclaiming put off.
func inBothWays(t *testing.T, test func(t *testing.T, puttingOff bool)) {
	t.Helper()
	t.Run("at once", func(t *testing.T) { test(t, false) })
	t.Run("putting off", func(t *testing.T) { test(t, true) })
}

func TestAfterAFailureAtAnyOperationTheMapsAreRepairedUnseen(t *testing.T) {
	inBothWays(t, failAtAnyOperation)
}

func failAtAnyOperation(t *testing.T, puttingOff bool) {
	t.Helper()
	for at := 1; ; at++ {
		c := newCompiler()
		w := plantest.NewWitness(memory(), merged(c)...)
		f := &maps.Faulty{Maps: w, FailAt: at}
		n := startWith(t, c, f, puttingOff)
		n.pass(time.Second)
		for _, rows := range changes() {
			d := c.commit(model.ClusterLayer, rows, n.now)
			w.Expect(merged(c)...)
			n.put(d)
		}
		n.pass(2 * time.Second)
		n.converged()
		for problem := range w.Problems {
			t.Errorf("failure at operation %d: %s", at, problem)
		}
		if t.Failed() {
			return
		}
		if f.Operations() < at {
			if s := n.driver.Core.Stats(); s.MapFailures != 0 || s.Applied < 5 {
				t.Errorf("without a failure: %+v", s)
			}
			t.Logf("failed at each of %d operations", at-1)
			return
		}
		if s := n.driver.Core.Stats(); s.MapFailures == 0 {
			t.Errorf("failure at operation %d: not counted", at)
		}
	}
}

// Fault 3: a programmer is killed at each operation of a change in turn; no reader sees a broken state, and the next
// one finishes it.
func TestKilledAtAnyOperationTheNextProgrammerFinishesUnseen(t *testing.T) {
	inBothWays(t, killAtAnyOperation)
}

func killAtAnyOperation(t *testing.T, puttingOff bool) {
	t.Helper()
	for at, finished := 1, false; !finished; at++ {
		c := newCompiler()
		w := plantest.NewWitness(memory(), merged(c)...)
		f := &maps.Faulty{Maps: w, Before: func(operation int) {
			if operation == at {
				panic(killed{})
			}
		}}
		finished = survive(func() {
			n := startWith(t, c, f, puttingOff)
			n.pass(time.Second)
			for _, rows := range changes() {
				d := c.commit(model.ClusterLayer, rows, n.now)
				w.Expect(merged(c)...)
				n.put(d)
			}
		})
		f.Before = nil
		n := startWith(t, c, f, puttingOff)
		n.pass(2 * time.Second)
		n.converged()
		for problem := range w.Problems {
			t.Errorf("killed at operation %d: %s", at, problem)
		}
		if t.Failed() {
			return
		}
	}
}

type killed struct{}

// TestWhatIsPutOffIsDoneBeforeItsRootLooksForItAgain takes a root's hints and then its part away, and brings the hints
// back while the part waits to be reclaimed: who then looks for the root's views must not find what is about to go.
func TestWhatIsPutOffIsDoneBeforeItsRootLooksForItAgain(t *testing.T) {
	c := newCompiler()
	w := plantest.NewWitness(memory(), merged(c)...)
	n := startWith(t, c, w, true)
	commit := func(l model.Layer, rows *model.Tables) {
		d := c.commit(l, rows, n.now)
		w.Expect(merged(c)...)
		n.put(d)
	}
	commit(model.ClusterLayer, hinted(shop(1, 2, 0), 1))
	commit(model.NodeLayer("a"), parts(shop(1, 2, 0), 1))
	n.pass(time.Second)
	commit(model.ClusterLayer, shop(1, 2, 0))
	commit(model.NodeLayer("a"), model.NewTables())
	commit(model.ClusterLayer, hinted(shop(1, 2, 0), 1))
	n.converged()
	for problem := range w.Problems {
		t.Error(problem)
	}
}

// TestIDsThatTheOtherLayerTakesLeadNobodyAstray has a compiler whose log was lost number everything anew: a set and a
// backend of the node's layer mean others in the cluster's, and the node's layer is yet to come.
func TestIDsThatTheOtherLayerTakesLeadNobodyAstray(t *testing.T) {
	inBothWays(t, takeTheOtherLayersIDs)
}

func takeTheOtherLayersIDs(t *testing.T, puttingOff bool) {
	t.Helper()
	c := newCompiler()
	w := plantest.NewWitness(memory(), merged(c)...)
	n := startWith(t, c, w, puttingOff)
	commit := func(l model.Layer, rows *model.Tables) {
		d := c.commit(l, rows, n.now)
		w.Expect(merged(c)...)
		n.put(d)
	}
	commit(model.ClusterLayer, hinted(shop(1, 2, 0), 1))
	commit(model.NodeLayer("a"), parts(shop(1, 2, 0), 1)) // set 101 with backend 9001
	n.pass(2 * time.Second)
	n.converged()

	anew := shop(2, 2, 0)
	s, f := anew.Sets[2], anew.Frontends[frontendOf(anew, 2)]
	delete(anew.Sets, s.ID)
	s.ID, s.Root, f.Set = 101, 101, 101
	anew.Sets[s.ID], anew.Frontends[f.FrontendKey] = s, f
	for _, b := range anew.Backends {
		if b.Set == 2 {
			delete(anew.Members, model.Member{Set: 2, Backend: b.ID})
			b.Set = 101
			anew.Backends[b.ID], anew.Members[model.Member{Set: 101, Backend: b.ID}] = b, model.Member{Set: 101, Backend: b.ID}
		}
	}
	b := model.Backend{ID: 9001, State: model.BackendActive, BackendKey: model.BackendKey{
		Set: 1, Addr: netip.MustParseAddr("10.9.9.9"), Port: 8080,
	}}
	anew.Backends[b.ID], anew.Members[model.Member{Set: 1, Backend: b.ID}] = b, model.Member{Set: 1, Backend: b.ID}
	c.epoch++
	c.commit(model.ClusterLayer, anew, n.now)
	c.commit(model.NodeLayer("a"), pods("web-1"), n.now)
	w.Expect(merged(c)...)
	n.put(c.walk(model.Walk{Layer: model.ClusterLayer, Branches: []model.Branch{model.Root}}))
	for problem := range w.Problems {
		if !plantest.Stale(problem) {
			t.Error(problem)
		}
	}
	n.pass(5 * time.Second)
	n.converged()
}

// TestLayersThatTradeIDsChangeAtOnce has a compiler whose log was lost give a root of the cluster's layer the id of its own
// part in the node's, and the part the root's. Neither layer goes with the other as it was, so both are asked for and
// change together: no reader finds a root that is a part.
func TestLayersThatTradeIDsChangeAtOnce(t *testing.T) {
	inBothWays(t, tradeIDs)
}

func tradeIDs(t *testing.T, puttingOff bool) {
	t.Helper()
	c := newCompiler()
	w := plantest.NewWitness(memory(), merged(c)...)
	n := startWith(t, c, w, puttingOff)
	before := hinted(shop(1, 2, 0), 1)
	commit := func(l model.Layer, rows *model.Tables) {
		d := c.commit(l, rows, n.now)
		w.Expect(merged(c)...)
		n.put(d)
	}
	commit(model.ClusterLayer, before)
	commit(model.NodeLayer("a"), parts(before, 1)) // set 101, a part of 1
	n.pass(2 * time.Second)
	n.converged()

	after, node := renamed(before, 1, 101), renamed(parts(before, 1), 1, 101)
	c.epoch++
	c.commit(model.ClusterLayer, after, n.now)
	c.commit(model.NodeLayer("a"), node, n.now)
	w.Expect(merged(c)...)
	n.pass(5 * time.Second)
	n.converged()
	for problem := range w.Problems {
		t.Error(problem)
	}
}

// renamed is rows in which two sets have each other's ids.
func renamed(t *model.Tables, a, b model.SetID) *model.Tables {
	id := func(id model.SetID) model.SetID {
		switch id {
		case a:
			return b
		case b:
			return a
		}
		return id
	}
	rows := t.Rows()
	for i := range rows.Frontends {
		rows.Frontends[i].Set = id(rows.Frontends[i].Set)
	}
	for i := range rows.Sets {
		rows.Sets[i].ID, rows.Sets[i].Root = id(rows.Sets[i].ID), id(rows.Sets[i].Root)
	}
	for i := range rows.Backends {
		rows.Backends[i].Set = id(rows.Backends[i].Set)
	}
	for i := range rows.Members {
		rows.Members[i].Set = id(rows.Members[i].Set)
	}
	for i := range rows.Views {
		rows.Views[i].Set, rows.Views[i].Target = id(rows.Views[i].Set), id(rows.Views[i].Target)
	}
	out := model.NewTables()
	out.Apply(&model.Change{Put: rows}, model.Digest{})
	return out
}

func frontendOf(t *model.Tables, set model.SetID) (key model.FrontendKey) {
	for k, f := range t.Frontends {
		if f.Set == set {
			key = k
		}
	}
	return key
}

// survive runs f and says whether it ran to its end.
func survive(f func()) (finished bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
		}
	}()
	f()
	return true
}

// A bus that loses, doubles and reorders, maps that fail, a compiler that changes its epoch, a programmer that is
// restarted: in the end the maps hold what they should, and no reader ever saw anything else.
func TestChaosConverges(t *testing.T) {
	inBothWays(t, chaosInMemory)
}

func chaosInMemory(t *testing.T, puttingOff bool) {
	t.Helper()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			c := newCompiler()
			w := plantest.NewWitness(memory(), merged(c)...)
			chaos(t, c, w, puttingOff, rand.New(rand.NewPCG(seed, 42)), 60, func() { w.Expect(merged(c)...) })
			// What a node that lags behind sends to old backends is old, not broken; so only broken paths count here.
			for problem := range w.Problems {
				if !plantest.Stale(problem) {
					t.Error(problem)
				}
			}
		})
	}
}

func TestChaosConvergesOnTheKernelsMaps(t *testing.T) {
	testkit.NeedKernel(t)
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			loaded, err := bpf.Load(bpf.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(loaded.Close)
			kernel, err := maps.NewKernel(plane{loaded})
			if err != nil {
				t.Fatal(err)
			}
			chaos(t, newCompiler(), kernel, seed%2 == 0, rand.New(rand.NewPCG(seed, 43)), 20, func() {})
		})
	}
}

// someSets are some of the sets that a shop may have.
func someSets(random *rand.Rand) (ids []model.SetID) {
	for id := range model.SetID(3) {
		if random.IntN(2) == 0 {
			ids = append(ids, id+1)
		}
	}
	return ids
}

// plane gives loaded programs the grace period as a method.
type plane struct{ *bpf.Dataplane }

func (plane) Grace() error { return bpf.Grace() }

// chaos commits changes, calls expect after each, and lets everything go wrong that can. In the
// end the node must have converged.
func chaos(t *testing.T, c *compiler, m maps.Maps, puttingOff bool, random *rand.Rand, commits int, expect func()) {
	t.Helper()
	f := &maps.Faulty{Maps: m, Probability: 0.01, Random: random}
	n := startWith(t, c, f, puttingOff)
	var late []core.Delta
	for range commits {
		rows := hinted(shop(random.IntN(4), 1+random.IntN(4), random.IntN(4)), someSets(random)...)
		var d core.Delta
		if random.IntN(4) == 0 {
			own := pods([]string{"x", "y", "z"}[:random.IntN(4)]...)
			own.Apply(&model.Change{Put: parts(c.layers[model.ClusterLayer], someSets(random)...).Rows()}, model.Digest{})
			d = c.commit(model.NodeLayer("a"), own, n.now)
		} else {
			d = c.commit(model.ClusterLayer, rows, n.now)
		}
		expect()
		switch random.IntN(10) {
		case 0: // lost
		case 1:
			late = append(late, d)
		case 2:
			n.put(d)
			n.put(d)
		case 3:
			n = startWith(t, c, f, puttingOff)
		case 4:
			c.epoch++
		case 5:
			n.put(core.Reconnected{})
		default:
			n.put(d)
		}
		if len(late) > 0 && random.IntN(3) == 0 {
			n.put(late[0])
			late = late[1:]
		}
		n.pass(time.Duration(random.IntN(8)) * 100 * time.Millisecond)
	}
	f.Probability = 0
	n.pass(time.Minute)
	n.converged()
}

func TestMapsThatRefuseForAWhileAreAFaultAndThenRepaired(t *testing.T) {
	c := newCompiler()
	f := &maps.Faulty{Maps: memory(), Random: rand.New(rand.NewPCG(1, 1))}
	n := start(t, c, f)
	n.pass(time.Second)
	f.Probability = 1
	n.put(c.commit(model.ClusterLayer, shop(3, 4, 1), n.now))
	before := f.Operations()
	for i := range 30 {
		n.put(c.commit(model.ClusterLayer, shop(3, 4+i%3, 1), n.now))
		n.pass(time.Second)
	}
	if tries := f.Operations() - before; tries < 4 || tries > 40 {
		t.Errorf("%d operations tried in 30 s", tries)
	}
	if err := n.driver.Core.Ready(); err == nil {
		t.Error("ready while the maps refuse")
	}
	if faults := n.driver.Core.Faults(); len(faults) != 1 || faults[0].Kind != "map" {
		t.Errorf("faults %+v", faults)
	}
	f.Probability = 0
	n.pass(30 * time.Second)
	n.converged()
	if err := n.driver.Core.Ready(); err != nil {
		t.Error(err)
	}
	if faults := n.lastReport().Faults; len(faults) != 0 {
		t.Errorf("after healing: %+v", faults)
	}
}
