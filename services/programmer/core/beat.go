// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// clocksApart is by how much a heartbeat's time may differ from the node's.
const clocksApart = 30 * time.Second

// silence is how long no heartbeat may count before the node says so, and silent what it says: nobody knows what else this
// node should hold, and it goes on with what it has.
const (
	silence = 15 * time.Second
	silent  = "silence"
)

// listened notes that a heartbeat has come that counts.
func (c *Core) listened(h Heartbeat) {
	if c.beat.epoch > 0 && h.Epoch > c.beat.epoch {
		c.reportWhole()
	}
	c.beat.epoch, c.beat.sent = h.Epoch, h.Sent
	c.beat.heard, c.beat.unsealed, c.beat.replayed = c.now, c.stats.Unsealed, c.stats.Replayed+c.stats.StaleEpochs
	c.beat.moves, c.beat.moveAt = 0, time.Time{}
	c.clear(silent)
}

// checkSilence names that no heartbeat has counted for too long, and why none did if any came.
func (c *Core) checkSilence() {
	if c.beat.heard.IsZero() {
		c.beat.heard = c.now
	}
	c.moveIfDue()
	if c.now.Sub(c.beat.heard) < silence {
		return
	}
	if _, named := c.report.faults[silent]; named {
		return
	}
	why := "the bus is away, or no compiler leads"
	switch {
	case c.stats.Unsealed > c.beat.unsealed:
		why = "what is said isn't sealed by a key in --trusted-keys: compare that file with the compilers' --signing-key, and find out who may publish"
	case c.stats.Replayed+c.stats.StaleEpochs > c.beat.replayed:
		why = "what is said was said before: find out who may publish"
	}
	text := "no heartbeat of a compiler has counted for " + silence.String() + ": " + why + ". This node goes on with what it has"
	c.fault(Fault{Kind: silent, Text: text})
	c.event(true, silent, "%s", text)
}

// alone is how long no heartbeat may count until another server of the bus is tried: this one may be cut off from those that
// compilers are connected to. Another compiler leads after one or two. moveMost is the longest pause between two tries.
// Each is four times the last: if no compiler leads no server helps, and all nodes are silent at the same time.
const (
	alone    = 5 * time.Second
	moveMost = 5 * time.Minute
)

// moveIfDue wants another server of the bus. All nodes of a cluster do so within as long again, so that servers take them
// as they can.
func (c *Core) moveIfDue() {
	b := &c.beat
	if b.moveAt.IsZero() {
		b.moveAt = b.heard.Add(alone + c.jitter(alone))
	}
	if c.now.Before(b.moveAt) {
		return
	}
	b.moves++
	pause := min(moveMost, alone<<min(2*b.moves, 10))
	b.moveAt = c.now.Add(pause/2 + c.jitter(pause))
	c.do(Elsewhere{})
}

// saidBefore says whether a heartbeat isn't newer than the newest of the highest epoch: then somebody says again what was
// so. One of a lower epoch counts only after that, too, so that old ones of another epoch don't make place for each other.
// A compiler that leads below that epoch, since its log was lost, is heard as soon as its clock is beyond what was said.
func (c *Core) saidBefore(h Heartbeat) bool {
	return h.Epoch <= c.beat.epoch && !h.Sent.IsZero() && !h.Sent.After(c.beat.sent)
}

// compareClocks names a heartbeat that is from another time than ours. It counts all the same: it says nothing that
// a node isn't safe from, and if clocks differ there is no other.
func (c *Core) compareClocks(h Heartbeat) {
	apart := c.now.Sub(h.Sent)
	if h.Sent.IsZero() || apart.Abs() <= clocksApart {
		c.clear("clock")
		return
	}
	c.fault(Fault{Kind: "clock", Text: "the compiler's heartbeat is dated " + apart.Abs().Truncate(time.Second).String() + " " +
		map[bool]string{true: "before", false: "after"}[apart > 0] + " this node's clock: old messages are said again, or clocks differ; compare them"})
}

// disbelieve gives up a position that no compiler can have come to, by what the heartbeat says: what is recorded beside
// the maps was overwritten. Else the node would follow no one any more, since nobody is above it.
func (c *Core) disbelieve(l *layer, h Heartbeat) {
	ours := l.position
	if (ours.Revision <= h.Revision || ours.Revision-h.Revision <= farthest) && (ours.Epoch <= h.Epoch || ours.Epoch-h.Epoch <= farthest) {
		return
	}
	c.stats.Mismatches++
	c.event(true, "digest", "layer %s: the maps are said to hold revision %d of epoch %d, the compiler is at %d of %d: nobody comes "+
		"that far, so it isn't believed; asking what differs", l, ours.Revision, ours.Epoch, h.Revision, h.Epoch)
	l.position, l.known, c.epoch = model.Position{}, false, 0
	c.ask(l)
}
