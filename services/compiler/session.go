// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// The bounds of what waits for the loop; beyond, whoever brings it waits too.
const (
	factsWaiting   = 1024
	factsAtOnce    = 512
	inputsWaiting  = 256
	recordsWaiting = 1024
)

// session is one time of knowing what DELTA and STATE say. It stands by, and leads whenever this replica has the epoch. It
// ends when what it knows may no longer be what the streams say; the next one reads them again.
type session struct {
	*service
	ctx      context.Context
	core     *core.Core
	facts    chan told
	records  chan core.Record // of DELTA
	inputs   chan func(time.Time) core.Output
	appended chan error
	terms    chan *term
	term     *term               // that runs; nil while it stands by
	asked    []*bus.Subscription // what only a leader answers
	running  sync.WaitGroup
	counted  core.Stats
	measured time.Time
	shape    lead.Shape // as the replica's pulses say it
	// unsure is the epoch of STATE as it was when reading STATE broke off, once it isn't known to be the same stream. If it
	// is another one later, facts in between may be lacking. As a text; nil as long as nothing is in doubt.
	unsure atomic.Pointer[string]
}

// told is one message of STATE, a fact or an epoch, or whether STATE is in doubt from there on; without any of these it says
// that everything stored was told.
type told struct {
	sequence uint64
	stored   time.Time
	fact     *schemas.Fact
	epoch    *schemas.Epoch
	doubt    *bool
}

// session runs one until ctx ends, or what it knows is in doubt.
func (s *service) session(ctx context.Context) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	t := &session{
		service: s, ctx: ctx, facts: make(chan told, factsWaiting), records: make(chan core.Record, recordsWaiting),
		inputs: make(chan func(time.Time) core.Output, inputsWaiting), appended: make(chan error, 1), terms: make(chan *term),
	}
	defer func() {
		s.replica.Set(lead.Shape{})
		s.set(func() { s.running, s.epoch, s.turn = nil, 0, time.Time{} })
		end(err)
		_ = t.endTerm(err) // the session ends anyway
		t.running.Wait()
		t.leaveMemory()
	}()
	s.set(func() { s.phase = "for the log to be read" })
	last, err := t.begin(ctx)
	if err != nil {
		return err
	}
	stop, err := t.listen()
	defer stop()
	if err != nil {
		return err
	}
	s.set(func() { s.running = t })
	t.running.Go(func() { end(t.followLog(ctx, last)) })
	t.running.Go(func() { end(t.follow(ctx)) })
	t.running.Go(func() { end(t.look(ctx)) })
	t.running.Go(func() { t.lastReports(ctx) })
	return t.work(ctx)
}

// begin folds the log, and returns its last message.
func (t *session) begin(ctx context.Context) (last bus.Record, err error) {
	if err := t.conn.EnsureStreams(ctx, t.settings.replicas, schemas.Streams...); err != nil {
		return last, err
	}
	log, last, err := t.readLog(ctx)
	if err != nil {
		return last, err
	}
	settings, err := t.settings.compile()
	if err != nil {
		return last, err
	}
	t.set(func() { log = t.memory.Begin(log) })
	t.core = core.NewStandby(core.Options{Holder: t.name, Settings: settings, Signer: t.seals.signer.Signer, ChecksSeals: t.seals.trust != nil}, log)
	t.set(func() { t.core.Remember(t.memory) })
	t.replica.Above(uint64(log.Epoch()))
	t.log.Info("standing by", "revision", log.Revision(), "from memory", log.Kept())
	return last, nil
}

// leaveMemory takes in what was read of the log, and keeps what the next session must know, if the log is lost.
func (t *session) leaveMemory() {
	if t.core == nil {
		return
	}
	for {
		select {
		case r := <-t.records:
			t.core.Log(time.Now(), r)
			continue
		default:
		}
		break
	}
	memory := t.core.Memory()
	t.set(func() { t.memory = memory })
}

// tellStatus answers how the cluster stands, and the streams.
func (t *session) tellStatus(now time.Time, to any, data []byte) core.Output {
	t.core.Streams(t.streamFaults())
	return t.core.Status(now, to, data)
}

// work is the loop: the core is called from here alone.
func (t *session) work(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(t.core.Next()))
		var err error
		begun := time.Now()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case first := <-t.facts:
			err = t.do(t.take(first))
		case step := <-t.inputs:
			err = t.do(step(time.Now()))
		case r := <-t.records:
			err = t.do(t.core.Log(time.Now(), r))
		case term := <-t.terms:
			err = t.beginTerm(term)
		case <-t.deposed():
			err = t.endTerm(context.Cause(t.term.ctx))
		case err = <-t.appended:
			if err == nil {
				err = t.do(t.core.Appended(time.Now()))
			} else {
				err = t.endTerm(err)
			}
		case <-timer.C:
			err = t.do(t.core.Tick(time.Now()))
		}
		if err == nil {
			err = t.overdue()
		}
		if err != nil {
			return err
		}
		t.measure(begun)
	}
}

// take gives the core a fact and all that wait behind it.
func (t *session) take(m told) (out core.Output) {
	var facts []*schemas.Fact
	var sequence uint64
	for {
		if m.sequence > 0 {
			t.core.Stored(m.sequence, m.stored)
		}
		if m.doubt != nil {
			out.Add(t.core.Facts(time.Now(), sequence, facts...))
			t.core.Doubt(*m.doubt)
			return out
		}
		if m.epoch != nil {
			out.Add(t.core.Facts(time.Now(), max(sequence, m.sequence), facts...))
			out.Add(t.core.StateEpoch(time.Now(), m.epoch))
			return out
		}
		if m.fact == nil {
			out.Add(t.core.Facts(time.Now(), sequence, facts...))
			out.Add(t.core.CaughtUp(time.Now()))
			return out
		}
		if t.core.Able() && !t.core.Leads() || t.core.Hold() != nil {
			return t.core.Facts(time.Now(), m.sequence, m.fact) // each has its place in the log
		}
		facts, sequence = append(facts, m.fact), m.sequence
		if len(facts) == factsAtOnce {
			break
		}
		select {
		case m = <-t.facts:
			continue
		default:
		}
		break
	}
	out.Add(t.core.Facts(time.Now(), sequence, facts...))
	return out
}

// do does what the core wants done. Only appending takes its time.
func (t *session) do(out core.Output) error {
	for _, m := range out.Publish {
		if m.Subject == schemas.SubjectHeartbeat && !t.replica.Sure() {
			continue // it says what the log hasn't accepted: that this compiler leads
		}
		t.publish(m.Subject, m.Data)
	}
	for _, a := range out.Answers {
		a.To.(chan core.Answer) <- a
	}
	for _, e := range out.Events {
		t.tell(e)
	}
	if out.Mismatch != nil {
		t.report(out.Mismatch)
	}
	t.metrics.commits(out.Commits)
	if o := out.Outranked; o != nil && t.raise(*o) {
		return t.endTerm(fmt.Errorf("node %s says that it has seen epoch %d and revision %d, this compiler leads in epoch %d: the log was lost or rolled back, so it goes on above them",
			o.Node, o.Epoch, o.Revision, t.term.fence.Epoch()))
	}
	if out.Reread != "" {
		return errors.New(out.Reread)
	}
	if out.Append == nil {
		return nil
	}
	term := t.term
	records := make([]bus.Record, len(out.Append))
	for i, r := range out.Append {
		records[i] = bus.Record{Subject: r.Subject, Data: r.Data}
	}
	t.running.Go(func() {
		begun := time.Now()
		_, err := term.fence.Append(t.ctx, records)
		t.metrics.append.Observe(time.Since(begun).Seconds())
		t.appended <- err
	})
	return nil
}

// measure notes that the loop came round, and once a second what the core counts.
func (t *session) measure(begun time.Time) {
	stats := t.core.Stats()
	if stats.Units > t.counted.Units {
		t.metrics.compile.Observe(time.Since(begun).Seconds())
	}
	waiting := t.core.Waiting()
	t.set(func() {
		t.turn, t.phase, t.epoch = time.Now(), waiting, uint64(t.core.Epoch())
		if waiting == "" {
			t.trouble = nil
		}
	})
	t.metrics.count(t.counted, stats)
	t.counted = stats
	if shape := &t.shape; time.Since(t.measured) >= time.Second || shape.Able != t.core.Able() {
		*shape = lead.Shape{Able: t.core.Able(), Revision: uint64(t.core.Revision()), Digest: t.core.Digest().Bytes()}
		t.replica.Set(*shape)
	}
	if time.Since(t.measured) >= time.Second {
		t.measured = time.Now()
		t.metrics.gauges(t.core)
		t.seals.follow(t.log)
	}
}

func now() *timestamppb.Timestamp { return timestamppb.Now() }
