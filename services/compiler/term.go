// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/ordered"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// The bounds of what waits for the loop; beyond, whoever brings it waits too.
const (
	factsWaiting  = 1024
	factsAtOnce   = 512
	inputsWaiting = 256
)

// term is one time of leading: it has taken DELTA's epoch, knows what the log says and follows STATE.
type term struct {
	*service
	ctx      context.Context
	fence    *bus.Fence
	core     *core.Core
	facts    chan told
	inputs   chan func(time.Time) core.Output
	appended chan error
	running  sync.WaitGroup
	beatAt   time.Time // of our own newest heartbeat; guarded by mu
	counted  core.Stats
	measured time.Time
}

// told is one message of STATE; without a fact it says that everything stored was told.
type told struct {
	sequence uint64
	fact     *schemas.Fact
}

// lead leads until ctx ends, the bus was away, another has taken over, or something fails.
func (s *service) lead(ctx context.Context) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	t := &term{
		service: s, ctx: ctx, facts: make(chan told, factsWaiting),
		inputs: make(chan func(time.Time) core.Output, inputsWaiting), appended: make(chan error, 1),
	}
	s.set(func() { s.endTerm, s.phase = end, "taking the epoch of DELTA" })
	defer func() {
		s.metrics.leader.Set(0)
		s.set(func() { s.endTerm, s.epoch, s.turn, s.phase = nil, 0, time.Time{}, "" })
		end(err)
		t.running.Wait()
	}()
	if err := t.begin(ctx); err != nil {
		return err
	}
	stop, err := t.listen()
	defer stop()
	if err != nil {
		return err
	}
	t.running.Go(func() { end(t.follow(ctx)) })
	t.running.Go(func() { end(t.look(ctx)) })
	t.running.Go(func() { t.lastReports(ctx) })
	return t.work(ctx)
}

// begin takes the epoch and folds the log.
func (t *term) begin(ctx context.Context) error {
	if err := t.conn.EnsureStreams(ctx, t.settings.replicas, schemas.Streams...); err != nil {
		return err
	}
	var above core.Outranked
	t.set(func() { above = t.above })
	fence, err := t.conn.TakeEpochAbove(ctx, schemas.Deltas.Name, schemas.SubjectEpoch, t.name, uint64(above.Epoch))
	if err != nil {
		return err
	}
	t.fence = fence
	t.set(func() { t.epoch, t.phase = fence.Epoch(), "for the log to be read" })
	t.running.Go(func() { t.pulse(ctx, fence.Epoch(), t.lastBeat) })
	log, err := t.readLog(ctx)
	if err != nil {
		return err
	}
	log.RaiseTo(above.Revision)
	settings, err := t.settings.compile()
	if err != nil {
		return err
	}
	t.core = core.New(core.Options{Holder: t.name, Settings: settings, Signer: t.seals.signer.Signer}, log, model.Epoch(fence.Epoch()), time.Now())
	t.metrics.leader.Set(1)
	t.log.Info("leading", "epoch", fence.Epoch(), "revision", log.Revision())
	return nil
}

// readLog folds DELTA: from shortly before the newest checkpoint if there is one, else all of it.
func (t *term) readLog(ctx context.Context) (*core.Fold, error) {
	late := time.Now().Add(-schemas.CheckpointInterval - time.Hour)
	log, err := t.foldFrom(ctx, late)
	if err != nil {
		return nil, err
	}
	if !log.Checkpointed() || log.Whole() != nil {
		if log, err = t.foldFrom(ctx, time.Time{}); err != nil {
			return nil, err
		}
	}
	if missing := log.Whole(); missing != nil {
		t.tell(&schemas.Event{
			Severity: schemas.Severity_SEVERITY_WARNING, Service: "compiler", Kind: "log_lost", Happened: now(),
			Text: fmt.Sprintf("DELTA can't be folded, so all rows are compiled anew and nodes get a snapshot each, which loses no connection: %v", missing),
		})
		log.Lose()
	}
	return log, nil
}

func (t *term) foldFrom(ctx context.Context, from time.Time) (*core.Fold, error) {
	type record struct {
		bus.Record
		err error // why it isn't to be used
	}
	log := core.NewFold(0)
	records := ordered.New(func(r *record) { r.err = t.checkRecord(&r.Record) }, func(r *record) error {
		if r.err != nil {
			t.refuse(fmt.Sprintf("message %d of DELTA, on %s,", r.Sequence, r.Subject), r.err)
		} else if err := log.Add(r.Subject, r.Data); err != nil {
			t.log.Debug("a message of DELTA leaves a gap", "sequence", r.Sequence, "error", err)
		}
		return nil
	})
	err := t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.Deltas.Name, FromTime: from}, func(r bus.Record) error {
		return records.Add(record{Record: r})
	})
	return log, errors.Join(err, records.Close())
}

// work is the loop: the core is called from here alone.
func (t *term) work(ctx context.Context) error {
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
		case err = <-t.appended:
			if err == nil {
				err = t.do(t.core.Appended(time.Now()))
			}
		case <-timer.C:
			err = t.do(t.core.Tick(time.Now()))
		}
		if err != nil {
			return err
		}
		t.measure(begun)
	}
}

// take gives the core a fact and all that wait behind it.
func (t *term) take(m told) (out core.Output) {
	var facts []*schemas.Fact
	var sequence uint64
	for {
		if m.fact == nil {
			out.Add(t.core.Facts(time.Now(), sequence, facts...))
			out.Add(t.core.CaughtUp(time.Now()))
			return out
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
func (t *term) do(out core.Output) error {
	for _, m := range out.Publish {
		if m.Subject == schemas.SubjectHeartbeat {
			t.set(func() { t.beatAt = time.Now() })
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
		return fmt.Errorf("a node has seen epoch %d and revision %d, this compiler leads in epoch %d: the log was lost or rolled back, so it goes on above them",
			o.Epoch, o.Revision, t.fence.Epoch())
	}
	if out.Append == nil {
		return nil
	}
	records := make([]bus.Record, len(out.Append))
	for i, r := range out.Append {
		records[i] = bus.Record{Subject: r.Subject, Data: r.Data}
	}
	t.running.Go(func() {
		begun := time.Now()
		_, err := t.fence.Append(t.ctx, records)
		t.metrics.append.Observe(time.Since(begun).Seconds())
		t.appended <- err
	})
	return nil
}

// raise notes that the next term must go above what a node has seen, unless that was said only just.
func (t *term) raise(o core.Outranked) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.raised.IsZero() && time.Since(t.raised) < raiseEvery {
		return false
	}
	t.above, t.raised = o, time.Now()
	return true
}

func (t *term) lastBeat() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.beatAt
}

// measure notes that the loop came round, and once a second what the core counts.
func (t *term) measure(begun time.Time) {
	stats := t.core.Stats()
	if stats.Units > t.counted.Units {
		t.metrics.compile.Observe(time.Since(begun).Seconds())
	}
	waiting := t.core.Waiting()
	t.set(func() {
		t.turn, t.phase = time.Now(), waiting
		if waiting == "" {
			t.trouble = nil
		}
	})
	t.metrics.count(t.counted, stats)
	t.counted = stats
	if time.Since(t.measured) >= time.Second {
		t.measured = time.Now()
		t.metrics.gauges(t.core, t.fence.Epoch())
		t.seals.follow(t.log)
	}
}

func now() *timestamppb.Timestamp { return timestamppb.Now() }
