// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// A sweep reads the maps again and again, a slice a second, to find what someone has edited. A slice is a third of all
// entries, so that drift is named within 5 s, but at most sliceMost: some 6 ms a second. Then a sweep of n entries takes
// n / sliceMost seconds. Small maps are read at once, every sweepPause: reading an empty map still looks at each of its
// buckets.
const (
	sweepEvery = time.Second
	sweepPause = 4 * time.Second
	sliceLeast = 1024
	sliceMost  = 16384
	// After this many passes over one map that writes disturbed, the maps are read as a whole between two writes.
	disturbedMost = 30
)

type sweep struct {
	at        abi.Map
	started   bool
	seen      int
	disturbed bool // something was written since the pass over this map began
	passes    int  // over this map, all disturbed
	left      int  // entries to be read this second
	next      time.Time
	began     time.Time // when the first map's pass did
	busy      bool
}

func (c *Core) sweepIfDue() {
	s := &c.sweep
	if s.busy || c.sync.busy && c.now.Sub(s.next) < 5*sweepEvery {
		return
	}
	if !s.next.After(c.now) {
		total := 0
		for _, n := range c.state.Entries() {
			total += n
		}
		s.left = min(max(total/3, sliceLeast), sliceMost)
		s.next = c.now.Add(sweepEvery)
	}
	if s.left <= 0 {
		return
	}
	s.busy = true
	if !s.started && s.at == 0 {
		s.began = c.now
	}
	c.do(Read{Map: s.at, Start: !s.started, Limit: s.left})
	if !s.started {
		s.started, s.seen, s.disturbed = true, 0, false
	}
}

func (c *Core) slice(in Slice) {
	s := &c.sweep
	s.busy = false
	if in.Err != nil {
		s.started, s.left = false, 0
		c.distrust(in.Err.Error(), true)
		return
	}
	s.left -= max(len(in.Entries), 1)
	s.seen += len(in.Entries)
	var drift []string
	for _, e := range in.Entries {
		if text := c.state.Drift(in.Map, e.Key, e.Value); text != "" {
			drift = append(drift, text)
		}
	}
	if in.End {
		drift = append(drift, c.endOfPass(in.Map)...)
	}
	if len(drift) > 0 {
		s.started, s.left = false, 0
		c.loading.drift = drift
		c.distrust(few(drift), false)
	}
}

// endOfPass counts whether all entries were there, and goes on with the next map.
func (c *Core) endOfPass(m abi.Map) (drift []string) {
	s := &c.sweep
	s.started = false
	want := c.state.Entries()[m]
	switch {
	case s.disturbed && s.seen != want && s.passes < disturbedMost:
		s.passes++
		return nil
	case s.disturbed && s.seen != want:
		c.loading.wanted = true // nothing may be wrong; a repair that finds nothing writes nothing
	case s.seen < want:
		drift = append(drift, fmt.Sprintf("%s has %d entries where there should be %d", m, s.seen, want))
	}
	s.passes = 0
	if s.at++; s.at == abi.MapCount {
		s.at, s.left = 0, 0
		if next := s.began.Add(sweepPause); next.After(s.next) {
			s.next = next
		}
	}
	return drift
}
