// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/steps"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
)

// step is one batch for the log with what is to be done once it is accepted: one revision, or a part of a
// checkpoint.
type step struct {
	records []Record
	// bytes and messages are those of entries and records, before they are sealed.
	bytes, messages int

	// entries are a revision's deltas. Sealed together they become records and what is published.
	entries []entry
	publish []Message
	// more is stored after them.
	more   []Record
	commit *Commit
	is     committed
	// checkpoint is set on the last part of one.
	checkpoint bool
}

// commitDue returns when what is pending is to be committed.
func (c *Core) commitDue() (due time.Time, ok bool) {
	if len(c.appending) > 0 || !c.Leads() {
		return due, false
	}
	if c.log.hold != nil {
		return due, false
	}
	if c.compiled == nil {
		return time.Time{}, c.complete()
	}
	if c.pending.empty() {
		return due, false
	}
	due = c.pending.last.Add(c.o.Quiet)
	if latest := c.pending.first.Add(c.o.Latest); due.After(latest) {
		due = latest
	}
	messages := 1
	if len(c.pending.policies) > 0 {
		messages = mostStages
	}
	if next := c.pace.next(messages); due.Before(next) {
		due = next
	}
	return due, true
}

// step commits what is due, and else begins a checkpoint if that is.
func (c *Core) step(now time.Time) (out Output) {
	if !c.Leads() {
		return out
	}
	if due, ok := c.commitDue(); ok && !due.After(now) {
		if c.compiled == nil {
			out.Add(c.compileAll(now))
		} else {
			out.Add(c.compilePending(now))
		}
	}
	if c.ready() && len(c.appending) == 0 {
		c.settled = true
		switch h := c.log.hold; {
		case h != nil:
			c.compiling, c.done = h.GetStateSequence(), h.GetStateSequence()
		case c.pending.empty():
			c.compiling, c.done = c.seen, c.seen
		}
	}
	if due, ok := c.liftDue(); ok && !due.After(now) {
		out.Add(c.liftAll(now))
	}
	if len(c.appending) == 0 && c.checkpointDue(now) {
		c.beginCheckpoint(now)
		out.Add(c.append())
	}
	return out
}

// mostUnchanged bounds how often compiling without changing a row is told of.
const mostUnchanged = 64

// plan is what a compilation comes to: stages to be committed one after the other, with why each layer changes.
type plan struct {
	stages []compile.Stage
	why    []map[model.Layer]causes
}

// compilePending compiles what was touched, and commits it.
func (c *Core) compilePending(now time.Time) Output {
	p, out := c.plan(now)
	c.commitPlan(now, p)
	out.Add(c.append())
	return out
}

func (c *Core) commitPlan(now time.Time, p plan) {
	for i, stage := range p.stages {
		c.commit(now, stage, func(l model.Layer) causes { return p.why[i][l] })
	}
}

// plan compiles what was touched.
func (c *Core) plan(now time.Time) (p plan, out Output) {
	before, after := c.compiled, c.db.Snapshot()
	c.ids.Advance(now)
	c.engine.CountFrom(c.log.identity)
	work := c.pending.work()
	d := compile.Update(before, after, c.ids, c.engine, c.o.Settings, work)
	c.stats.Units += d.Units
	if c.compiled, c.compiling = after, c.seen; !c.Leads() {
		c.compiling = c.standby.released
	}
	out.Events = append(out.Events, c.setAsideOf(now, d.SetAside)...)
	if !work.Policy.Empty() {
		out.Events = append(out.Events, c.refuse(now, d.Refused)...)
	}
	out.Events = c.bound(now, out.Events)
	seen := c.pending.addresses(before, after)
	p.stages = d.Stages
	for i, stage := range d.Stages {
		all := map[model.Layer]causes{}
		for l := range stage {
			var why []*causes
			if i == 0 {
				why = c.pending.ofUnits(d.Changed[l])
			}
			all[l] = gather(append(why, c.pending.ofPolicy(stage[l], seen)...))
		}
		p.why = append(p.why, all)
	}
	c.pending = pending{}
	if len(p.stages) == 0 && c.Leads() {
		c.unchanged = append(c.unchanged, c.compiling)
		c.unchanged = c.unchanged[max(0, len(c.unchanged)-mostUnchanged):]
	}
	return p, out
}

// compileAll compiles everything and commits how it differs from the rows there are: at the start, where
// usually nothing does, and when an incremental compilation went wrong.
func (c *Core) compileAll(now time.Time) (out Output) {
	c.compiled, c.compiling = c.db.Snapshot(), c.seen
	c.ids.Advance(now)
	c.engine = c.newEngine()
	d := compile.Compare(c.compiled, c.ids, c.engine, c.o.Settings, c.tables())
	c.stats.Units += d.Units
	out.Events = append(out.Events, c.setAllAside(now, d.SetAside)...)
	out.Events = c.bound(now, append(out.Events, c.refuse(now, d.Refused)...))
	why := map[model.Layer]causes{}
	for l, change := range inAll(d.Stages) {
		reasons := c.causesOf(l, change)
		if !c.trusted {
			reasons.forgetTriggers()
		}
		why[l] = reasons
	}
	for _, stage := range d.Stages {
		c.commit(now, stage, func(l model.Layer) causes { return why[l] })
	}
	c.pending, c.trusted = pending{}, true
	out.Add(c.append())
	return out
}

// newEngine returns one that goes on counting identities where the log has come to.
func (c *Core) newEngine() *policy.Engine {
	engine := policy.New(c.o.Settings.Policy)
	engine.CountFrom(c.log.identity)
	return engine
}

// tables returns the present rows of all layers.
func (c *Core) tables() map[model.Layer]*model.Tables {
	all := make(map[model.Layer]*model.Tables, len(c.layers))
	for l, held := range c.layers {
		all[l] = held.rows
	}
	return all
}

func (c *Core) rows(l model.Layer) *model.Tables {
	if held := c.layers[l]; held != nil {
		return held.rows
	}
	return &model.Tables{}
}

// commit makes revisions of changes: one, unless they are more than fit a batch. Then the cluster layer is cut
// where each part is a whole on its own (see cut), and nodes' layers, which don't depend on each other, are
// dealt out. Each revision is one batch.
func (c *Core) commit(now time.Time, changes map[model.Layer]*model.Change, why func(model.Layer) causes) {
	var open *step
	most := 0
	for _, l := range inOrder(changes) {
		reasons := why(l)
		for i, change := range pieces(c.rows(l), changes[l], c.o.MaxBatchBytes/2) {
			if open == nil || i > 0 || c.full(open) {
				open = c.beginRevision(now)
			}
			parts := c.commitLayer(open, now, l, change, reasons)
			if l == model.ClusterLayer {
				most += parts
			}
		}
	}
	if len(changes) > 0 {
		c.pace.spend(max(most, 1)+own(changes), now)
	}
}

// pieces cuts a change of some rows if it is too large for a batch. What policies say is first taken apart into steps
// that stay whole when they are cut: a number that means another class from now on must not do so for addresses whose
// rows are in the next piece.
func pieces(held *model.Tables, change *model.Change, maxBytes int) (list []*model.Change) {
	if size(change) <= maxBytes {
		return []*model.Change{change}
	}
	if len(change.Put.Verdicts)+len(change.Remove.Verdicts) == 0 || len(held.Verdicts) == 0 {
		return cut(change, maxBytes)
	}
	wanted := held.Clone()
	wanted.Apply(change, model.Digest{})
	for _, step := range steps.Between(held, wanted) {
		if !step.Empty() {
			list = append(list, cut(step, maxBytes)...)
		}
	}
	return list
}

// own is how many messages a node gets for its own layer.
func own(changes map[model.Layer]*model.Change) int {
	if changes[model.ClusterLayer] != nil && len(changes) > 1 {
		return 1
	}
	return 0
}

func (c *Core) full(s *step) bool {
	return s.messages+10 > c.o.MaxBatch || s.bytes > c.o.MaxBatchBytes/2
}

func (c *Core) beginRevision(now time.Time) *step {
	c.revision++
	c.appending = append(c.appending, step{
		commit: &Commit{Revision: c.revision},
		is:     committed{revision: c.revision, at: now},
	})
	return &c.appending[len(c.appending)-1]
}

// commitLayer adds a layer's delta to a revision and returns how many messages it is.
func (c *Core) commitLayer(s *step, now time.Time, l model.Layer, change *model.Change, why causes) int {
	held := c.layers[l]
	if held == nil {
		held = newLayer(l)
		c.layers[l] = held
	}
	was := held.at
	c.ids.Advance(now) // as whoever follows does
	c.ids.Fold(held.rows, change, now)
	c.log.identity = newestIdentity(c.log.identity, &change.Put)
	digest := held.apply(change)
	held.at, held.changed = model.Position{Epoch: c.epoch, Revision: c.revision, Digest: digest}, now
	messages, err := wire.EncodeDelta(model.Delta{
		Epoch: c.epoch, Layer: l, From: was.Revision, To: c.revision, Change: *change, DigestAfter: digest,
		Causes: why.list, CausesLeftOut: why.leftOut, Committed: now, StateSequence: c.compiling,
		UnchangedAt: c.unchanged,
	}, c.o.MaxMessage)
	c.unchanged = nil
	if err != nil {
		panic(fmt.Sprintf("core: a delta of %d rows was cut to fit, but doesn't: %v", change.Put.Len()+change.Remove.Len(), err))
	}
	e := newEntry(l, was, now, messages)
	s.entries = append(s.entries, e)
	s.bytes, s.messages = s.bytes+e.bytes, s.messages+len(messages)
	s.commit.Layers++
	s.commit.Rows += change.Put.Len() + change.Remove.Len()
	if oldest := why.oldest(); s.commit.Oldest.IsZero() || (!oldest.IsZero() && oldest.Before(s.commit.Oldest)) {
		s.commit.Oldest = oldest
	}
	if room := model.MaxCauses - len(s.is.causes); room > 0 {
		s.is.causes = append(s.is.causes, causesToProto(why.list[:min(room, len(why.list))])...)
	}
	return len(messages)
}

// append asks for the first batch to be stored.
func (c *Core) append() (out Output) {
	if len(c.appending) > 0 {
		first := &c.appending[0]
		first.seal(c.o.Signer)
		out.Append = first.records
	}
	return out
}

// Appended says that the log has stored what Append asked for. If it can't be, or may not have been, throw the
// core away and fold the log anew.
func (c *Core) Appended(now time.Time) (out Output) {
	done := c.appending[0]
	c.appending = slices.Delete(c.appending, 0, 1)
	out.Publish = done.publish
	c.checkpoint.bytes += done.bytes
	for _, e := range done.entries {
		c.recent.add(e)
	}
	if done.commit != nil {
		out.Commits = []Commit{*done.commit}
		c.last = done.is
	}
	if done.checkpoint {
		c.last.revision = c.revision // which may be above the last commit's: whoever follows has it from the checkpoint
		c.checkpoint = checkpointState{last: now, size: c.checkpoint.writing, key: c.checkpoint.sealing}
	}
	if len(c.appending) > 0 {
		out.Add(c.append())
		return out
	}
	c.done = c.compiling
	waiting := c.waiting
	c.waiting = nil
	for _, r := range waiting {
		out.Add(c.answer(now, r))
	}
	out.Add(c.runLater(now))
	out.Add(c.step(now))
	return out
}

// inOrder returns the layers that change in the order in which nodes are to hear of it: nodes' layers that get views
// before the cluster layer, whose frontends may begin to count on them (a traffic policy Local without a local view
// drops), or endpoints, which may be its new backends (where there are policies an unknown pod passes nothing); nodes'
// layers that get neither after it, since it may end to count on the views that they lose.
func inOrder(changes map[model.Layer]*model.Change) []model.Layer {
	turn := func(l model.Layer) int {
		switch {
		case l == model.ClusterLayer:
			return 1
		case len(changes[l].Put.Views) > 0, len(changes[l].Put.Endpoints) > 0 && len(changes[l].Remove.Views) == 0:
			return 0
		}
		return 2
	}
	return slices.SortedFunc(maps.Keys(changes), func(a, b model.Layer) int {
		return cmp.Or(cmp.Compare(turn(a), turn(b)), compareLayers(a, b))
	})
}

// compareLayers puts the cluster layer before those of nodes.
func compareLayers(a, b model.Layer) int { return cmp.Compare(a.String(), b.String()) }
