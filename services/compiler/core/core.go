// SPDX-License-Identifier: Apache-2.0

// Package core is the leading compiler without its surroundings: facts, ticks, requests, reports and the log's
// answers go in; batches to append, messages to publish, answers and events come out.
//
// It promises that nothing is compiled before a complete list of all objects was announced and read to its end,
// so that an empty or lost STATE deletes nothing; that a node is told only what the log has accepted; that what
// is said depends on the present state and the folded log, not on how they came about; and that memory and work
// per event are bounded. A Core leads for one epoch: when an append fails, whatever the reason, it is thrown
// away, and the next one folds the log anew.
//
// It is pure. One goroutine calls it; Next says when it wants a Tick.
package core

import (
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/fleet"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// committed is the newest revision that the log has.
type committed struct {
	revision model.Revision
	at       time.Time
	causes   []*schemas.Cause
}

// Core is a compiler: it leads in an epoch, or stands by.
type Core struct {
	o     Options
	epoch model.Epoch // 0 while it stands by
	// log is what DELTA says; while leading, what it said when that began.
	log     *Fold
	standby standby
	above   model.Revision // what a node has seen
	// restored is set if STATE ended before what the log has taken in: it was removed, or restored from a backup. Then it
	// counts only once a watcher has certainly compared it since: it announces that while this compiler reads, or did so in
	// an epoch above all that this process has known, or later than the log's newest revision was committed.
	restored   time.Time
	stateEpoch uint64         // the newest in STATE
	state      *schemas.Epoch // that, as it stands there; nil if STATE has none
	doubt      bool           // whether STATE is still that which was read
	remembered Memory

	db       *state.DB
	caughtUp bool
	// compiled is the state that layers were compiled from, nil until the first compilation.
	compiled *state.Snapshot
	aside    map[compile.Unit][]state.SetAside

	// layers are ahead of the log while something is being appended, and equal to it else. They, ids and recent are log's.
	layers map[model.Layer]*layer
	ids    *ids.Allocator
	// engine has compiled the policies of compiled; nil until the first compilation.
	engine   *policy.Engine
	refused  []state.SetAside // policies beyond the limits
	streams  []*schemas.Fault // as they were told
	revision model.Revision
	last     committed
	trusted  bool // layers are what the log says from a checkpoint on, or were compiled
	settled  bool // the log has had all that was compiled, at least once

	pending   pending
	appending []step // the first is under way
	// Sequences of STATE, seen >= compiling >= done: the newest fact there is, the newest in what is being
	// appended, and the newest in what the log has.
	seen, compiling, done uint64
	stored                time.Time // when STATE stored seen
	unchanged             []uint64  // where was compiled without changing a row since the newest revision
	pace                  pace
	ease                  ease
	checkpoint            checkpointState
	recent                *recent
	pieces                encoded
	trees                 trees

	beat     time.Time // of the next heartbeat
	lastSent time.Time // what the newest one is dated
	named    int       // where the next one's list of node layers begins
	check    checkState
	waiting  []request
	patience patience
	turns    turns
	fleet    *fleet.Fleet
	nodesNew bool
	strange  strange
	lifts    lifts
	held     held
	later    []func(time.Time) Output // waits for the log to have what is being appended
	stats    Stats
}

// Stats counts work since the core began.
type Stats struct {
	Facts, Unchanged int
	Units            int // compiled
	// Layers answered by deltas, or by nothing; by digests, and few rows; by all rows, a piece at a time.
	SyncDeltas, SyncBranches, SyncPieces int
	SyncRefused                          int
	SyncBytes                            int
	Mismatches, Checks                   int
}

// New returns a core that leads in epoch, beginning with what the log says.
func New(o Options, log *Fold, epoch model.Epoch, now time.Time) *Core {
	c := NewStandby(o, log)
	c.lead(now, epoch)
	return c
}

// Facts takes in what STATE told, up to the message with that sequence.
func (c *Core) Facts(now time.Time, sequence uint64, facts ...*schemas.Fact) Output {
	c.seen = max(c.seen, sequence)
	if c.caughtUp && slices.ContainsFunc(facts, c.announces) {
		c.restored = time.Time{}
	}
	if !c.Leads() {
		return c.queue(now, sequence, facts)
	}
	out := c.apply(now, facts)
	out.Add(c.step(now))
	return out
}

// Stored says when STATE stored a message, before its fact, or its epoch, is told: numbers alone don't tell messages of a
// STATE that was restored from those that it had before.
func (c *Core) Stored(sequence uint64, at time.Time) {
	if sequence >= c.seen {
		c.stored = at
	}
}

// apply takes facts into the state.
func (c *Core) apply(now time.Time, facts []*schemas.Fact) (out Output) {
	changes, err := c.db.Apply(facts...)
	if err != nil {
		out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_WARNING, "fact_ignored", err.Error(), nil))
	}
	for _, s := range changes.SetAside {
		out.Events = append(out.Events, c.asideEvent(now, s))
	}
	out.Events = c.bound(now, out.Events)
	for _, touch := range changes.Touched {
		c.pending.add(touch, now)
	}
	c.nodesNew = c.nodesNew || hasNode(facts)
	c.stats.Facts += len(facts)
	c.stats.Unchanged += changes.Unchanged
	c.countHeld(len(facts) - changes.Unchanged)
	return out
}

// CaughtUp says that STATE was read to its end.
func (c *Core) CaughtUp(now time.Time) Output {
	c.caughtUp = true
	c.standby.released = c.seen
	known := c.log.memory().and(c.remembered)
	if c.remembered.epoch > 0 && c.stateEpoch >= c.remembered.epoch {
		known.state = c.remembered.state // the log's may be of a STATE that was lost
	}
	if c.seen < known.state {
		c.restored = known.committed
	}
	return c.step(now)
}

// Tick lets time pass. Call it at Next, or whenever.
func (c *Core) Tick(now time.Time) Output {
	if !c.Leads() {
		return c.follow(now)
	}
	out := c.step(now)
	out.Add(c.heartbeat(now))
	out.Add(c.sample(now))
	return out
}

// Next returns when the core wants a Tick.
func (c *Core) Next() time.Time {
	if !c.Leads() {
		return c.standby.next()
	}
	next := c.beat
	if due, ok := c.commitDue(); ok && due.Before(next) {
		next = due
	}
	if due, ok := c.liftDue(); ok && due.Before(next) {
		next = due
	}
	return next
}

// Waiting says what keeps the compiler from compiling; nothing if it compiles.
func (c *Core) Waiting() string {
	switch {
	case !c.Leads():
		return c.standby.waiting(c)
	case c.settled:
		return ""
	case c.compiled != nil:
		return "for DELTA to store what was compiled first"
	case !c.caughtUp:
		return "reading STATE to its end"
	case !c.complete():
		return c.incomplete()
	}
	return "to compile"
}

// complete says whether STATE is known to have everything, so that it may be compiled.
func (c *Core) complete() bool {
	if !c.caughtUp {
		return false
	}
	s := c.db.Snapshot()
	anew := c.remembered.epoch > 0 && s.Announced() > c.remembered.epoch
	return s.CompleteIn(c.stateEpoch, c.restored) || anew && s.CompleteIn(c.stateEpoch, time.Time{})
}

// announces says whether a watcher says by a fact that STATE is complete, in the epoch that goes on.
func (c *Core) announces(f *schemas.Fact) bool {
	return f.GetComplete().GetEpoch() > 0 && f.GetComplete().GetEpoch() >= c.stateEpoch
}

// StateEpoch takes in the epoch of STATE: what a watcher of an earlier one announced as complete no longer counts for who
// begins with STATE.
func (c *Core) StateEpoch(now time.Time, epoch *schemas.Epoch) Output {
	c.stateEpoch, c.state = max(c.stateEpoch, epoch.GetEpoch()), epoch
	return c.step(now)
}

// Doubt says whether reading STATE broke off so that nobody knows whether it goes on as what was read. Meanwhile leader and
// standby don't compare: facts in between may be missing.
func (c *Core) Doubt(doubt bool) { c.doubt = doubt }

func (c *Core) incomplete() string {
	if c.db.Snapshot().Complete() {
		return "for the watcher to compare STATE with its source and to announce it as complete, since STATE may be an old one: another watcher leads, or it was removed or restored; until then nothing is changed on any node"
	}
	return "for the watcher to announce that its list in STATE is complete; until then nothing is changed on any node"
}

// Stats returns what was counted so far.
func (c *Core) Stats() Stats { return c.stats }

// Snapshot returns the present state.
func (c *Core) Snapshot() *state.Snapshot { return c.db.Snapshot() }

// Position returns how far the layer should be: its newest revision that the log has, or is about to have.
func (c *Core) Position(l model.Layer) model.Position {
	if held := c.layers[l]; held != nil {
		return held.at
	}
	return model.Position{Epoch: c.newestEpoch()}
}

// Revision returns the newest revision.
func (c *Core) Revision() model.Revision { return c.revision }

// Rows returns the number of rows in all layers.
func (c *Core) Rows() (rows int) {
	for _, l := range c.layers {
		rows += l.rows.Len()
	}
	return rows
}

// Tables returns the number of rows by table.
func (c *Core) Tables() map[string]int {
	n := map[string]int{}
	for _, l := range c.layers {
		n["frontends"] += len(l.rows.Frontends)
		n["sets"] += len(l.rows.Sets)
		n["backends"] += len(l.rows.Backends)
		n["members"] += len(l.rows.Members)
		n["endpoints"] += len(l.rows.Endpoints)
		n["views"] += len(l.rows.Views)
		n["source_ranges"] += len(l.rows.SourceRanges)
		n["networks"] += len(l.rows.Networks)
		n["health_checks"] += len(l.rows.HealthChecks)
		n["nodes"] += len(l.rows.Nodes)
		n["selves"] += len(l.rows.Selves)
		n["rule_sets"] += len(l.rows.RuleSets)
		n["rules"] += len(l.rows.Rules)
		n["verdicts"] += len(l.rows.Verdicts)
		n["port_verdicts"] += len(l.rows.PortVerdicts)
		n["peers"] += len(l.rows.Peers)
		n["blocks"] += len(l.rows.Blocks)
	}
	return n
}

// Policies is what policies come to.
type Policies struct {
	InForce, Refused     int // Refused is part of InForce: they close what they select
	Identities, RuleSets int
}

// Policies counts what policies come to.
func (c *Core) Policies() (n Policies) {
	beyond := map[string]bool{}
	for _, s := range c.refused {
		beyond[objectName(s.Object)] = true
	}
	n.Refused = len(beyond)
	for p := range c.db.Snapshot().Policies() {
		n.InForce++
		if p.Refused != "" {
			n.Refused++
		}
	}
	if c.engine != nil {
		n.Identities, n.RuleSets = c.engine.Counts()
	}
	return n
}

func hasNode(facts []*schemas.Fact) bool {
	for _, f := range facts {
		if f.GetObject().GetKind() == state.KindNode {
			return true
		}
	}
	return false
}
