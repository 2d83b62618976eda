// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// raiseEvery is how often a node's word ends a term at most, as in the service.
const raiseEvery = time.Minute

// compiler is the shell of a compiler: it leads in terms, and what it drives in each is a core.
type compiler struct {
	*process
	bus     *wires
	state   *stream
	delta   *stream
	options core.Options
	replica *replica
	above   core.Outranked
	raised  time.Time
	term    *compiling
}

// compiling is one term of leading.
type compiling struct {
	*compiler
	core    *core.Core
	fence   *fence
	over    bool
	wakes   int // of the newest planned Tick
	before  uint64
	reader  *reader
	answers []*subscription
}

func newCompiler(c *cluster, name string) *compiler {
	co := &compiler{process: &process{world: c.world, name: name}, bus: c.bus, state: c.state, delta: c.delta, options: c.options}
	co.options.Holder = name
	co.replica = &replica{
		process: co.process, bus: c.bus, stream: c.delta, subject: schemas.SubjectEpoch, service: "compiler",
		begin: co.leads, end: co.end, above: func() uint64 { return uint64(co.above.Epoch) },
	}
	return co
}

func (c *compiler) run() {
	c.start()
	c.term, c.above, c.raised = nil, core.Outranked{}, time.Time{}
	c.replica.run()
	c.shape()
}

// shape says that this compiler could lead, once the streams are there.
func (c *compiler) shape() {
	c.delta.ensure(c.process, func(err error) {
		c.state.ensure(c.process, func(err2 error) {
			c.replica.set(lead.Shape{Able: err == nil && err2 == nil})
			c.after(shapeEvery, c.shape)
		})
	})
}

// leads begins a term: fold the log, follow STATE.
func (c *compiler) leads(f *fence) {
	t := &compiling{compiler: c, fence: f}
	c.term = t
	c.delta.read(c.process, "", time.Time{}, t.fold)
}

func (t *compiling) fold(records []record, err error) {
	if err != nil || t.over {
		t.end(err)
		return
	}
	log := core.NewFold(t.options.Quarantine)
	for _, r := range records {
		if err := log.Add(r.subject, r.data); err != nil {
			t.note("a message of DELTA leaves a gap:", err.Error())
		}
	}
	if missing := log.Whole(); missing != nil {
		t.note("DELTA can't be folded:", missing.Error())
		log.Lose()
	}
	log.RaiseTo(t.above.Revision)
	t.core = core.New(t.options, log, model.Epoch(t.fence.epoch), t.clock())
	t.listen()
	t.reader = t.state.follow(t.process, statePrefix, 0, t.facts,
		func() { t.do(t.core.CaughtUp(t.clock())) }, func(err error) { t.end(fmt.Errorf("following STATE: %w", err)) })
	t.after(lookEvery, t.look)
	t.wake()
}

// listen answers requests and hears reports.
func (t *compiling) listen() {
	respond := func(subject string, step func(now time.Time, to any, data []byte) core.Output) {
		t.answers = append(t.answers, t.bus.subscribe(t.process, subject, "", func(m message) {
			t.do(step(t.clock(), m.reply, m.data))
		}))
	}
	respond(schemas.SubjectAllSyncs, t.core.Sync)
	respond(schemas.SubjectStatus, t.core.Status)
	t.answers = append(t.answers, t.bus.subscribe(t.process, schemas.SubjectAllApplied, "", func(m message) {
		node, err := schemas.NodeOfSubject(m.subject)
		if err != nil {
			panic("sim: " + err.Error())
		}
		out, err := t.core.Applied(t.clock(), node, m.data)
		if err != nil {
			t.note("ignores a report:", err.Error())
		}
		t.do(out)
	}))
}

// facts takes what STATE has told.
func (t *compiling) facts(records []record) {
	var facts []*schemas.Fact
	for _, r := range records {
		fact := &schemas.Fact{}
		if err := proto.Unmarshal(r.data, fact); err != nil {
			t.note("a message of STATE is no fact:", r.subject)
			continue
		}
		facts = append(facts, fact)
	}
	t.do(t.core.Facts(t.clock(), records[len(records)-1].sequence, facts...))
}

// do does what the core wants done.
func (t *compiling) do(out core.Output) {
	if t.over {
		return
	}
	for _, m := range out.Publish {
		_ = t.bus.publish(t.process, message{subject: m.Subject, data: m.Data})
	}
	for _, a := range out.Answers {
		for data := range a.Messages() {
			_ = t.bus.publish(t.process, message{subject: a.To.(string), data: data})
		}
	}
	for _, e := range out.Events {
		t.note("event", e.GetKind(), e.GetText())
	}
	for _, c := range out.Commits {
		t.note("committed revision", uint64(c.Revision), c.Layers, c.Rows)
	}
	if m := out.Mismatch; m != nil {
		t.problem("incremental: %s, revision %d: an incremental compilation differs from a full one: %s", t.name, m.Revision, m.Found)
	}
	if o := out.Outranked; o != nil && (t.raised.IsZero() || t.clock().Sub(t.raised) >= raiseEvery) {
		t.above, t.raised = *o, t.clock()
		t.end(fmt.Errorf("a node has seen epoch %d and revision %d", o.Epoch, o.Revision))
		return
	}
	if out.Append != nil {
		t.append(out.Append)
	}
	t.wake()
}

func (t *compiling) append(wanted []core.Record) {
	batch := make([]record, len(wanted))
	for i, r := range wanted {
		batch[i] = record{subject: r.Subject, data: r.Data}
	}
	t.delta.append(t.process, t.fence, batch, func(_ uint64, err error) {
		switch {
		case t.over:
		case err != nil:
			t.end(fmt.Errorf("append %d messages: %w", len(batch), err))
		default:
			t.do(t.core.Appended(t.clock()))
		}
	})
}

// wake plans a Tick for when the core wants one.
func (t *compiling) wake() {
	t.wakes++
	wake := t.wakes
	t.after(max(t.core.Next().Sub(t.clock()), 100*time.Microsecond), func() {
		if !t.over && wake == t.wakes {
			t.do(t.core.Tick(t.clock()))
		}
	})
}

// look ends the term if the streams are no longer those that were read, as the service does.
func (t *compiling) look() {
	t.delta.confirm(t.process, t.fence, func(err error) {
		switch {
		case t.over:
		case err != nil:
			t.end(err)
		default:
			t.lookAtState()
		}
	})
}

func (t *compiling) lookAtState() {
	t.state.newestEpoch(t.process, schemas.SubjectStateEpoch, func(_ *schemas.Epoch, sequence uint64, err error) {
		switch {
		case t.over:
		case err != nil:
			t.end(err)
		case sequence < t.before:
			t.end(errors.New("STATE has gone back"))
		default:
			t.before = sequence
			t.after(lookEvery, t.look)
		}
	})
}

func (t *compiling) end(err error) {
	if t.over {
		return
	}
	t.over = true
	if t.compiler.term == t {
		t.compiler.term = nil
	}
	for _, s := range t.answers {
		s.ended = true
	}
	if t.reader != nil {
		t.reader.stop()
	}
	t.note("its term ends:", fmt.Sprint(err))
	t.replica.ended(t.fence, err)
}

func (c *compiler) reconnected() { c.end(errors.New("the bus was away")) }

func (c *compiler) end(why error) {
	if c.term != nil {
		c.term.end(why)
	}
}

// isDelta says whether a message of DELTA is a delta: no epoch, nor of a checkpoint.
func isDelta(subject string) bool {
	return subject != schemas.SubjectEpoch && subject != schemas.SubjectCheckpoint && strings.HasPrefix(subject, deltaPrefix)
}

const deltaPrefix = "deltaplane.v1.delta."
