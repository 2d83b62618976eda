// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// As in the service.
const (
	// raiseEvery is how often a node's word ends a term at most.
	raiseEvery = time.Minute
	// readBy is how long the log may take to be read up to a term's epoch.
	readBy = 10 * time.Second
)

// compiler is the shell of a compiler. It runs sessions: each reads DELTA and STATE, stands by, and may come to lead.
type compiler struct {
	*process
	bus     *wires
	state   *stream
	delta   *stream
	options core.Options
	seals   *seals
	replica *replica
	above   core.Outranked
	raised  time.Time
	current *compiling
	memory  core.Memory
}

// compiling is one time of knowing what DELTA and STATE say, as a session of the service.
type compiling struct {
	*compiler
	core          *core.Core
	over          bool
	log, facts    *reader
	subscriptions []*subscription
	wakes         int // of the newest planned Tick
	shape         lead.Shape
	shaped        time.Time
	epoch, before uint64 // of DELTA, and of STATE's epoch's message, at the last look
	// known is the newest epoch of STATE that was read, doubted what it was when STATE wasn't known to be the same any more.
	known, doubted string
	unsure         bool
	saidSince      int // how often the epoch was said since there was doubt

	fence  *fence // of the term that runs; nil while it stands by
	by     time.Time
	status *subscription
}

func newCompiler(c *cluster, name string) *compiler {
	co := &compiler{process: &process{world: c.world, name: name}, bus: c.bus, state: c.state, delta: c.delta, options: c.options, seals: &c.seals}
	co.options.Holder = name
	co.replica = &replica{
		process: co.process, bus: c.bus, stream: c.delta, subject: schemas.SubjectEpoch, service: "compiler",
		begin: co.leads, end: co.standBy, above: func() uint64 { return uint64(co.above.Epoch) },
	}
	return co
}

func (c *compiler) run() {
	c.start()
	c.current, c.above, c.raised, c.memory = nil, core.Outranked{}, time.Time{}, core.Memory{}
	c.replica.run()
	c.session()
}

// session begins one: fold the log, then follow it and STATE.
func (c *compiler) session() {
	t := &compiling{compiler: c}
	c.current = t
	c.delta.ensure(c.process, func(err error) {
		if err != nil || t.over {
			t.end(err)
			return
		}
		c.state.ensure(c.process, func(err error) {
			if err != nil || t.over {
				t.end(err)
				return
			}
			c.delta.read(c.process, "", time.Time{}, t.fold)
		})
	})
}

func (t *compiling) fold(records []record, err error) {
	if err != nil || t.over {
		t.end(err)
		return
	}
	log, last := core.NewFold(t.options.Quarantine), record{}
	for _, r := range records {
		last = r
		if !t.believes(r) {
			continue
		}
		if err := log.Add(r.subject, r.data); err != nil {
			t.note("a message of DELTA leaves a gap:", err.Error())
		}
	}
	log = t.memory.Begin(log)
	if log.Kept() {
		t.note("goes on from memory, at revision", uint64(log.Revision()))
		t.injected["log kept in memory"]++
	}
	t.above.Epoch = max(t.above.Epoch, log.Epoch())
	t.core = core.NewStandby(t.options, log)
	t.core.Remember(t.memory)
	t.listen()
	t.log = t.delta.follow(t.process, "", last, t.logged, func() {}, func(err error) { t.end(fmt.Errorf("following DELTA: %w", err)) })
	t.facts = t.state.follow(t.process, "", record{}, t.told,
		func() { t.do(t.core.CaughtUp(t.clock())) }, func(err error) { t.end(fmt.Errorf("following STATE: %w", err)) })
	t.log.unsure = func() error { return bus.ErrReplaced }
	t.facts.unsure = t.doubt
	t.after(lookEvery, t.look)
	t.wake()
}

func (t *compiling) doubt() error {
	if !t.unsure {
		t.unsure, t.doubted = true, t.known
		t.core.Doubt(true)
	}
	t.saidSince = 0
	if string(t.state.newest(schemas.SubjectStateEpoch).data) != t.doubted {
		return errStateReplaced
	}
	return nil
}

var errStateReplaced = errors.New("STATE has another epoch since reading it broke off")

// listen answers requests, and hears reports and heartbeats.
func (t *compiling) listen() {
	hear := func(subject, queue string, take func(message)) {
		t.subscriptions = append(t.subscriptions, t.bus.subscribe(t.process, subject, queue, take))
	}
	hear(schemas.SubjectAllSyncs, "compiler", func(m message) { t.do(t.core.Sync(t.clock(), m.reply, m.data)) })
	hear(schemas.SubjectAllApplied, "", t.applied)
	hear(schemas.SubjectHeartbeat, "", func(m message) {
		beat := &schemas.Heartbeat{}
		body, err := t.seals.open(seal.Heartbeat, m.data)
		if err == nil && proto.Unmarshal(body, beat) == nil {
			t.do(t.core.Beat(t.clock(), beat))
		}
	})
}

func (t *compiling) applied(m message) {
	node, err := schemas.NodeOfSubject(m.subject)
	if err != nil {
		panic("sim: " + err.Error())
	}
	out, err := t.core.Applied(t.clock(), node, m.data)
	if err != nil {
		t.note("ignores a report:", err.Error())
	}
	t.do(out)
}

// logged takes what DELTA has.
func (t *compiling) logged(records []record) {
	for _, r := range records {
		if !t.over && t.believes(r) {
			t.do(t.core.Log(t.clock(), core.Record{Subject: r.subject, Data: r.data}))
		}
	}
}

// believes says whether a record of DELTA is sealed as what it is.
func (t *compiling) believes(r record) bool {
	domain, sealed := core.DomainOf(r.subject, r.data)
	if !sealed {
		return true
	}
	_, err := t.seals.open(domain, r.data)
	return err == nil
}

// told takes what STATE has. While it stands by each fact has its place in the log.
func (t *compiling) told(records []record) {
	var facts []*schemas.Fact
	var sequence uint64
	give := func() {
		if len(facts) > 0 {
			t.do(t.core.Facts(t.clock(), sequence, facts...))
			facts = nil
		}
	}
	for _, r := range records {
		if r.subject == schemas.SubjectStateEpoch {
			var epoch schemas.Epoch
			if proto.Unmarshal(r.data, &epoch) == nil {
				if t.known = string(r.data); t.unsure && t.doubted != t.known {
					t.end(errStateReplaced)
					return
				}
				give()
				if t.saidSince++; t.unsure && t.saidSince == 2 {
					t.unsure = false
					t.core.Doubt(false)
				}
				t.core.Stored(r.sequence, r.at)
				t.do(t.core.Facts(t.clock(), r.sequence))
				t.do(t.core.StateEpoch(t.clock(), &epoch))
			}
			continue
		}
		fact := &schemas.Fact{}
		body, err := t.seals.open(seal.Fact, r.data)
		if err != nil || proto.Unmarshal(body, fact) != nil {
			t.note("a message of STATE is no fact:", r.subject)
			continue
		}
		t.core.Stored(r.sequence, r.at)
		if t.core.Able() && !t.core.Leads() {
			t.do(t.core.Facts(t.clock(), r.sequence, fact))
			continue
		}
		facts, sequence = append(facts, fact), r.sequence
	}
	give()
}

// leads has the session that runs lead, as soon as the log was read up to the epoch.
func (c *compiler) leads(f *fence) {
	t := c.current
	if t == nil || t.core == nil || t.fence != nil {
		c.replica.ended(f, errors.New("it is reading the log again"))
		return
	}
	t.core.RaiseTo(c.above.Revision)
	t.fence, t.by = f, t.clock().Add(readBy)
	t.status = t.bus.subscribe(t.process, schemas.SubjectStatus, "", func(m message) { t.do(t.core.Status(t.clock(), m.reply, m.data)) })
	t.do(t.core.Lead(t.clock(), model.Epoch(f.epoch)))
}

// standBy has the term end.
func (c *compiler) standBy(why error) {
	if c.current != nil {
		c.current.endTerm(why)
	}
}

// endTerm stands by again, unless rows are ahead of the log: then it is read again.
func (t *compiling) endTerm(why error) {
	if t.fence == nil {
		return
	}
	f := t.fence
	t.fence = nil
	t.core.StandBy()
	t.status.ended = true
	t.note("stands by again:", fmt.Sprint(why))
	t.replica.ended(f, why)
	if t.core.Ahead() {
		t.end(fmt.Errorf("leading ended while something was being appended: %w", why))
	}
}

// overdue ends a term of which the log doesn't tell, and one that the log says is over.
func (t *compiling) overdue() {
	switch {
	case t.fence == nil:
	case t.core.Leads() && t.core.Epoch() == model.Epoch(t.fence.epoch):
		t.by = time.Time{}
	case t.by.IsZero():
		t.endTerm(fmt.Errorf("the log has another's epoch: %w", bus.ErrDeposed))
	case t.clock().After(t.by):
		t.endTerm(fmt.Errorf("the log wasn't read up to epoch %d", t.fence.epoch))
	}
}

// do does what the core wants done.
func (t *compiling) do(out core.Output) {
	if t.over {
		return
	}
	for _, m := range out.Publish {
		if m.Subject == schemas.SubjectHeartbeat && !t.replica.sure() {
			continue
		}
		_ = t.bus.publish(t.process, message{subject: m.Subject, data: m.Data})
	}
	for _, a := range out.Answers {
		for data := range a.Messages() {
			_ = t.bus.publish(t.process, message{subject: a.To.(string), data: data})
		}
	}
	for _, e := range out.Events {
		t.note("event", e.GetKind(), e.GetText())
		if e.GetKind() == "standby_differs" {
			t.problem("lockstep: %s: %s", t.name, e.GetText())
		}
	}
	for _, c := range out.Commits {
		t.note("committed revision", uint64(c.Revision), c.Layers, c.Rows)
	}
	if m := out.Mismatch; m != nil {
		t.problem("incremental: %s, revision %d: an incremental compilation differs from a full one: %s", t.name, m.Revision, m.Found)
	}
	if o := out.Outranked; o != nil && (t.raised.IsZero() || t.clock().Sub(t.raised) >= raiseEvery) {
		t.above, t.raised = *o, t.clock()
		t.endTerm(fmt.Errorf("a node has seen epoch %d and revision %d", o.Epoch, o.Revision))
		return
	}
	if out.Reread != "" {
		t.end(errors.New(out.Reread))
		return
	}
	if out.Append != nil {
		t.append(out.Append)
	}
	t.overdue()
	t.wake()
}

func (t *compiling) append(wanted []core.Record) {
	batch := make([]record, len(wanted))
	for i, r := range wanted {
		batch[i] = record{subject: r.Subject, data: r.Data}
	}
	f := t.fence
	t.delta.append(t.process, f, batch, func(_ uint64, err error) {
		switch {
		case t.over || t.fence != f:
		case err != nil:
			t.endTerm(fmt.Errorf("append %d messages: %w", len(batch), err))
		default:
			t.do(t.core.Appended(t.clock()))
		}
	})
}

// wake plans a Tick for when the core wants one, and says in pulses how this compiler stands.
func (t *compiling) wake() {
	if t.over {
		return
	}
	if able := t.core.Able(); able != t.shape.Able || t.clock().Sub(t.shaped) >= time.Second {
		t.shape = lead.Shape{Able: able, Revision: uint64(t.core.Revision()), Digest: t.core.Digest().Bytes()}
		t.shaped = t.clock()
		t.replica.set(t.shape)
	}
	t.wakes++
	wake := t.wakes
	t.after(min(max(t.core.Next().Sub(t.clock()), 100*time.Microsecond), time.Second), func() {
		if !t.over && wake == t.wakes {
			t.do(t.core.Tick(t.clock()))
		}
	})
}

// look ends the session if the streams are no longer those that were read, as the service does.
func (t *compiling) look() {
	t.delta.newestEpoch(t.process, schemas.SubjectEpoch, func(newest *schemas.Epoch, _ uint64, err error) {
		switch {
		case t.over:
		case err != nil:
			t.end(err)
		case newest.GetEpoch() < t.epoch:
			t.end(errors.New("DELTA has gone back"))
		default:
			t.epoch = newest.GetEpoch()
			t.lookAtState()
		}
	})
}

func (t *compiling) lookAtState() {
	t.state.newestEpoch(t.process, schemas.SubjectStateEpoch, func(newest *schemas.Epoch, sequence uint64, err error) {
		switch {
		case t.over:
		case err != nil:
			t.end(err)
		case t.unsure && t.doubted != string(marshal(newest)):
			t.end(errStateReplaced)
		case sequence < t.before:
			t.end(errors.New("STATE has gone back"))
		default:
			t.before = sequence
			t.after(lookEvery, t.look)
		}
	})
}

// end ends the session; another begins after a rest.
func (t *compiling) end(err error) {
	if t.over {
		return
	}
	t.over = true
	t.current = nil
	t.replica.set(lead.Shape{})
	for _, s := range t.subscriptions {
		s.ended = true
	}
	for _, r := range []*reader{t.log, t.facts} {
		if r != nil {
			r.stop()
		}
	}
	t.note("reads the streams again:", fmt.Sprint(err))
	t.endTerm(err)
	if t.core != nil {
		t.memory = t.core.Memory()
	}
	t.after(restBetween, t.session)
}

// reconnected does nothing: readers go on by themselves, and see whether the streams are still the same.
func (c *compiler) reconnected() {
	if t := c.current; t != nil && t.core != nil {
		t.log.kick()
		t.facts.kick()
	}
}

// isDelta says whether a message of DELTA is a delta: no epoch, no hold, nor of a checkpoint.
func isDelta(subject string) bool {
	return subject != schemas.SubjectEpoch && subject != schemas.SubjectCheckpoint && subject != schemas.SubjectHold && strings.HasPrefix(subject, deltaPrefix)
}

const deltaPrefix = "deltaplane.v1.delta."
