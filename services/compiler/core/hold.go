// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// A Hold is part of what DELTA says, like rows: every replica that has read it compiles nothing, until a Hold that is over.
// While it is in force the rows are those of the log, c.compiled is nil, and the state goes on.

// Hold returns what is in force since somebody rolled back; nil if this compiler compiles.
func (c *Core) Hold() *schemas.Hold {
	if c.log.hold == nil {
		return nil
	}
	m := proto.CloneOf(c.log.hold)
	m.Changes, m.Seal = c.held.changes, nil
	return m
}

// held counts what waits while nothing is compiled.
type held struct {
	by      *schemas.Hold
	changes uint64
}

// count adds changes of objects that the rows haven't had.
func (c *Core) countHeld(changes int) {
	h := c.log.hold
	if h != c.held.by {
		if c.held.by == nil || h == nil {
			c.held.changes = 0
		}
		c.held.by = h
	}
	if h != nil && c.seen > h.GetStateSequence() {
		c.held.changes += uint64(changes)
	}
}

// ready says whether the rows are what nodes should hold: compiled, or held by somebody.
func (c *Core) ready() bool { return c.compiled != nil || c.log.hold != nil }

// addHold takes in that somebody has rolled back, or has resumed. One that was said before what is known, of an earlier
// epoch or an earlier time, is an old one that was put back: it neither stops nor resumes anything.
func (f *Fold) addHold(data []byte) error {
	m := &schemas.Hold{}
	if err := wire.Unmarshal(data, m); err != nil {
		return err
	}
	since := m.GetSince().AsTime()
	if model.Epoch(m.GetEpoch()) < f.said() || !since.After(f.holdSaid) {
		return nil
	}
	f.open, f.holdSaid, m.Seal = nil, since, nil
	if f.hold = m; m.GetOver() {
		f.hold = nil
	}
	return nil
}

// holdRecord is what DELTA keeps of a hold. It is dated after all before it, whatever clocks say.
func (c *Core) holdRecord(m *schemas.Hold) Record {
	since := m.GetSince().AsTime()
	if !since.After(c.log.holdSaid) {
		since = c.log.holdSaid.Add(time.Nanosecond)
	}
	c.log.holdSaid = since
	m.Epoch, m.Since = uint64(c.epoch), timestamp(since)
	return Record{schemas.SubjectHold, c.o.Signer.SealOne(seal.Hold, encode(m))}
}

// Resume answers a ResumeRequest: everything is compiled anew, and how it differs is committed.
func (c *Core) Resume(now time.Time, to any, data []byte) Output {
	r := &schemas.ResumeRequest{}
	if err := wire.Unmarshal(data, r); err != nil {
		return resumed(to, false, "This is no ResumeRequest: "+err.Error())
	}
	h := c.log.hold
	switch {
	case len(c.appending) > 0:
		return c.afterwards(func(now time.Time) Output { return c.Resume(now, to, data) }, func() Output {
			return resumed(to, false, "the log is slow and many are waiting: ask again later")
		})
	case !c.Leads():
		return resumed(to, false, "this compiler doesn't lead any more: ask again")
	case h == nil:
		return resumed(to, false, "nothing is held: the compiler compiles all changes")
	}
	waited := now.Sub(h.GetSince().AsTime()).Round(time.Second)
	text := fmt.Sprintf("%s has resumed after %s at revision %d, which %s rolled back to: all is compiled anew, with %d changes that waited",
		teller(r.GetBy()), waited, h.GetRevision(), teller(h.GetBy()), c.held.changes)
	record := c.holdRecord(&schemas.Hold{Revision: h.GetRevision(), By: r.GetBy(), Since: timestamp(now), Over: true})
	c.log.hold, c.compiled, c.settled = nil, nil, false
	c.countHeld(0)
	c.appending = append(c.appending, step{records: []Record{record}, bytes: len(record.Data), messages: 1})
	c.later = append(c.later, func(now time.Time) Output {
		out := resumed(to, true, text)
		out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_WARNING, "resumed", text, nil))
		return out
	})
	return c.append()
}

func resumed(to any, done bool, text string) Output {
	return Output{Answers: []Answer{one(to, &schemas.ResumeReply{Done: done, Text: text})}}
}

// maxLater bounds what waits for the log.
const maxLater = 64

// afterwards does something once the log has what is being appended.
func (c *Core) afterwards(do func(time.Time) Output, refuse func() Output) Output {
	if len(c.later) >= maxLater {
		return refuse()
	}
	c.later = append(c.later, do)
	return Output{}
}

// runLater does what has waited for the log. What appends again keeps the others waiting.
func (c *Core) runLater(now time.Time) (out Output) {
	for len(c.later) > 0 && len(c.appending) == 0 {
		do := c.later[0]
		c.later = c.later[1:]
		out.Add(do(now))
	}
	return out
}

// teller is who asked, as they say.
func teller(by string) string {
	if by == "" {
		return "somebody"
	}
	return fmt.Sprintf("%.64s", by)
}

// coldAgreed ends comparing without blaming anyone: the leader's rows are those that somebody wanted.
func (c *Core) coldAgreed() {
	differs := c.standby.differs
	c.cold("")
	c.standby.differs = differs
	if c.log.hold != nil {
		for _, f := range c.standby.facts {
			c.apply(c.last.at, f.facts)
		}
		c.standby.facts, c.standby.queued, c.standby.released = nil, 0, max(c.standby.released, c.seen)
	}
}

// rollsBack says whether a delta is a part of a rollback.
func rollsBack(d *model.Delta) bool {
	return len(d.Causes) > 0 && d.Causes[0].Kind == causeRollback
}
