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
	asked     time.Time // when the last one was
	useful    bool      // its answer brought a walk on
	room      int       // for the next answer, bytes
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
	if l.waits(c.now) {
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
// reason.
func (c *Core) waitsForRoom() bool {
	return slices.ContainsFunc(c.layers[:], func(l layer) bool { return l.waits(c.now) })
}

func (l *layer) waits(now time.Time) bool { return l.full && now.Before(l.retry) }

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
	if !due || s.busy || c.now.Before(s.notBefore) || !c.prepared() {
		return
	}
	s.wanted, s.busy = false, true
	s.next = c.now.Add(syncEvery/2 + c.jitter(syncEvery))
	s.notBefore = c.now.Add(backoff(s.tries)/2 + c.jitter(backoff(s.tries)))
	s.tries++
	c.stats.Syncs++
	if s.room == 0 {
		s.room = roomMost
	}
	s.asked, s.useful = c.now, false
	c.do(c.question())
}

// question is what to ask: what came since the positions of the layers that are known, and how the walks of others go
// on.
func (c *Core) question() Sync {
	q := Sync{Positions: map[model.Layer]model.Position{}, Room: c.sync.room, Within: c.sync.within()}
	for _, kind := range kinds {
		l := &c.layers[kind]
		waits := l.waits(c.now)
		is := l.position
		if !l.known {
			is.Digest = c.state.Digest(kind)
		}
		if l.walk != nil && l.walk.Asking() {
			q.Walks = append(q.Walks, l.walk.Question())
		} else if l.walk != nil {
			is, _ = l.walk.Since()
		}
		if is.Epoch != 0 || waits {
			q.Positions[l.Layer] = is
		}
	}
	return q
}

func (c *Core) syncEnded(in SyncEnded) {
	s := &c.sync
	s.busy = false
	s.failed = in.Err
	if in.After == 0 {
		s.fitRoom(c.now.Sub(s.asked), in.Err != nil)
	}
	switch {
	case in.Err != nil && in.After > 0: // as it is told
		s.notBefore = c.now.Add(in.After)
	case in.Err == nil && (s.useful || in.More):
		s.tries, s.notBefore = 0, c.now
	}
	if in.Err != nil {
		c.stats.SyncsFailed++
		c.wantSync(0)
		return
	}
	unfinished := in.More
	for _, kind := range kinds {
		l := &c.layers[kind]
		unfinished = unfinished || l.walk != nil && !l.walk.Done() || l.walk == nil && !l.known
	}
	if unfinished {
		c.wantSync(0)
	}
	if !s.wanted {
		s.tries = 0
	}
}

// earlier returns the earlier of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Synced says why the last question to a compiler was not answered; nil if it was.
func (c *Core) Synced() error {
	if c.sync.failed != nil {
		return fmt.Errorf("asking a compiler for what is missing: %w", c.sync.failed)
	}
	return nil
}
