// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

const (
	// syncEvery is how often a node asks even if it believes to have all.
	syncEvery = 30 * time.Second
	// syncSpread is what nodes that start or reconnect together spread their first question over.
	syncSpread = 250 * time.Millisecond
	// The pauses between questions that didn't help.
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 10 * time.Second
)

// syncing is when to ask a compiler.
type syncing struct {
	wanted    bool
	busy      bool
	due       time.Time // when to ask, if wanted
	tries     int       // in a row that left something to be asked
	notBefore time.Time
	next      time.Time // when to ask in any case
	failed    error     // why the last one failed; nil if it didn't
}

func backoff(tries int) time.Duration {
	return min(backoffMost, backoffFirst<<min(tries, 10))
}

// How long a layer that didn't fit waits until all of it is asked for again: longer each time, since what doesn't fit
// here fits no node, and all would ask for all of it again and again.
const (
	fullPause = 5 * time.Second
	fullMost  = 5 * time.Minute
)

// overflowed notes that a layer doesn't fit, by so many entries.
func (c *Core) overflowed(l *layer, lacking int) {
	if l.full && c.now.Before(l.retry) {
		return
	}
	pause := min(fullMost, fullPause<<min(l.refusals, 10))
	l.full, l.retry = true, c.now.Add(pause+c.jitter(pause))
	l.refusals++
	l.lacking = lacking
}

// ask wants a sync for what a layer lacks.
func (c *Core) ask(l *layer) {
	if l.full {
		c.wantSync(l.retry.Sub(c.now))
	} else {
		c.wantSync(0)
	}
}

// waitsForRoom says whether a layer that didn't fit is not to be tried yet. Meanwhile the node doesn't ask without a
// reason: the compiler no longer has the deltas since, and would answer with all rows.
func (c *Core) waitsForRoom() bool {
	return slices.ContainsFunc(c.layers[:], func(l layer) bool { return l.full && c.now.Before(l.retry) })
}

// passed looks at a delta that a layer can't take: if it is full, it is tried again soon once there may be room.
func (c *Core) passed(l *layer, d *Delta) {
	if !l.full || d.Synced {
		return
	}
	l.lacking += d.Change.Put.Len() - d.Change.Remove.Len()
	if soon := c.now.Add(fullPause/2 + c.jitter(fullPause)); l.lacking <= 0 && soon.Before(l.retry) {
		l.retry = soon
	}
}

// wantSync asks for a sync in a while.
func (c *Core) wantSync(in time.Duration) {
	due := c.now.Add(in)
	if !c.sync.wanted || due.Before(c.sync.due) {
		c.sync.due = due
	}
	c.sync.wanted = true
}

func (c *Core) syncIfDue() {
	s := &c.sync
	if s.next.IsZero() {
		s.next = c.now.Add(syncEvery)
	}
	due := s.wanted && !c.now.Before(s.due) || !c.now.Before(s.next) && !c.waitsForRoom()
	if !due || s.busy || c.now.Before(s.notBefore) {
		return
	}
	s.wanted, s.busy = false, true
	s.next = c.now.Add(syncEvery/2 + c.jitter(syncEvery))
	s.notBefore = c.now.Add(backoff(s.tries)/2 + c.jitter(backoff(s.tries)))
	s.tries++
	c.stats.Syncs++
	positions := map[model.Layer]model.Position{}
	for _, kind := range kinds {
		if l := &c.layers[kind]; l.known && (!l.full || c.now.Before(l.retry)) {
			positions[l.Layer] = l.position
		}
	}
	c.do(Sync{Positions: positions})
}

func (c *Core) syncEnded(in SyncEnded) {
	c.sync.busy = false
	c.sync.failed = in.Err
	if in.Err != nil {
		c.stats.SyncsFailed++
		c.wantSync(0)
		return
	}
	for _, kind := range kinds {
		if !c.layers[kind].known {
			c.wantSync(0)
		}
	}
	if !c.sync.wanted {
		c.sync.tries = 0
	}
}

// Synced says why the last question to a compiler was not answered; nil if it was.
func (c *Core) Synced() error {
	if c.sync.failed != nil {
		return fmt.Errorf("asking a compiler for what is missing: %w", c.sync.failed)
	}
	return nil
}
