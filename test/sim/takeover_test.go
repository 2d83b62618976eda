// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"
	"time"
)

// TestATakeoverWritesNothing takes leaders away, one after the other and both services' at once, while nobody changes
// anything: no node writes one entry.
//
// Fault 2: who leads is killed, stopped or cut off; the maps aren't written.
// Promise P3: what stands stays as it is, whoever leads.
func TestATakeoverWritesNothing(t *testing.T) {
	for _, taken := range []struct {
		how  string
		away func(*faults, *process)
	}{
		{"killed", (*faults).killed}, {"stopped", (*faults).stopped}, {"cut off", (*faults).cutOff},
	} {
		t.Run(taken.how, func(t *testing.T) {
			for seed := uint64(1); seed < 6; seed++ {
				c := newCluster(seed, nil)
				c.people.settle()
				for _, p := range c.processes() {
					c.start(p)
				}
				c.runUntil(begin.Add(20*time.Second), func() bool { return false })
				writes := c.writes()
				f := &faults{cluster: c}
				led := 0
				for range 6 {
					for _, p := range c.processes() {
						if c.leading(p) {
							led++
							taken.away(f, p)
						}
					}
					c.runUntil(c.now.Add(10*time.Second), func() bool { return false })
				}
				f.heal()
				c.runUntil(c.now.Add(20*time.Second), func() bool { return false })
				if led < 4 {
					t.Errorf("seed %d: only %d leaders were taken away", seed, led)
				}
				if more := c.writes() - writes; more != 0 {
					t.Errorf("seed %d: %d map writes while nothing has changed", seed, more)
				}
				report(t, c)
			}
		})
	}
}

// writes counts those of all nodes.
func (c *cluster) writes() (sum uint64) {
	for _, n := range c.nodes {
		sum += n.memory.Writes()
	}
	return sum
}

// leading says whether a process is one that leads its service.
func (c *cluster) leading(p *process) bool {
	for _, w := range c.watchers {
		if w.process == p {
			return w.replica.fence != nil
		}
	}
	for _, co := range c.compilers {
		if co.process == p {
			return co.replica.fence != nil
		}
	}
	return false
}
