// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
	"github.com/deltaplane/deltaplane/services/watcher/live"
)

// How facts are sent.
const (
	// batchBytes bounds the bytes of one append.
	batchBytes = 4 << 20
	// lookEvery is how often the leader looks whether STATE is still its own: nothing else tells an idle one that
	// the stream was removed, or that something else has written the epoch.
	lookEvery = 10 * time.Second
	// confirmEvery is how often the leader writes its epoch once more, though nothing has happened: a compiler in doubt whether
	// STATE is still the one that it has read waits for that, twice.
	confirmEvery = 5 * time.Minute
)

// leader is a session that leads: it publishes what STATE lacks.
type leader struct {
	*session
	fence     *bus.Fence
	approvals chan approval
	barriers  chan barrier
	waiting   []barrier
	live      live.Watch
	asking    bool // the compiler, about what isn't live yet
	answers   chan []answer
	owed      bool // STATE lacked something at the last look that the source has to tell
	appended  []span
	strange   string // what another has written to STATE since the last look; empty for nothing
	confirmed time.Time
}

// span are sequences of STATE that this leader has appended and hasn't read yet.
type span struct{ first, last uint64 }

// leadOn publishes until ctx ends or something fails.
func (s *session) leadOn(ctx context.Context, fence *bus.Fence) error {
	l := &leader{session: s, fence: fence, approvals: make(chan approval), barriers: make(chan barrier), answers: make(chan []answer), confirmed: time.Now()}
	s.metrics.leader.Set(1)
	s.metrics.terms.Inc()
	defer s.metrics.leader.Set(0)
	s.note(func(now *standing) { now.leading = true })
	for subject, handle := range map[string]func(context.Context, []byte, func([]byte) error){
		schemas.SubjectApprove: l.answerApprove, schemas.SubjectSeen: l.answerSeen,
	} {
		answers, err := s.conn.Respond(subject, "", handle)
		if err != nil {
			return err
		}
		defer answers.Stop()
	}
	if s.recorder != nil {
		events, err := s.conn.Subscribe(schemas.EventSubject("compiler", ""), l.heard)
		if err != nil {
			return err
		}
		defer events.Stop()
	}
	if err := l.do(ctx, s.core.Lead(time.Now(), fence.Epoch())); err != nil {
		return err
	}
	return l.work(ctx)
}

// work takes inputs and questions until ctx ends.
func (l *leader) work(ctx context.Context) error {
	look := time.NewTicker(l.lookEvery)
	defer look.Stop()
	tick := time.NewTicker(shapeEvery)
	defer tick.Stop()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case in := <-l.inputs:
			err = l.do(ctx, l.take(in))
		case m := <-l.stored:
			l.hear(m)
		case a := <-l.approvals:
			err = l.approve(ctx, a)
		case b := <-l.barriers:
			err = l.wait(ctx, b)
		case <-look.C:
			err = l.look(ctx)
		case <-tick.C:
			l.shape()
		case <-ask.C:
			l.ask(ctx)
		case answers := <-l.answers:
			l.answered(answers)
		}
		if err != nil {
			return err
		}
	}
}

// take steps the core through one input and all that wait behind it.
func (l *leader) take(in core.Input) (effects core.Effects) {
	for {
		e := l.core.Step(time.Now(), in)
		effects.Publish = append(effects.Publish, e.Publish...)
		effects.Events = append(effects.Events, e.Events...)
		effects.Suppressed += e.Suppressed
		if len(effects.Publish) >= bus.MaxBatchMessages {
			return effects
		}
		select {
		case in = <-l.inputs:
		default:
			return effects
		}
	}
}

// do appends and publishes what the core asks for.
func (l *leader) do(ctx context.Context, effects core.Effects) error {
	for publications := range batches(effects.Publish) {
		begun := time.Now()
		records := l.recordsOf(publications)
		last, err := l.fence.Append(ctx, records)
		if err != nil {
			return err
		}
		l.appended = append(l.appended, span{last + 1 - uint64(len(records)), last})
		l.core.Stored(publications, last)
		l.followUp(publications, last)
		l.metrics.append.Observe(time.Since(begun).Seconds())
	}
	l.metrics.count(l.core, effects)
	complete := l.core.Complete()
	l.note(func(s *standing) {
		if complete && !s.complete {
			l.log.Info("STATE is complete", "epoch", l.fence.Epoch(), "objects", l.core.Objects())
		}
		s.complete, s.held = complete, l.core.Held()
	})
	for _, event := range effects.Events {
		if err := l.tell(event); err != nil {
			return err
		}
	}
	l.answerWaiting()
	return nil
}

// batches groups publications so that each group fits one append.
func batches(publications []core.Publication) func(yield func([]core.Publication) bool) {
	return func(yield func([]core.Publication) bool) {
		begin, size := 0, 0
		for i, p := range publications {
			if i-begin == bus.MaxBatchMessages || size+len(p.Data) > batchBytes && i > begin {
				if !yield(publications[begin:i]) {
					return
				}
				begin, size = i, 0
			}
			size += len(p.Data)
		}
		if begin < len(publications) {
			yield(publications[begin:])
		}
	}
}

// recordsOf numbers publications, and seals them together.
func (w *service) recordsOf(publications []core.Publication) []bus.Record {
	facts := make([][]byte, 0, len(publications))
	for _, p := range publications {
		facts = append(facts, w.number(p.Data))
	}
	facts = w.signer.Seal(seal.Fact, facts)
	records := make([]bus.Record, 0, len(publications))
	for i, p := range publications {
		ref := p.Fact.GetObject()
		r := bus.Record{Subject: schemas.StateSubject(ref.GetKind(), ref.GetNamespace(), ref.GetName()), Data: facts[i]}
		if p.Tombstone() {
			r.TTL = schemas.TombstoneTTL
		}
		records = append(records, r)
	}
	return records
}

// look ends the session if STATE is no longer its own, says what is wrong with the stream, and asks the source anew for
// what it owes for too long.
func (l *leader) look(ctx context.Context) error {
	if l.signer.Follow() {
		return errors.New("the signing key is another, so all that STATE has is sealed anew")
	}
	is, err := l.lookAtStream(ctx)
	if err != nil {
		return err
	}
	if is.Missing || is.Last != l.fence.Newest() || time.Since(l.confirmed) >= l.confirmEvery { // else nobody has written anything since
		if err := l.fence.Confirm(ctx); err != nil {
			return err
		}
		l.confirmed = time.Now()
	}
	if l.strange != "" {
		return l.mend()
	}
	owed := len(l.core.Owed()) > 0
	if owed && l.owed {
		effects := l.core.Trust(time.Now())
		l.watch(ctx)
		return l.do(ctx, effects)
	}
	l.owed = owed
	l.answerWaiting() // forgets who has given up
	return l.do(ctx, l.core.Renew(time.Now()))
}

// hear takes in what STATE has got: what this leader hasn't appended itself is somebody else's.
func (l *leader) hear(m stored) {
	if m.fact == nil {
		return
	}
	for len(l.appended) > 0 && l.appended[0].last < m.sequence {
		l.appended = l.appended[1:]
	}
	if len(l.appended) == 0 || m.sequence < l.appended[0].first {
		l.strange = fmt.Sprintf("message %d, about %s,", m.sequence, core.KeyOf(m.fact.GetObject()))
	}
}

// mend ends the session, since somebody else has written to STATE: the next one says anew what is no longer as the source
// has it.
func (l *leader) mend() error {
	text := l.strange + " wasn't written by this watcher, which leads: somebody else has written to STATE"
	if err := l.tell(&schemas.Event{
		Severity: schemas.Severity_SEVERITY_ERROR, Service: "watcher", Kind: "foreign_message", Happened: timestamppb.Now(),
		Text: text + ". It is read anew, and what the source says otherwise is said anew; find out who may write there",
	}); err != nil {
		return err
	}
	return errors.New(text)
}
