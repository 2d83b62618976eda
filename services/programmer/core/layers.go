// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// farthest is how far a delta may lead, in epochs or revisions, to be believed. No compiler comes to that; one message
// must not take a node to where numbers end, since it follows nobody who is behind it.
const farthest = 1 << 32

// live takes a delta, from the bus or from a sync, if it continues exactly what the layer has.
func (c *Core) live(d Delta) {
	l := c.ours(d.Layer)
	if l == nil {
		return // of another node
	}
	if c.state == nil || c.loading.wanted {
		c.wantSync(0) // once the maps are known
		return
	}
	if !d.Synced && (d.To-d.From > farthest || d.Epoch > l.position.Epoch && d.Epoch-l.position.Epoch > farthest) {
		c.foreign(Foreign{Subject: "layer " + l.String(), Err: fmt.Errorf("a delta of epoch %d from revision %d to %d, "+
			"where epoch %d is known, is too far ahead to be believed", d.Epoch, d.From, d.To, l.position.Epoch)})
		return
	}
	if !d.Synced && c.deposed(d.Epoch) || d.Epoch < l.position.Epoch {
		c.stats.StaleEpochs++
		return
	}
	l.heard = max(l.heard, d.To)
	switch {
	case l.walk != nil && d.Synced:
		c.sync.useful = l.walk.Delta(&d.Delta, d.Bytes) || c.sync.useful
	case l.walk != nil: // it is asked for once the walk has ended
	case !l.known:
		c.ask(l)
	case d.Epoch == l.position.Epoch && d.To <= l.position.Revision:
		c.stats.Duplicates++
	case d.From != l.position.Revision:
		c.stats.Gaps++
		c.passed(l, &d)
		c.ask(l)
	default:
		position := model.Position{Epoch: d.Epoch, Revision: d.To, Digest: d.DigestAfter}
		c.stats.Bytes += uint64(d.Bytes)
		c.transact(&transaction{kind: l.Kind, position: position, delta: &d, bytes: d.Bytes},
			plan.LayerChange{Kind: l.Kind, Change: &d.Change, After: &d.DigestAfter})
	}
}

// hearsay is how long an epoch counts that no more is heard of. So one message that lies about its epoch, or a leader
// that was gone before it committed anything, doesn't silence the others for good.
const hearsay = 5 * time.Second

// deposed says whether a message of an epoch comes from a compiler that no longer leads.
func (c *Core) deposed(epoch model.Epoch) bool {
	if epoch < c.epoch && c.now.Sub(c.led) > hearsay {
		c.epoch = 0
		for _, kind := range kinds {
			c.epoch = max(c.epoch, c.layers[kind].position.Epoch)
		}
	}
	if epoch < c.epoch {
		return true
	}
	c.epoch, c.led = epoch, c.now
	return false
}

// goesBack says whether a position is below the layer's. No node ever goes there, whoever says so and however well it is
// sealed: an old message that is said again must not bring old rows back. A compiler whose log was cut goes above what
// nodes hold.
func (l *layer) goesBack(to model.Position) bool {
	return to.Epoch < l.position.Epoch || to.Epoch == l.position.Epoch && to.Revision < l.position.Revision
}

// overtook says whether we were led beyond what a heartbeat says after it was sent: it came late, and nothing was cut.
func (l *layer) overtook(h Heartbeat, theirs model.Position) bool {
	return l.known && h.Epoch == l.position.Epoch && theirs.Revision < l.position.Revision && !h.Sent.IsZero() && !h.Sent.After(l.committed)
}

// overtake is how long a delta may take longer than the heartbeat that speaks of it.
const overtake = 150 * time.Millisecond

// rollback is how long a compiler must say that it is behind this node before the node believes that the compiler's
// log was cut, and gives up its own rows for the compiler's.
const rollback = 1500 * time.Millisecond

// heartbeat finds out about deltas that never came, and about rows that aren't the compiler's.
func (c *Core) heartbeat(h Heartbeat) {
	if c.saidBefore(h) {
		c.stats.Replayed++
		return
	}
	for _, kind := range kinds {
		c.disbelieve(&c.layers[kind], h)
	}
	if news := h.Epoch > c.epoch || c.now.Sub(c.led) > hearsay; news {
		c.sync.tries = 0
		c.sync.notBefore = earlier(c.sync.notBefore, c.now.Add(c.jitter(syncSpread)))
	}
	if c.deposed(h.Epoch) {
		c.stats.StaleEpochs++
		return
	}
	c.listened(h)
	c.compareClocks(h)
	for _, kind := range kinds {
		l := &c.layers[kind]
		theirs, said := h.Positions[l.Layer]
		if !said || l.overtook(h, theirs) {
			continue
		}
		l.heard, l.back = theirs.Revision, l.goesBack(theirs)
		switch {
		case !l.known:
			c.wantSync(0)
		case theirs.Revision == l.position.Revision && theirs.Digest == l.position.Digest:
			l.behind = time.Time{}
		case l.behind.IsZero():
			l.behind = c.now
		}
	}
}

// checkBehind asks for what a heartbeat spoke of and what didn't come.
func (c *Core) checkBehind() {
	for _, kind := range kinds {
		l := &c.layers[kind]
		wait := overtake
		if l.back || l.heard < l.position.Revision {
			wait = rollback
		}
		if l.behind.IsZero() || c.now.Sub(l.behind) < wait {
			continue
		}
		l.behind = time.Time{}
		switch {
		case l.back:
			// It learns of our position by the question, and goes above it.
			c.stats.Mismatches++
			c.event(true, "digest", "layer %s: the compiler is at revision %d, and we are at %d of epoch %d, which is above: its log "+
				"was cut; telling it so", l, l.heard, l.position.Revision, l.position.Epoch)
		case l.heard < l.position.Revision:
			c.stats.Mismatches++
			l.known = false
			c.event(true, "digest", "layer %s: the compiler is at revision %d and we are at %d: its log was cut; asking what differs",
				l, l.heard, l.position.Revision)
		case l.heard == l.position.Revision:
			// The same revision with another digest: the rows came about in another history.
			c.stats.Mismatches++
			l.known = false
			c.event(true, "digest", "layer %s: at revision %d the compiler's rows have another digest than ours, %s; asking what differs",
				l, l.heard, l.position.Digest)
		default:
			c.stats.Gaps++
		}
		c.ask(l)
	}
}
