// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
)

// bin is where TestMain put the binaries.
var bin string

// TestMain is also the processes with nodes: a cluster starts this program again for each.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == workerCommand {
		os.Exit(workerMain(os.Stdin, os.Stdout))
	}
	code := 1
	var err error
	if bin, err = testkit.Build("github.com/nats-io/nats-server/v2"); err == nil {
		code = m.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(bin)
	os.Exit(code)
}

const nodes = 200

// budget is what a node may hear and say, counted from Reset.
type budget struct {
	cluster *cluster
	t       *testing.T
}

func (b budget) reset() {
	b.t.Helper()
	if _, err := b.cluster.do("reset"); err != nil {
		b.t.Fatal(err)
	}
}

func (b budget) seen() virtual.Seen {
	b.t.Helper()
	seen, err := b.cluster.do("seen")
	if err != nil {
		b.t.Fatal(err)
	}
	return seen
}

// atMost holds what all nodes counted together to so much a node.
func (b budget) atMost(seen virtual.Seen, what string, each float64) {
	b.t.Helper()
	if got := float64(seen.Counts[what]) / nodes; got > each {
		b.t.Errorf("%s: %.1f a node, the budget is %.1f", what, got, each)
	}
}

// TestWhatAChangeCostsAFleet holds 200 nodes, over a real server and a real compiler, to what a change may cost each.
//
// Promise P1: every node reports the compiled digest after each change, which the compiler compares.
// Fault 11: endpoints that flip a thousand times a second come to at most 20 messages a second for a node.
func TestWhatAChangeCostsAFleet(t *testing.T) {
	t.Parallel()
	p := plan{
		bin: bin, nats: filepath.Join(bin, "nats-server"), nodes: nodes, processes: 2, services: 50, endpoints: 5, tick: 250 * time.Millisecond,
	}
	c, err := newCluster(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(c.publish(t.Context(), c.made.All()...))
	do(c.startNodes())
	do(c.converge(t.Context()))
	b := budget{c, t}

	t.Run("changes one after the other", func(t *testing.T) {
		b := budget{c, t}
		const changes = 8 // nodes report once a second, so each takes about that
		b.reset()
		for i := range changes {
			do(c.publish(t.Context(), c.made.Change(i)))
			do(c.converge(t.Context()))
		}
		seen := b.seen()
		b.atMost(seen, "deltas", changes)
		b.atMost(seen, "deltas-bytes", changes*400)
		b.atMost(seen, "reports", changes+10)
		b.atMost(seen, "reports-bytes", (changes+10)*600)
		b.atMost(seen, "dropped", 0)
		if got := float64(seen.Writes) / nodes / changes; got > 4 {
			t.Errorf("%.1f map writes a change and node, want 4 at most", got)
		}
	})
	t.Run("flips", func(t *testing.T) {
		b := budget{c, t}
		b.reset()
		began := time.Now()
		for range 100 {
			var facts []*schemas.Fact
			for i := range 20 {
				facts = append(facts, c.made.Change(i%3))
			}
			do(c.publish(t.Context(), facts...))
		}
		do(c.converge(t.Context()))
		seconds := time.Since(began).Seconds() + 1 // a burst may have been saved up
		seen := b.seen()
		b.atMost(seen, "deltas", 20*seconds)
		b.atMost(seen, "reports", 2*seconds)
		b.atMost(seen, "dropped", 0)
	})
	t.Run("all restart at once", func(t *testing.T) {
		if _, err := c.do("restart"); err != nil {
			t.Fatal(err)
		}
		do(c.whole(t.Context()))
		seen := b.seen()
		b.atMost(seen, "answers-bytes", 1000) // they have all, and are told so
		if seen.Writes != 0 {
			t.Errorf("%d map writes, want none", seen.Writes)
		}
	})
	if v, err := c.varz(); err != nil || v.SlowConsumers != 0 {
		t.Errorf("the server cut off %d connections (%v)", v.SlowConsumers, err)
	}
}
