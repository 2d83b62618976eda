// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedsFlag = flag.Int("sim.seeds", 50, "how many seeds to run at most")
	timeFlag  = flag.Duration("sim.time", 20*time.Second, "how long to begin with seeds; 0 is without a bound")
	baseFlag  = flag.Int64("sim.base", -1, "the first seed; -1 takes one from DELTAPLANE_SEED")
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
	// Histories are short, hold little and make much garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(2000))
	base := firstSeed(t)
	sum := summary{began: time.Now()}
	defer sum.progress()()
	var group sync.WaitGroup
	next := atomic.Int64{}
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(*seedsFlag) && (*timeFlag == 0 || time.Since(sum.began) < *timeFlag); i = next.Add(1) - 1 {
				c := newCluster(base+uint64(i), nil)
				c.live()
				sum.add(c)
				report(t, c)
			}
		})
	}
	group.Wait()
	t.Logf("from seed %d: %s", base, &sum)
}

// firstSeed is the one that the flag names, else one that DELTAPLANE_SEED leads to: each of its values has a million of
// its own.
func firstSeed(t *testing.T) uint64 {
	t.Helper()
	if *baseFlag >= 0 {
		return uint64(*baseFlag)
	}
	text := cmp.Or(os.Getenv("DELTAPLANE_SEED"), "1")
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("DELTAPLANE_SEED is %q: %v", text, err)
	}
	return (seed - 1) * 1_000_000
}

// mostProblems is how many problems of one seed are printed.
const mostProblems = 8

func report(t *testing.T, c *cluster) {
	t.Helper()
	if len(c.problems) == 0 {
		return
	}
	shown := c.problems[:min(len(c.problems), mostProblems)]
	t.Errorf("seed %d: %d problems\n  %s\nthe last events:\n%sagain, with all events: %s",
		c.seed, len(c.problems), strings.Join(shown, "\n  "), c.trace.tail(), again(t.Name(), c.seed))
}

// again is the command that shows a seed's history once more. Only TestSeeds plays any seed.
func again(test string, seed uint64) string {
	if test != "TestSeeds" {
		return fmt.Sprintf("go test ./test/sim -count=1 -v -run '^%s$'", strings.ReplaceAll(test, "/", "$/^"))
	}
	return fmt.Sprintf("go test ./test/sim -count=1 -v -run '^TestSeeds$' -sim.seed=%d", seed)
}

// summary is what many histories came to.
type summary struct {
	began    time.Time
	mu       sync.Mutex
	seeds    int
	failed   int
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
	s.seeds++
	if len(c.problems) > 0 {
		s.failed++
	}
	s.events += c.trace.count
	for kind, n := range c.injected {
		s.injected[kind] += n
	}
	if c.converged > s.slowest {
		s.slowest, s.at = c.converged, c.seed
	}
}

// progressEvery is how often long runs say how far they are.
const progressEvery = 10 * time.Second

// progress prints from time to time how far the run is, if it has no bound of time, until the returned function is
// called.
func (s *summary) progress() (stop func()) {
	if *timeFlag != 0 {
		return func() {}
	}
	ticker, done := time.NewTicker(progressEvery), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				s.mu.Lock()
				fmt.Fprintf(os.Stderr, "%d of %d %s\n", s.seeds, *seedsFlag, s.pace())
				s.mu.Unlock()
			case <-done:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}

func (s *summary) pace() string {
	took := time.Since(s.began)
	return fmt.Sprintf("seeds in %s (%.1f a second), %d failed", took.Round(time.Second), float64(s.seeds)/took.Seconds(), s.failed)
}

func (s *summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s\n%d events; the slowest to converge took %s after the healing (seed %d); faults:\n", s.seeds, s.pace(), s.events, s.slowest, s.at)
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
