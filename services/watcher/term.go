// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// How facts are gathered and sent.
const (
	// inputsWaiting bounds what a source may be ahead; then it waits.
	inputsWaiting = 1024
	// batchBytes bounds the bytes of one append.
	batchBytes = 4 << 20
	// lookEvery is how often the leader looks whether STATE is still its own: nothing else tells an idle one that
	// the stream was removed, or that another leads.
	lookEvery = 10 * time.Second
)

// term is one time of leading: it has taken STATE's epoch, knows what STATE holds and publishes what it lacks.
type term struct {
	*service
	fence     *bus.Fence
	core      *core.Core
	inputs    chan core.Input
	approvals chan approval
}

// approval is someone's request to let held deletions go ahead.
type approval struct {
	id    string
	reply chan<- *schemas.ApproveReply
}

// term leads until ctx ends, the bus was away, another has taken over, or something fails.
func (w *service) term(ctx context.Context) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer func() { end(err) }()
	w.mu.Lock()
	w.endTerm = end
	w.mu.Unlock()

	t := &term{service: w, inputs: make(chan core.Input, inputsWaiting), approvals: make(chan approval)}
	if err := t.begin(ctx); err != nil {
		return err
	}
	answers, err := w.conn.Respond(schemas.SubjectApprove, "", t.answer)
	if err != nil {
		return err
	}
	defer answers.Stop()
	running.Go(func() {
		err := w.source.Run(ctx, t.emit(ctx))
		if err == nil {
			err = fmt.Errorf("the source has ended")
		}
		end(err)
	})
	return t.usurped(ctx, t.work(ctx))
}

// begin takes the epoch and reads what STATE holds.
func (t *term) begin(ctx context.Context) (err error) {
	if err := t.conn.EnsureStreams(ctx, t.settings.replicas, schemas.StateFacts, schemas.EventLog); err != nil {
		return err
	}
	if t.fence, err = t.conn.TakeEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch, t.name); err != nil {
		return err
	}
	t.metrics.leader.Set(1)
	t.metrics.terms.Inc()
	t.note(func(s *standing) { *s = standing{leading: true} })
	t.core = core.New(core.Options{
		Source: t.sourceName, Kinds: t.kinds, MaxDeleteShare: t.settings.maxDeleteShare, Started: t.started,
	})
	stored := 0
	err = t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState}},
		func(r bus.Record) error {
			var fact schemas.Fact
			if err := proto.Unmarshal(r.Data, &fact); err != nil {
				t.log.Warn("STATE holds something that is no Fact; whoever reads it sets it aside", "subject", r.Subject, "error", err)
				return nil
			}
			stored++
			t.core.Known(&fact)
			return nil
		})
	t.log.Info("leading", "epoch", t.fence.Epoch(), "source", t.sourceName, "facts", stored)
	return err
}

func (t *term) emit(ctx context.Context) func(core.Input) {
	return func(in core.Input) {
		select {
		case t.inputs <- in:
		case <-ctx.Done():
		}
	}
}

// work takes inputs and approvals until ctx ends.
func (t *term) work(ctx context.Context) error {
	look := time.NewTicker(t.lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case in := <-t.inputs:
			if err := t.do(ctx, t.take(in)); err != nil {
				return err
			}
		case a := <-t.approvals:
			if err := t.approve(ctx, a); err != nil {
				return err
			}
		case <-look.C:
			if err := t.look(ctx); err != nil {
				return err
			}
		}
	}
}

// take steps the core through one input and all that wait behind it.
func (t *term) take(in core.Input) (effects core.Effects) {
	for {
		e := t.core.Step(time.Now(), in)
		effects.Publish = append(effects.Publish, e.Publish...)
		effects.Events = append(effects.Events, e.Events...)
		effects.Suppressed += e.Suppressed
		if len(effects.Publish) >= bus.MaxBatchMessages {
			return effects
		}
		select {
		case in = <-t.inputs:
		default:
			return effects
		}
	}
}

// do appends and publishes what the core asks for.
func (t *term) do(ctx context.Context, effects core.Effects) error {
	for records := range batches(effects.Publish) {
		begun := time.Now()
		if _, err := t.fence.Append(ctx, records); err != nil {
			return err
		}
		t.metrics.append.Observe(time.Since(begun).Seconds())
	}
	t.metrics.count(t.core, effects)
	complete := t.core.Complete()
	t.note(func(s *standing) {
		if complete && !s.complete {
			t.log.Info("STATE is complete", "objects", t.core.Objects())
		}
		s.complete, s.held, s.setAside = complete, t.core.Held(), t.core.SetAside()
	})
	for _, event := range effects.Events {
		if err := t.tell(event); err != nil {
			return err
		}
	}
	return nil
}

// batches groups publications so that each group fits one append.
func batches(publications []core.Publication) func(yield func([]bus.Record) bool) {
	return func(yield func([]bus.Record) bool) {
		var records []bus.Record
		size := 0
		for _, p := range publications {
			ref := p.Fact.GetObject()
			r := bus.Record{Subject: schemas.StateSubject(ref.GetKind(), ref.GetNamespace(), ref.GetName()), Data: p.Data}
			if p.Tombstone() {
				r.TTL = schemas.TombstoneTTL
			}
			if len(records) == bus.MaxBatchMessages || size+len(r.Data) > batchBytes && len(records) > 0 {
				if !yield(records) {
					return
				}
				records, size = nil, 0
			}
			records, size = append(records, r), size+len(r.Data)
		}
		if len(records) > 0 {
			yield(records)
		}
	}
}

// look ends the term if STATE's epoch is no longer its own.
func (t *term) look(ctx context.Context) error {
	newest, err := t.newestEpoch(ctx)
	switch {
	case err != nil:
		return err
	case newest.GetEpoch() > t.fence.Epoch():
		return fmt.Errorf("epoch %d of STATE is %s's: %w", newest.GetEpoch(), newest.GetHolder(), bus.ErrDeposed)
	case newest.GetEpoch() < t.fence.Epoch():
		return fmt.Errorf("STATE has gone back from epoch %d to %d: it was removed or restored", t.fence.Epoch(), newest.GetEpoch())
	}
	return nil
}

// newestEpoch returns what stands on STATE's epoch subject: epoch 0 if nothing does, or something that is no Epoch.
func (t *term) newestEpoch(ctx context.Context) (*schemas.Epoch, error) {
	newest := &schemas.Epoch{}
	err := t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectStateEpoch}},
		func(r bus.Record) error {
			if proto.Unmarshal(r.Data, newest) != nil {
				newest.Reset()
			}
			return nil
		})
	return newest, err
}

// usurped returns why the term has ended. To the server a foreign message on the epoch's subject looks like another
// watcher; then nobody has taken over, and this one goes on in another term.
func (t *term) usurped(ctx context.Context, err error) error {
	if !errors.Is(err, bus.ErrDeposed) {
		return err
	}
	if newest, readErr := t.newestEpoch(ctx); readErr != nil || newest.GetEpoch() != 0 {
		return err
	}
	return errors.New("something that is no Epoch was published on " + schemas.SubjectStateEpoch + ", so the epoch is taken again")
}
