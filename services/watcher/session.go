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
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/ordered"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

const (
	// inputsWaiting bounds what a source, or STATE, may be ahead; then it waits.
	inputsWaiting = 1024
	// catchUpTime bounds how long whoever has taken the epoch may take to hear of it: then it knows all of STATE.
	catchUpTime = 5 * time.Second
)

// session is one time of knowing what the source has and what STATE holds. It stands by first; if it comes to lead it does
// so until it ends. A new one begins with nothing, so that no doubt about what was appended outlives it.
//
//	STATE read ──► source listed ──► stands by ──► epoch taken ──► STATE read to it ──► leads
type session struct {
	*service
	core   *core.Core
	end    context.CancelCauseFunc
	done   chan struct{} // closed when it is over, with err
	err    error
	begun  chan term
	stored chan stored // what STATE has
	newest *schemas.Epoch
	read   uint64 // number of the newest fact of STATE, if facts are sealed

	running sync.WaitGroup
	inputs  chan core.Input // of the source that runs; nil before STATE is read
	unwatch func()          // ends the source, and waits for it
	warm    bool
}

// term is the right to lead that a replica was given.
type term struct {
	ctx   context.Context
	fence *bus.Fence
}

// stored is one message of STATE.
type stored struct {
	sequence uint64
	fact     *schemas.Fact
	epoch    *schemas.Epoch
	foreign  bool // the fact isn't sealed as this watcher seals, or is none
	opened   bool // its seal is good
	caughtUp bool // none, but all that there was is read
}

// session runs one until ctx ends, the bus was away, another watcher leads in its place, or something fails.
func (w *service) session(ctx context.Context) (err error) {
	if err := w.conn.EnsureStreams(ctx, w.settings.replicas, schemas.StateFacts, schemas.EventLog); err != nil {
		return err
	}
	if _, err := w.lookAtStream(ctx); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	s := &session{
		service: w, end: end, done: make(chan struct{}), begun: make(chan term), stored: make(chan stored, inputsWaiting),
		newest: &schemas.Epoch{}, unwatch: func() {},
		core: core.New(core.Options{
			Source: w.sourceName, Kinds: w.kinds, MaxDeleteShare: w.settings.maxDeleteShare, Versioned: w.versioned, Started: w.started,
		}),
	}
	w.hold(s)
	defer func() {
		w.hold(nil)
		s.err = err
		close(s.done) // another may lead: nothing is appended any more
		end(err)
		s.unwatch()
		s.running.Wait()
	}()
	return s.run(ctx)
}

func (w *service) hold(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = s
}

func (s *session) run(ctx context.Context) error {
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	s.running.Go(func() {
		if err := s.follow(following); following.Err() == nil {
			s.end(err)
		}
	})
	t, err := s.standBy(ctx)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(t.ctx, func() { end(context.Cause(t.ctx)) })()
	if err := s.catchUp(ctx, t.fence.Epoch()); err != nil {
		return err
	}
	return s.leadOn(ctx, t.fence)
}

// leads has the session lead until it ends, which it does when ctx does.
func (s *session) leads(ctx context.Context, fence *bus.Fence) error {
	select {
	case s.begun <- term{ctx, fence}:
		<-s.done
	case <-s.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.err
}

// follow hands over what STATE has, and goes on with what it gets, until ctx ends. Seals are checked by all CPUs.
func (s *session) follow(ctx context.Context) error {
	type message struct {
		bus.Record
		stored
		err error
	}
	put := func(m stored) error {
		select {
		case s.stored <- m:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	messages := ordered.New(func(m *message) { m.stored, m.err = s.readStored(&m.Record) }, func(m *message) error {
		if m.err != nil {
			s.log.Warn("STATE holds something that isn't what its subject says", "subject", m.Subject, "error", m.err)
		}
		if m.err != nil && m.Subject == schemas.SubjectStateEpoch {
			return nil // whoever takes the next one passes over it
		}
		return put(m.stored)
	})
	err := s.conn.Follow(ctx, bus.ReadOptions{
		Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState, schemas.SubjectStateEpoch},
		OnCaughtUp: func() {
			_ = messages.Do(func() error { return put(stored{caughtUp: true}) }) // fails only when ctx has ended
		},
		OnUnsure: func() error { return bus.ErrReplaced }, // else what a restored STATE lacks is taken for published
	}, func(r bus.Record) error { return messages.Add(message{Record: r}) })
	return errors.Join(err, messages.Close())
}

// readStored decodes a message of STATE.
func (s *session) readStored(r *bus.Record) (m stored, err error) {
	m.sequence = r.Sequence
	if r.Subject == schemas.SubjectStateEpoch {
		m.epoch, err = bus.ReadEpoch(r.Data)
		return m, err
	}
	if ours := s.ours(); ours != nil {
		_, err := ours.Open(seal.Fact, r.Data)
		m.opened, m.foreign = err == nil, err != nil
	}
	m.fact = &schemas.Fact{}
	if err = proto.Unmarshal(r.Data, m.fact); err == nil {
		if o := m.fact.GetObject(); schemas.StateSubject(o.GetKind(), o.GetNamespace(), o.GetName()) == r.Subject {
			return m, nil
		}
		err = fmt.Errorf("it is about another object than its subject says")
	}
	// Who reads it can't use it: it is said anew, or said to be gone, if its subject is one that an object has.
	object, _ := schemas.ObjectOfSubject(r.Subject)
	m.fact, m.foreign = &schemas.Fact{Object: object}, true
	return m, err
}

// standBy takes in what STATE and the source say until this watcher is to lead.
func (s *session) standBy(ctx context.Context) (term, error) {
	tick := time.NewTicker(shapeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return term{}, context.Cause(ctx)
		case m := <-s.stored:
			if err := s.know(ctx, m); err != nil {
				return term{}, err
			}
		case in := <-s.inputs:
			s.core.Step(time.Now(), in)
		case t := <-s.begun:
			return t, nil
		case <-tick.C:
		}
		s.shape()
	}
}

// catchUp reads STATE up to where this watcher has taken the epoch: nobody else has appended anything after that.
func (s *session) catchUp(ctx context.Context, epoch uint64) error {
	late := time.After(catchUpTime)
	for s.newest.GetEpoch() < epoch {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-s.stored:
			if err := s.know(ctx, m); err != nil {
				return err
			}
		case <-late:
			return fmt.Errorf("STATE could not be read up to epoch %d, which this watcher has taken, within %v", epoch, catchUpTime)
		}
	}
	return nil
}

// know takes in a message of STATE. Epochs only grow: if one doesn't, what was read of STATE is no longer what it has.
func (s *session) know(ctx context.Context, m stored) error {
	if led := m.fact.GetComplete().GetEpoch(); m.opened && led > 0 {
		s.replica.Above(led) // an Epoch that was overwritten says no more how far epochs had come, and isn't sealed
	}
	switch {
	case m.caughtUp:
		s.watch(ctx)
	case m.fact != nil && m.fact.GetObject() == nil: // nothing reads such a subject
	case m.fact != nil && (m.foreign || m.opened && s.order(m.fact)):
		s.core.Foreign(m.fact, m.sequence)
	case m.fact != nil:
		s.core.Known(m.fact, m.sequence)
	case m.epoch.GetEpoch() < s.newest.GetEpoch() || m.epoch.GetEpoch() == s.newest.GetEpoch() && !proto.Equal(m.epoch, s.newest):
		return fmt.Errorf("STATE has gone from epoch %d of %s to %d of %s: %w",
			s.newest.GetEpoch(), s.newest.GetHolder(), m.epoch.GetEpoch(), m.epoch.GetHolder(), bus.ErrReplaced)
	case s.inputs != nil && m.epoch.GetEpoch() > s.newest.GetEpoch() && m.epoch.GetHolder() != s.name:
		// It may be the first message of a STATE that was restored from a backup and has grown past where it was read to.
		return fmt.Errorf("%s leads in epoch %d: what it found in STATE is read anew", m.epoch.GetHolder(), m.epoch.GetEpoch())
	default:
		s.newest = m.epoch
	}
	return nil
}

// watch starts the source, or starts it again, which then lists everything.
func (s *session) watch(ctx context.Context) {
	s.unwatch()
	inputs := make(chan core.Input, inputsWaiting)
	ctx, stop := context.WithCancel(ctx)
	ended, lost := make(chan struct{}), s.core.Lost()
	s.inputs = inputs
	s.unwatch = func() {
		stop()
		<-ended
	}
	s.running.Go(func() {
		defer close(ended)
		err := s.source.Run(ctx, lost, func(in core.Input) {
			s.nodes.take(in)
			select {
			case inputs <- in:
			case <-ctx.Done():
			}
		})
		if ctx.Err() == nil {
			s.end(fmt.Errorf("the source has ended: %w", err))
		}
	})
}

// shape says whether this watcher could lead: it knows STATE, everything was listed, and the source is there.
func (s *session) shape() {
	warm := s.core.Ready()
	if warm && !s.warm {
		s.log.Info("warm: STATE and the source are known", "objects", s.core.Objects())
		s.note(func(now *standing) { now.warm, now.trouble = true, nil })
	}
	s.warm = warm
	if !warm {
		s.cold()
	}
	able := warm && s.source.Away() == nil
	s.metrics.able.Set(map[bool]float64{true: 1}[able])
	s.replica.Set(lead.Shape{Able: able})
}

// cold says why this watcher isn't warm yet, if it is for something that can't be read.
func (s *session) cold() {
	aside := s.core.SetAside()
	if len(aside) == 0 {
		return
	}
	if was, _ := s.stands(); was.cold != aside[0].GetReason() {
		s.log.Warn("the source has not listed everything yet", "error", aside[0].GetReason())
		s.note(func(now *standing) { now.cold = aside[0].GetReason() })
	}
}
