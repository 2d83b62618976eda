// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
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
	asked     map[model.Layer]model.Position
}

// goesBack says whether an answer holds less than what the compiler was told that we have: then it means that, since
// its log was cut. An answer that is merely older than what came meanwhile doesn't.
func (s *syncing) goesBack(to model.Snapshot) bool {
	from, told := s.asked[to.Layer]
	return s.busy && told && to.Position.Revision < from.Revision
}

func backoff(tries int) time.Duration {
	return min(backoffMost, backoffFirst<<min(tries, 10))
}

// fullPause is how long a layer that didn't fit waits before it is tried again.
const fullPause = 5 * time.Second

// ask wants a sync for what a layer lacks.
func (c *Core) ask(l *layer) {
	if l.full {
		c.wantSync(fullPause)
	} else {
		c.wantSync(0)
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
	due := s.wanted && !c.now.Before(s.due) || !c.now.Before(s.next)
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
		if l := &c.layers[kind]; l.known && !l.full {
			positions[l.Layer] = l.position
		}
	}
	s.asked = positions
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
