// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedsFlag = flag.Int("sim.seeds", 60, "how many seeds to run")
	baseFlag  = flag.Uint64("sim.base", 0, "the first seed")
	openFlag  = flag.Bool("sim.open", false, "faults that are yet to be survived strike, too")
	oneFlag   = flag.Int64("sim.seed", -1, "run this seed alone; with -v print all that happens")
)

// TestSeeds runs histories. One that breaks a promise prints what, its last events, and how to see it again.
//
// Promise P1: whatever fails, once it is over every node holds what compiling all objects leads to.
// Promise P2: no reader ever sees rows that are neither those before nor those after a change.
// Fault 14: what was compiled bit by bit is compared with compiling everything.
func TestSeeds(t *testing.T) {
	if *oneFlag >= 0 {
		var verbose io.Writer
		if testing.Verbose() {
			verbose = os.Stdout
		}
		c := newCluster(uint64(*oneFlag), verbose)
		c.live()
		report(t, c)
		t.Logf("seed %d: %d events, hash %x, converged %s after the healing", c.seed, c.trace.count, c.trace.hash, c.converged)
		return
	}
	began := time.Now()
	var sum summary
	var group sync.WaitGroup
	next := atomic.Int64{}
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(*seedsFlag); i = next.Add(1) - 1 {
				c := newCluster(*baseFlag+uint64(i), nil)
				c.live()
				sum.add(c)
				report(t, c)
			}
		})
	}
	group.Wait()
	t.Logf("%d seeds in %s\n%s", *seedsFlag, time.Since(began).Round(time.Millisecond), &sum)
}

// mostProblems is how many problems of one seed are printed.
const mostProblems = 8

func report(t *testing.T, c *cluster) {
	t.Helper()
	if len(c.problems) == 0 {
		return
	}
	shown := c.problems[:min(len(c.problems), mostProblems)]
	t.Errorf("seed %d: %d problems\n  %s\nthe last events:\n%sagain, with all events: go test ./test/sim -run TestSeeds -v -sim.seed=%d",
		c.seed, len(c.problems), strings.Join(shown, "\n  "), c.trace.tail(), c.seed)
}

// summary is what many histories came to.
type summary struct {
	mu       sync.Mutex
	events   int
	injected map[string]int
	slowest  time.Duration
	at       uint64
}

func (s *summary) add(c *cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.injected == nil {
		s.injected = map[string]int{}
	}
	s.events += c.trace.count
	for kind, n := range c.injected {
		s.injected[kind] += n
	}
	if c.converged > s.slowest {
		s.slowest, s.at = c.converged, c.seed
	}
}

func (s *summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d events; the slowest to converge took %s after the healing (seed %d); faults:\n", s.events, s.slowest, s.at)
	for _, kind := range slices.Sorted(maps.Keys(s.injected)) {
		fmt.Fprintf(&b, "  %9d %s\n", s.injected[kind], kind)
	}
	return b.String()
}

// A seed is a history: run twice, it is the same to the last event.
func TestTheSameSeedIsTheSameHistory(t *testing.T) {
	for seed := range uint64(6) {
		var hashes [2]uint64
		for i := range hashes {
			c := newCluster(seed, nil)
			c.live()
			hashes[i] = c.trace.hash
		}
		if hashes[0] != hashes[1] {
			t.Errorf("seed %d: hash %x, then %x", seed, hashes[0], hashes[1])
		}
	}
}
