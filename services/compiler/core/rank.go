// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// A node never goes to a lower (epoch, revision) of a layer, whoever says so. So a compiler whose log was cut, lost, or
// restored from a backup goes above what nodes hold: it takes a higher epoch if theirs isn't below its own, and it commits
// an empty delta of a layer that stands below.

// farthest is how far ahead of ours an epoch or revision may be to be believed. No log that was lost comes to that, and
// whoever lies must not lead the numbers to where they end.
const farthest = 1 << 32

// maxRevision bounds the numbers themselves.
const maxRevision = 1 << 62

// liftEvery bounds how often nodes' word makes us commit something.
const liftEvery = 10 * time.Second

// toLift is how often one node's word lifts a layer. Who isn't lying needs it once each time that the log is lost.
var toLift = allowance{3, 10 * time.Minute}

// lifts are layers that some node holds at a position above ours, with the revision to go above.
type lifts struct {
	layers map[model.Layer]lift
	next   time.Time          // when they may be lifted
	words  map[string]*bucket // of the nodes that have lifted some
}

// lift is the highest revision of a layer that a node says it holds.
type lift struct {
	revision model.Revision
	node     string
}

// heeds says whether a node's word may lift a layer.
func (l *lifts) heeds(node string, now time.Time) bool {
	b := l.words[node]
	return b == nil || b.has(toLift, now)
}

// spend counts that a node's word has lifted layers.
func (l *lifts) spend(node string, now time.Time) {
	if l.words == nil {
		l.words = map[string]*bucket{}
	}
	maps.DeleteFunc(l.words, func(_ string, b *bucket) bool { return now.Sub(b.at) > time.Duration(toLift.burst)*toLift.refill })
	b := l.words[node]
	if b == nil {
		b = &bucket{}
		l.words[node] = b
	}
	b.wait(toLift, now)
}

// believable says whether a node may hold a position.
func (c *Core) believable(p model.Position) bool {
	return (p.Epoch <= c.epoch || p.Epoch-c.epoch <= farthest) &&
		(p.Revision <= c.revision || p.Revision-c.revision <= farthest) && p.Revision <= maxRevision
}

// outranked returns the highest position if it shows that another log was there before ours: it is of a higher epoch, or
// of ours, in which we alone commit, and beyond what we have committed.
func (c *Core) outranked(node string, positions map[model.Layer]model.Position) *Outranked {
	o := Outranked{Node: node}
	shown := false
	for _, p := range positions {
		if !c.believable(p) {
			continue
		}
		shown = shown || p.Epoch > c.epoch || p.Epoch == c.epoch && p.Revision > c.revision
		o.Epoch, o.Revision = max(o.Epoch, p.Epoch), max(o.Revision, p.Revision)
	}
	if !shown || !c.Leads() {
		return nil
	}
	return &o
}

// lift notes what a node holds at a position above ours. It returns such a layer, if there is one.
func (c *Core) lift(now time.Time, node string, positions map[model.Layer]model.Position) (lowest model.Layer, above bool) {
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(node)} {
		p, told := positions[l]
		ours := c.Position(l)
		if !told || !c.believable(p) || p.Epoch < ours.Epoch || p.Epoch == ours.Epoch && p.Revision <= ours.Revision {
			continue
		}
		if c.lifts.layers == nil {
			c.lifts.layers = map[model.Layer]lift{}
		}
		// While it stands by it is only that the log wasn't read that far.
		if c.Leads() && p.Revision > c.lifts.layers[l].revision && c.lifts.heeds(node, now) {
			c.lifts.layers[l] = lift{p.Revision, node}
		}
		lowest, above = l, true
	}
	return lowest, above
}

// liftDue returns when layers are to be lifted.
func (c *Core) liftDue() (due time.Time, ok bool) {
	return c.lifts.next, len(c.lifts.layers) > 0 && c.Leads() && c.settled && len(c.appending) == 0
}

// liftAll commits a revision without a change of each layer that stands below a node's.
func (c *Core) liftAll(now time.Time) Output {
	changes := make(map[model.Layer]*model.Change, len(c.lifts.layers))
	who := map[string]bool{}
	for l, lifted := range c.lifts.layers {
		changes[l] = &model.Change{}
		c.revision = max(c.revision, lifted.revision)
		who[lifted.node] = true
	}
	for node := range who {
		c.lifts.spend(node, now)
	}
	c.lifts = lifts{next: now.Add(liftEvery), words: c.lifts.words}
	c.commit(now, changes, func(model.Layer) causes { return causes{} })
	return c.append()
}
