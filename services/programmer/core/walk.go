// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// A layer whose rows aren't those of a position that the compiler can lead on from is walked (docs/adr/0015): question by
// question, the branches that differ are found, or all rows are taken where there are none yet. What is there stays in
// force until the walk has ended; then all that differs is one transaction.

// begin begins to walk a layer. Where walks led to other rows than were announced all rows are taken.
func (c *Core) begin(l *layer) {
	held := c.state.Wanted(l.Kind)
	l.paired = false
	if l.strayed > 0 {
		l.walk = walk.NewOfAll(l.Layer, held)
	} else {
		l.walk = walk.New(l.Layer, held)
	}
}

// preparedAtOnce is how many rows are looked at in one go before the core is ready for something else: some 50 ms.
const preparedAtOnce = 50_000

// prepared begins to walk the layers that are to be walked, and says whether all of them are ready to be asked about. With
// many rows it isn't at once.
func (c *Core) prepared() bool {
	ready := true
	for _, kind := range kinds {
		l := &c.layers[kind]
		if l.walk == nil && !l.waits(c.now) && (!l.known || l.full) {
			c.begin(l)
		}
		ready = ready && (l.walk == nil || l.walk.Prepare(preparedAtOnce))
	}
	return ready
}

// branches takes an answer.
func (c *Core) branches(in Branches) {
	l := c.ours(in.Layer)
	if l == nil || c.state == nil || c.loading.wanted {
		return
	}
	c.stats.Bytes += uint64(in.Bytes)
	if l.goesBack(in.Position) {
		c.stats.Duplicates++
		return
	}
	if l.walk == nil && l.waits(c.now) {
		return
	}
	if l.walk == nil {
		c.begin(l)
	}
	if !l.walk.Prepare(preparedAtOnce) {
		return // it wasn't asked for, and tells no more than the next one
	}
	useful, err := l.walk.Take(in.Branches, in.Bytes)
	c.sync.useful = c.sync.useful || useful
	if err != nil {
		l.walk = nil
		l.strayed++
		c.stats.Mismatches++
		c.event(true, "digest", "layer %s: looking for what differs: %v; asking for all rows", l, err)
	}
}

// finishWalk makes the rows those that a walk has led to, if one has ended. Where a compiler has numbered anew, ids of a
// layer's rows may still mean something else in the other layer: then both change at once, when both have been walked.
func (c *Core) finishWalk() bool {
	if c.sync.busy {
		return false
	}
	for _, kind := range kinds {
		l := &c.layers[kind]
		other := c.otherThan(l)
		if l.walk == nil || !l.walk.Done() || l.paired && !other.walked() && !other.waits(c.now) {
			continue
		}
		t, change := c.walked(l)
		switch {
		case t == nil:
			continue
		case !l.paired && c.try(t, change):
		case other.walked():
			c.both(t, change, other)
		case other.waits(c.now):
			c.alone(t, change)
		default:
			l.paired, other.known = true, false
			c.ask(other)
			continue
		}
		return true
	}
	return false
}

func (l *layer) walked() bool { return l.walk != nil && l.walk.Done() }

func (c *Core) otherThan(l *layer) *layer {
	if l.Kind == model.LayerCluster {
		return &c.layers[model.LayerNode]
	}
	return &c.layers[model.LayerCluster]
}

// walked returns what a walk that has ended has led to; nothing if that would lead back.
func (c *Core) walked(l *layer) (*transaction, plan.LayerChange) {
	w := l.walk
	change, position := w.Change()
	if l.goesBack(position) {
		l.walk = nil
		c.stats.Duplicates++
		return nil, plan.LayerChange{}
	}
	_, bytes, _ := w.Cost()
	return &transaction{kind: l.Kind, position: position, bytes: bytes, found: c.found(l, w, change)},
		plan.LayerChange{Kind: l.Kind, Change: change, After: &position.Digest}
}

// try takes what a layer's walk has led to, unless it doesn't go with the other layer's rows.
func (c *Core) try(t *transaction, change plan.LayerChange) bool {
	p, err := c.state.Apply(c.config.Capacities, change)
	if refusal, ok := errors.AsType[*plan.Refusal](err); ok && refusal.Kind == "rows" {
		return false
	}
	c.ended(&c.layers[t.kind])
	if err != nil {
		c.refused(t, err)
	} else {
		c.write(t, p)
	}
	return true
}

// both takes what the walks of both layers have led to at once; if that can't be, one after the other.
func (c *Core) both(t *transaction, change plan.LayerChange, other *layer) {
	change.TakeOver = true
	if with, more := c.walked(other); with != nil {
		more.TakeOver = true
		if p, err := c.state.Apply(c.config.Capacities, change, more); err == nil {
			c.ended(&c.layers[t.kind])
			c.ended(other)
			t.with = with
			c.write(t, p)
			return
		}
	}
	other.walk = nil
	c.alone(t, change)
}

// alone takes what a layer's walk has led to, and takes from the other layer what doesn't go with it.
func (c *Core) alone(t *transaction, change plan.LayerChange) {
	c.ended(&c.layers[t.kind])
	change.TakeOver = true
	c.transact(t, change)
}

// ended is for a walk that has led somewhere.
func (c *Core) ended(l *layer) {
	if l.walk.All() {
		c.stats.Snapshots++
	} else {
		c.stats.Walks++
	}
	l.walk = nil
}

// found says what a walk has found; nothing if it was of all rows.
func (c *Core) found(l *layer, w *walk.Walk, change *model.Change) string {
	if w.All() {
		return ""
	}
	rounds, bytes, _ := w.Cost()
	text := fmt.Sprintf("layer %s: %d rows were missing or other than the compiler's, %d too many; found by %d answers of %d bytes",
		l, change.Put.Len(), change.Remove.Len(), rounds, bytes)
	if some := names(&change.Put, c.state); len(some) > 0 {
		slices.Sort(some) // rows come in no order
		text += ": " + few(some)
	}
	return text
}

// How much an answer has room for, bytes: less for who is slow, so that nothing piles up on the way to it.
const (
	roomMost  = 256 << 10
	roomLeast = 2 << 10
	// An answer that takes longer than slow was too much, one that takes less than quick leaves room for more.
	slow  = 2 * time.Second
	quick = 250 * time.Millisecond
)

// How long the next message of an answer may take: who answers may be gone, so not longer than it must. Where so little
// fits, what is live alone may take up most of the way.
const (
	usuallyWithin = 5 * time.Second
	slowlyWithin  = 20 * time.Second
	slowlyUpTo    = 16 << 10
)

// fitRoom learns from how long an answer took. One that didn't come in time may still lie on the way, before the next:
// that is to be little.
func (s *syncing) fitRoom(took time.Duration, failed bool) {
	switch {
	case failed && took > slow:
		s.room = max(roomLeast, s.room/16)
	case took > slow:
		s.room = max(roomLeast, s.room/2)
	case took < quick && !failed:
		s.room = min(roomMost, s.room*2)
	}
}

func (s *syncing) within() time.Duration {
	if s.room <= slowlyUpTo {
		return slowlyWithin
	}
	return usuallyWithin
}
