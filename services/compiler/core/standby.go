// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
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
	lacking      model.Revision // of the heartbeat before, if plan wasn't whole
	compare      time.Time
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
			out.Add(c.takeDelta(now, record.whole))
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

// takeDelta takes in a delta of the leader's, comparing it with what this core would have said.
func (c *Core) takeDelta(now time.Time, d *model.Delta) (out Output) {
	s := &c.standby
	if d.StateSequence > s.at {
		out.Add(c.endGroup(now))
		c.beginGroup(d)
	} else if d.StateSequence < s.released && s.warm {
		c.cold("the leader is behind in STATE")
	}
	s.at = max(s.at, d.StateSequence)
	if err := c.log.apply(*d); err != nil {
		c.log.miss(schemas.DeltaSubject(d.Layer.String()), err)
		c.cold(err.Error())
		return out
	}
	switch {
	case rollsBack(d):
		c.log.unsettled = true
		c.coldAgreed()
	case s.warm:
		c.expect(d)
	}
	return out
}

// endGroup is when all of the leader's revisions up to a message of STATE have come.
func (c *Core) endGroup(now time.Time) (out Output) {
	s := &c.standby
	if s.warm && len(s.plan.stages) > 0 {
		c.cold(fmt.Sprintf("after revision %d the leader left out changes of %d layers", c.revision, len(s.plan.stages[0])))
	}
	if c.log.unsettled {
		c.log.unsettled = false
		return out // the next ones are compiled again
	}
	// STATE keeps only the newest fact of each object: whoever was away lacks facts between those that it has, until it
	// has come to the end.
	if !s.warm && c.log.hold == nil && c.Able() && c.trusted && s.at == s.released && s.at <= c.seen && len(s.facts) == 0 && !now.Before(s.compare) {
		out = c.compareAll(now)
	}
	return out
}

// beginGroup takes in the facts that are in a delta, and works out what should come.
func (c *Core) beginGroup(d *model.Delta) {
	s := &c.standby
	if !c.caughtUp {
		return
	}
	if d.StateSequence < s.released {
		c.cold("the leader is behind in STATE")
		return
	}
	c.release(d.Committed, d.StateSequence)
	if s.warm && !c.pending.empty() {
		s.plan, _ = c.plan(d.Committed)
	}
}

// expect compares a delta, which the rows have, with what is planned.
func (c *Core) expect(d *model.Delta) {
	s := &c.standby
	if d.Change.Empty() {
		return // it lifts the layer above some node's
	}
	if len(s.plan.stages) == 0 || s.plan.stages[0][d.Layer] == nil {
		c.cold(fmt.Sprintf("the leader's revision %d changes layer %s, this compiler's doesn't", d.To, d.Layer))
		return
	}
	stage := s.plan.stages[0]
	planned := stage[d.Layer]
	large := size(planned) > c.o.MaxBatchBytes/2 // comes in several revisions
	same := planned.Put.Len() == d.Change.Put.Len() && planned.Remove.Len() == d.Change.Remove.Len()
	switch has := c.rows(d.Layer).Has(planned); {
	case has && (same || large):
		delete(stage, d.Layer)
		s.partly = false
	case large:
		s.partly = true
	default:
		c.cold(fmt.Sprintf("the leader's revision %d changes layer %s otherwise than this compiler", d.To, d.Layer))
		return
	}
	if len(stage) == 0 {
		s.plan.stages, s.plan.why = s.plan.stages[1:], s.plan.why[1:]
	}
}

// cold notes that the rows are no longer known to be those that this core would compile: it compares all when it can.
func (c *Core) cold(why string) {
	s := &c.standby
	if s.warm {
		s.differs = why
		c.renumber()
	}
	s.warm, s.plan, s.partly, c.compiled, c.engine = false, plan{}, false, nil, nil
}

// renumber has the ids that rows have, and no others: some may have been given that the leader gave otherwise.
func (c *Core) renumber() {
	sets, backends := c.ids.Quarantined()
	fresh := NewFold(c.log.quarantine).ids
	for _, held := range c.layers {
		fresh.Fold(&model.Tables{}, &model.Change{Put: model.Rows{
			Sets: slices.Collect(maps.Values(held.rows.Sets)), Backends: slices.Collect(maps.Values(held.rows.Backends)),
		}}, time.Time{})
	}
	fresh.Restore(sets, backends)
	c.log.ids, c.ids = fresh, fresh
}

// compareAll compiles everything and compares it with the leader's rows. If they are the same this core goes on from
// there, warm.
func (c *Core) compareAll(now time.Time) (out Output) {
	s := &c.standby
	s.compare = now.Add(max(compareAgain, time.Duration(c.Rows())*compareAgainPerRow))
	engine, snapshot := c.newEngine(), c.db.Snapshot()
	d := compile.Compare(snapshot, c.ids, engine, c.o.Settings, c.tables())
	c.stats.Checks++
	if len(d.Stages) > 0 {
		c.renumber()
		rows := 0
		for _, change := range inAll(d.Stages) {
			rows += change.Put.Len() + change.Remove.Len()
		}
		s.differs = fmt.Sprintf("at revision %d, with STATE up to message %d, the leader has %d other rows", c.revision, s.at, rows)
		c.stats.Mismatches++
		out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_ERROR, "standby_differs",
			s.differs+" than this compiler, which stands by: one of them is wrong; please report it with both compilers' logs", nil))
		return out
	}
	c.setAllAside(now, d.SetAside)
	c.refuse(now, d.Refused)
	c.engine, c.compiled, c.compiling, c.done, c.pending = engine, snapshot, s.released, s.released, pending{}
	s.warm, s.differs = true, ""
	return out
}

// Beat takes in the leader's heartbeat, whose seal was checked: which facts are in the rows, though they changed none.
func (c *Core) Beat(now time.Time, m *schemas.Heartbeat) (out Output) {
	s := &c.standby
	if c.Leads() || len(s.records) > 0 || m.GetEpoch() != uint64(c.log.epoch) || m.GetRevision() != uint64(c.revision) ||
		m.GetStateSequence() == 0 || m.GetStateSequence() > c.seen || m.GetStateSequence() < s.at || !c.caughtUp {
		return out
	}
	if bad := c.disagrees(m); bad != "" {
		c.log.miss(schemas.SubjectHeartbeat, fmt.Errorf("%s", bad))
		c.cold(bad)
		c.adopt()
		return out
	}
	if s.warm && len(s.plan.stages) > 0 {
		if s.lacking != c.revision { // more of this revision may be under way; the next heartbeat knows
			s.lacking = c.revision
			return out
		}
		c.cold(fmt.Sprintf("after revision %d the leader left out changes", c.revision))
	}
	s.at = m.GetStateSequence()
	if s.at < s.released {
		return out
	}
	c.release(now, s.at)
	if s.warm && !c.pending.empty() {
		if p, _ := c.plan(c.last.at); len(p.stages) > 0 {
			c.cold(fmt.Sprintf("after revision %d this compiler changes %d layers, the leader none", c.revision, len(p.stages[0])))
		}
		c.compiling = s.at
	}
	out.Add(c.endGroup(now))
	return out
}

// disagrees says which layer's digest is another than the leader says.
func (c *Core) disagrees(m *schemas.Heartbeat) string {
	positions, err := wire.PositionsFromProto(m.GetPositions())
	if err != nil {
		return ""
	}
	for l, told := range positions {
		if is := c.Position(l); is.Revision == told.Revision && is.Digest != told.Digest {
			return fmt.Sprintf("layer %s at revision %d has digest %s here, the leader says %s", l, is.Revision, is.Digest, told.Digest)
		}
	}
	return ""
}

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
	c.epoch, c.beat, c.settled = epoch, now, false
	c.log.live = false
	c.pace = newPace(c.o.Burst, c.o.PerMessage, now)
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

// Agrees says whether all rows of the leader's are known to be those that this core, standing by, would have compiled.
func (c *Core) Agrees() bool { return c.standby.warm && c.standby.differs == "" }

// Digest returns one digest of all layers and how far each is, to compare replicas by.
func (c *Core) Digest() (d model.Digest) {
	for l, held := range c.layers {
		b := binary.BigEndian.AppendUint64([]byte(l.String()), uint64(held.at.Revision))
		hash := sha256.Sum256(append(b, held.at.Digest.Bytes()...))
		d[0] += binary.BigEndian.Uint64(hash[:])
		d[1] += binary.BigEndian.Uint64(hash[8:])
	}
	return d
}
