// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/fleet"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// The bounds of standing by.
const (
	// A record of DELTA waits for the facts that are in it so long, and so many may wait. Beyond, it is taken as it is,
	// and what this compiler would have made of the facts is compared later, in full.
	factsLate  = 2 * time.Second
	mostHeld   = 4096
	mostQueued = 1 << 16 // facts
	// compareAgain is how long to wait at least, and for each row, until all is compared once more.
	compareAgain       = 10 * time.Second
	compareAgainPerRow = 40 * time.Microsecond
	// mostPause bounds that while rows differ and reading all anew hasn't helped.
	mostPause = 10 * time.Minute
)

// standby is what a core that stands by keeps beside the log: it compiles what the leader compiles, from the same facts
// at the same point of the log, and compares.
//
//	STATE ─► facts ──────────────┐ those up to the delta's state_sequence
//	                             ▼
//	DELTA ─► records ─► the delta's group begins ─► plan (what should come) ─► each delta: as planned?
//
// Invariant: while it is warm the rows are those compiled from c.compiled, but for what is still to come of plan.
type standby struct {
	facts   []factsAt
	queued  int // facts in facts
	records []heldRecord
	since   time.Time // the first of records has waited since then
	// released is the newest message of STATE that is in the state; at that which is in the rows.
	released, at uint64
	warm         bool
	plan         plan           // what is still to come of the revisions that are being committed
	partly       bool           // a layer of plan has come in part
	compare      time.Time      // not before then
	pause        time.Duration  // until the next time, while rows differ
	told         bool           // that they do
	wanted       model.Epoch    // to lead in, once the log was read up to it
	logged       model.Revision // the newest that the log had when leading ended
	led          model.Epoch    // this core led in it, and hasn't read of another since; 0 else
	ahead        bool           // rows are ahead of the log, which nobody knows to have them
	differs      string         // how the leader's rows were others than ours; empty if they weren't
}

// factsAt are facts up to a message of STATE.
type factsAt struct {
	sequence uint64
	facts    []*schemas.Fact
}

// heldRecord is a record of DELTA; once a part of a delta was read the last one has all of it.
type heldRecord struct {
	Record
	read  bool
	whole *model.Delta
}

// NewStandby returns a core that stands by and has read the log, as far as it was added to log.
func NewStandby(o Options, log *Fold) *Core {
	o = o.withDefaults()
	log.live = true
	log.recent.most = o.RecentBytes
	c := &Core{
		o: o, log: log, db: state.New(), aside: map[compile.Unit][]state.SetAside{},
		fleet: fleet.New(),
	}
	c.turns.rate = o.SyncRate
	c.standby.at = log.state
	c.adopt()
	return c
}

// adopt takes over what the log says.
func (c *Core) adopt() {
	c.layers, c.ids, c.recent, c.revision = c.log.layers, c.log.ids, c.log.recent, c.log.revision
	c.trusted = c.log.Whole() == nil && c.log.Checkpointed()
	c.last = committed{revision: c.log.revision, at: c.log.committed, causes: c.log.causes}
}

// Leads says whether this core leads.
func (c *Core) Leads() bool { return c.epoch > 0 }

// newestEpoch returns the epoch that this core leads in, or the newest in the log.
func (c *Core) newestEpoch() model.Epoch { return max(c.epoch, c.log.epoch) }

// Able says whether this core could lead: it has read STATE to its end.
func (c *Core) Able() bool { return c.caughtUp }

// Epoch returns the epoch that this core leads in; 0 if it stands by.
func (c *Core) Epoch() model.Epoch { return c.epoch }

// Log takes in a record of DELTA, in the log's order, in whatever role: a leader learns by it that it is deposed. Who
// checks seals does it before.
func (c *Core) Log(now time.Time, r Record) Output {
	if c.Leads() {
		if !endsEpoch(r, c.epoch) {
			return Output{} // our own
		}
		c.StandBy()
	}
	if c.standby.led > 0 && !endsEpoch(r, c.standby.led) {
		return Output{} // the rows have it
	}
	c.standby.led = 0
	if len(c.standby.records) == 0 {
		c.standby.since = now
	}
	c.standby.records = append(c.standby.records, heldRecord{Record: r})
	return c.follow(now)
}

// endsEpoch says whether a record is of another epoch that follows one. Until then the log takes only the messages of who
// leads in that one.
func endsEpoch(r Record, epoch model.Epoch) bool {
	var m schemas.Epoch
	return r.Subject == schemas.SubjectEpoch && proto.Unmarshal(r.Data, &m) == nil && model.Epoch(m.GetEpoch()) > epoch
}

// queue keeps facts until the leader says that they are in its rows. Until STATE was read once there is no order to keep.
func (c *Core) queue(now time.Time, sequence uint64, facts []*schemas.Fact) Output {
	s := &c.standby
	if c.log.hold != nil {
		s.released = max(s.released, sequence) // the leader compiles them once somebody resumes
	}
	if !c.caughtUp || sequence <= s.released {
		out := c.apply(now, facts) // no order to keep yet, or one that wasn't waited for
		out.Add(c.follow(now))
		return out
	}
	s.facts = append(s.facts, factsAt{sequence, facts})
	if s.queued += len(facts); s.queued > mostQueued {
		c.cold("too many facts wait for their delta")
		c.release(now, s.facts[len(s.facts)/2].sequence)
	}
	return c.follow(now)
}

// release takes the facts up to a message of STATE into the state.
func (c *Core) release(now time.Time, sequence uint64) {
	s := &c.standby
	n := 0
	for n < len(s.facts) && s.facts[n].sequence <= sequence {
		c.apply(now, s.facts[n].facts) // the leader tells what is set aside
		s.queued -= len(s.facts[n].facts)
		n++
	}
	s.facts = slices.Delete(s.facts, 0, n)
	s.released = max(s.released, sequence)
}

// follow takes in the records whose facts are there, and leads if that is all.
func (c *Core) follow(now time.Time) (out Output) {
	s := &c.standby
	for len(s.records) > 0 {
		r := &s.records[0]
		err := c.log.read(r)
		if r.whole != nil && c.caughtUp && r.whole.StateSequence > c.seen && len(s.records) < mostHeld && now.Sub(s.since) < factsLate {
			return out
		}
		s.since = now
		record := *r
		s.records = slices.Delete(s.records, 0, 1)
		switch {
		case err != nil:
			c.log.miss(record.Subject, err)
		case record.whole != nil:
			c.takeDelta(record.whole)
		case !record.read:
			err = c.log.Add(record.Subject, record.Data)
			if c.log.hold != nil {
				c.coldAgreed()
				c.countHeld(0)
			}
		}
		c.adopt()
		switch {
		case err != nil:
			c.cold(err.Error())
		case c.log.replaced:
			c.log.replaced = false
			c.cold("the leader's checkpoint has other rows than the log before it")
			s.at = c.log.state
		}
	}
	if c.log.kept && c.log.outlived {
		s.wanted = 0
		out.Reread = "DELTA was lost, and another compiler has begun it anew: that counts more than what this one remembers"
		return out
	}
	if s.wanted > 0 && c.log.epoch >= s.wanted {
		epoch := s.wanted
		s.wanted = 0
		if c.log.epoch == epoch {
			out.Add(c.lead(now, epoch))
		}
	}
	return out
}

// read reads a record that is a part of a delta, once. Where something is missing none is read before it is mended.
func (f *Fold) read(r *heldRecord) error {
	if domain, _ := DomainOf(r.Subject, r.Data); domain != seal.Delta || f.gap != nil || r.read {
		return nil
	}
	r.read = true
	f.open = nil
	f.bytesSince += len(r.Data)
	d, whole, err := f.assemble(r.Data)
	if whole {
		r.whole = &d
	}
	return err
}

func (s *standby) next() time.Time {
	if len(s.records) > 0 {
		return s.since.Add(factsLate)
	}
	return never
}

// never is when there is something to be done, if nothing comes.
var never = time.Unix(1<<35, 0)

func (s *standby) waiting(c *Core) string {
	switch {
	case !c.caughtUp:
		return "reading STATE to its end"
	case !c.complete():
		return c.incomplete()
	}
	return ""
}
