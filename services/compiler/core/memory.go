// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
)

// Memory is what a core leaves to the one that follows it in the same process, in case the streams were lost or restored
// meanwhile: then nothing else has it.
type Memory struct {
	state     uint64 // the newest message of STATE
	epoch     uint64 // the newest epoch of STATE
	committed time.Time
	revision  model.Revision
	// rows and ids as far as the log had them; nil if they were not all there. Those that were being appended are among
	// them: they are what comes next in any case. logged is the log's newest revision.
	rows   *Fold
	logged model.Revision
	// differed says that a leader's rows were others, and that it was told.
	differed bool
}

// Memory ends a core, and returns what the next one must know of it.
func (c *Core) Memory() Memory {
	c.StandBy()
	for s := &c.standby; len(s.records) > 0; {
		c.follow(s.since.Add(factsLate)) // their facts don't come any more
	}
	logged := c.last.revision
	if c.Ahead() {
		logged = c.standby.logged
	}
	if c.complete() { // how far a STATE before this one had come says nothing any more
		c.remembered.state, c.remembered.epoch = 0, 0
	}
	m := Memory{
		state: c.seen, epoch: c.stateEpoch, committed: c.last.at, revision: c.revision, logged: logged,
	}.and(c.remembered)
	m.differed = c.standby.told
	if c.log.gap == nil || c.log.kept {
		c.renumber() // a plan may have given ids that nobody was told
		m.rows = c.log
	}
	return m
}

// Begin returns what the next core begins with that has read the log: what that says, or, if it was lost or has gone back,
// what is remembered. Whoever leads with that begins by writing it to the log. What is remembered is given away. It never
// outranks rows that were said in a newer epoch: their leader may have taken away what the log lacks.
func (m *Memory) Begin(log *Fold) *Fold {
	rows := m.rows
	m.rows = nil
	if rows == nil || log.said() > rows.said() || !m.lost(log, rows) {
		return log
	}
	rows.gap, rows.kept = errLogLost, true
	rows.met.fold(log)
	rows.open, rows.parts, rows.raw, rows.ruling = log.open, wire.Assembler{}, nil, log.ruling
	rows.epoch, rows.revision, rows.checkpointed = max(rows.epoch, log.epoch), max(rows.revision, log.revision), time.Time{}
	return rows
}

// lost says whether a log lacks what it had of the rows that are remembered. Its newest message may be there: a stream that
// goes back under a leader takes what that was appending, in the place of what is lost.
func (m *Memory) lost(log, rows *Fold) bool {
	if log.revision < m.logged || log.gap != nil && log.revision <= m.revision {
		return true
	}
	for l, held := range rows.layers {
		if at := held.at.Revision; at <= m.logged && (log.layers[l] == nil || log.layers[l].at.Revision < at) {
			return true
		}
	}
	return false
}

var errLogLost = errors.New("DELTA was lost, or restored from a backup")

// said returns the newest epoch in which something about rows was said.
func (f *Fold) said() model.Epoch {
	newest := max(f.checkpointEpoch, f.deltas)
	for _, l := range f.layers {
		newest = max(newest, l.at.Epoch)
	}
	return newest
}

// Epoch returns the newest epoch that was read.
func (f *Fold) Epoch() model.Epoch { return f.epoch }

// Kept says whether the rows are not from the log, which was lost, but from memory.
func (f *Fold) Kept() bool { return f.kept }

// Remember tells a core that has just begun what the one before knew.
func (c *Core) Remember(m Memory) {
	m.rows = nil
	c.remembered, c.standby.told = m, m.differed
	c.RaiseTo(m.revision)
}

// restoreLog begins to lead with rows that the log has lost: it writes them to the log, before anything else. Their
// positions stay, so that nodes which are there have nothing to do. Another may have led meanwhile, whom some nodes have
// followed: an id of its that means nothing here isn't given before its quarantine is over.
func (c *Core) restoreLog(now time.Time) {
	c.log.gap, c.log.kept, c.trusted = nil, false, true
	c.log.restMet(now)
	c.revision++ // whoever follows sees by it that the checkpoint says something new
	c.beginCheckpoint(now)
}

func (f *Fold) memory() Memory {
	return Memory{state: f.state, committed: f.committed, revision: f.revision}
}

// and returns the higher of each number.
func (m Memory) and(o Memory) Memory {
	m.state, m.epoch, m.revision = max(m.state, o.state), max(m.epoch, o.epoch), max(m.revision, o.revision)
	if o.committed.After(m.committed) {
		m.committed = o.committed
	}
	return m
}
