// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// readBy is how long the log may take to be read up to a term's epoch.
const readBy = 10 * time.Second

// term is one time of leading.
type term struct {
	ctx   context.Context
	fence *bus.Fence
	over  chan error // takes why it has ended
	by    time.Time  // when the log must have been read to its epoch
}

// lead leads until the replica is deposed, or something fails.
func (s *service) lead(ctx context.Context, fence *bus.Fence) error {
	var running *session
	s.set(func() { running = s.running })
	if running == nil {
		return errors.New("it is reading the log again")
	}
	t := &term{ctx: ctx, fence: fence, over: make(chan error, 1), by: time.Now().Add(readBy)}
	select {
	case running.terms <- t:
	case <-running.ctx.Done():
		return context.Cause(running.ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-t.over
}

// beginTerm leads as soon as the log was read up to the term's epoch.
func (t *session) beginTerm(term *term) error {
	var above core.Outranked
	t.set(func() { above = t.above })
	t.core.RaiseTo(above.Revision)
	if err := t.listenLeading(); err != nil {
		return err
	}
	t.term = term
	t.metrics.terms.Inc()
	return t.do(t.core.Lead(time.Now(), model.Epoch(term.fence.Epoch())))
}

// endTerm stands by again. An error says that the session must end, too.
func (t *session) endTerm(why error) error {
	if t.term == nil {
		return nil
	}
	t.core.StandBy()
	t.deafen()
	t.metrics.leader.Set(0)
	t.term.over <- why
	t.term = nil
	t.log.Warn("standing by again", "reason", why)
	if t.core.Ahead() {
		return fmt.Errorf("leading ended while something was being appended, so the log is read again: %w", why)
	}
	return nil
}

// deposed is closed when the term must end; nil if there is none.
func (t *session) deposed() <-chan struct{} {
	if t.term == nil {
		return nil
	}
	return t.term.ctx.Done()
}

// overdue ends a term of which the log doesn't tell, and one that the log says is over.
func (t *session) overdue() error {
	switch {
	case t.term == nil || t.core.Leads() && t.core.Epoch() == model.Epoch(t.term.fence.Epoch()):
		if t.term != nil {
			t.term.by = time.Time{}
		}
		return nil
	case t.term.by.IsZero():
		return t.endTerm(fmt.Errorf("the log has another's epoch: %w", bus.ErrDeposed))
	case time.Now().After(t.term.by):
		return t.endTerm(fmt.Errorf("after %s the log wasn't read up to epoch %d", readBy, t.term.fence.Epoch()))
	}
	return nil
}

// raise notes that the next term must go above what a node has seen, unless that was said only just, or there can't be such
// an epoch yet, or the node has said so too often.
func (t *session) raise(o core.Outranked) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := time.Now()
	if !o.Epoch.Believable(at) || !t.raised.IsZero() && at.Sub(t.raised) < raiseEvery || !t.words.Allow(o.Node, at) {
		return false
	}
	t.above, t.raised = o, at
	t.replica.Above(uint64(o.Epoch))
	return true
}
