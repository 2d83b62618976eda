// SPDX-License-Identifier: Apache-2.0

package core

import (
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

// finishWalk makes the rows those that a walk has led to, if one has ended.
func (c *Core) finishWalk() bool {
	if c.sync.busy {
		return false
	}
	for _, kind := range kinds {
		l := &c.layers[kind]
		if l.walk == nil || !l.walk.Done() {
			continue
		}
		w := l.walk
		l.walk = nil
		change, position := w.Change()
		if l.goesBack(position) {
			c.stats.Duplicates++
			continue
		}
		_, bytes, _ := w.Cost()
		c.transact(&transaction{kind: kind, position: position, bytes: bytes, found: c.found(l, w, change)},
			plan.LayerChange{Kind: kind, Change: change, After: &position.Digest, TakeOver: true})
		return true
	}
	return false
}

// found says what a walk has found; nothing if it was of all rows.
func (c *Core) found(l *layer, w *walk.Walk, change *model.Change) string {
	if w.All() {
		c.stats.Snapshots++
		return ""
	}
	c.stats.Walks++
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
