// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Lead leads in an epoch that was taken, as soon as the log was read up to it.
func (c *Core) Lead(now time.Time, epoch model.Epoch) Output {
	c.standby.wanted = epoch
	return c.follow(now)
}

// lead begins to lead: the log was read to its end, and nobody else can write to it.
func (c *Core) lead(now time.Time, epoch model.Epoch) (out Output) {
	s := &c.standby
	s.wanted = 0
	if s.partly {
		c.cold("a revision of the leader's is there in part")
	}
	if missing := c.log.Whole(); missing != nil && !c.log.kept {
		out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_WARNING, "log_lost", fmt.Sprintf(
			"DELTA can't be folded, so all rows are compiled anew and nodes get a snapshot each, which loses no connection: %v", missing), nil))
		c.log.Lose()
		c.cold(missing.Error())
		c.adopt()
	}
	c.log.RaiseTo(c.above)
	c.revision = c.log.revision
	c.epoch, c.beat, c.settled, c.unchanged = epoch, now, false, nil
	c.log.live = false
	c.pace, c.ease = newPace(c.o.Burst, c.o.PerMessage, now), ease{}
	c.checkpoint = checkpointState{last: c.log.checkpointed, bytes: c.log.bytesSince, size: c.log.checkpointBytes, key: c.log.checkpointKey}
	rest := s.plan
	s.plan = plan{}
	if c.log.kept {
		out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_WARNING, "log_restored", fmt.Sprintf(
			"%v: this compiler writes all rows that it holds to the log again, and goes on from there; nodes change nothing", c.log.gap), nil))
		c.restoreLog(now)
	}
	c.commitPlan(now, rest) // what the one before didn't come to
	out.Add(c.append())
	for _, f := range s.facts {
		out.Add(c.apply(now, f.facts))
	}
	s.facts, s.queued, s.released = nil, 0, c.seen
	out.Add(c.step(now))
	return out
}

// RaiseTo has revisions go on above what a node has seen, once this core leads.
func (c *Core) RaiseTo(revision model.Revision) { c.above = max(c.above, revision) }

// Ahead says that this core ended leading while something was being appended: its rows are ahead of the log, and nobody
// knows whether the log has them. A new core must begin from the log; this one is of no use any more.
func (c *Core) Ahead() bool { return c.standby.ahead }

// StandBy ends leading.
func (c *Core) StandBy() {
	if !c.Leads() {
		c.standby.wanted = 0
		return
	}
	c.standby.warm, c.standby.logged = c.compiled != nil, c.last.revision
	c.standby.released, c.standby.at, c.standby.ahead = c.seen, c.compiling, len(c.appending) > 0
	f := c.log
	f.live, f.epoch, f.revision, f.state = true, c.epoch, c.revision, c.compiling
	f.committed, f.causes = c.last.at, c.last.causes
	f.checkpointed, f.bytesSince, f.checkpointBytes, f.checkpointKey = c.checkpoint.last, c.checkpoint.bytes, c.checkpoint.size, c.checkpoint.key
	c.standby.led, c.epoch, c.later = c.epoch, 0, nil
}
