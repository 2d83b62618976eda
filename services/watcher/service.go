// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// How terms of leading follow each other.
const (
	// restBetween is the least time from one term to the next: a term that fails at once must not spin.
	restBetween = time.Second
	// maxSetAsideTold bounds the objects set aside that one answer names.
	maxSetAsideTold = 256
)

// source is where objects come from. Run emits what it sees until ctx ends; the first inputs are complete lists.
type source interface {
	Run(ctx context.Context, emit func(core.Input)) error
}

// service is a watcher.
type service struct {
	settings *settings
	name     string
	log      *slog.Logger
	metrics  *metrics
	started  time.Time
	// lookEvery is how often the leader looks whether STATE is still its own.
	lookEvery time.Duration

	source     source
	sourceName string
	kinds      []string
	// elect calls lead while this watcher may lead, again and again until ctx ends or there is no leading any more.
	elect func(ctx context.Context, lead func(context.Context) error) error

	conn *bus.Conn

	mu       sync.Mutex
	standing standing
	endTerm  context.CancelCauseFunc // of the term that runs; nil in none
}

// standing is how the watcher stands, for those who ask.
type standing struct {
	leading  bool
	complete bool
	held     *schemas.HeldDeletions
	setAside []*schemas.SetAside
	trouble  error // why the last term ended; nil once one is complete
}

func newService(s *settings, name string, log *slog.Logger) *service {
	return &service{settings: s, name: name, log: log, metrics: newMetrics(), started: time.Now(), lookEvery: lookEvery}
}

// run leads whenever it may, until ctx ends.
func (w *service) run(ctx context.Context) error {
	conn, err := bus.Connect(ctx, w.busOptions())
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Close()
	w.mu.Lock()
	w.conn = conn
	w.mu.Unlock()
	return w.elect(ctx, w.lead)
}

// lead runs one term after the other until ctx ends, or another watcher has taken over.
func (w *service) lead(ctx context.Context) error {
	for {
		rest := time.After(restBetween)
		err := w.term(ctx)
		w.note(func(s *standing) { *s = standing{trouble: err} })
		w.metrics.leader.Set(0)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, bus.ErrDeposed):
			return fmt.Errorf("another watcher has taken over STATE: %w", err)
		case err != nil:
			w.log.Warn("this term has ended; beginning another", "error", err)
		}
		select {
		case <-rest:
		case <-ctx.Done():
			return nil
		}
	}
}

// errReconnected ends a term: what the server lost while it was away is only found by reading STATE again.
var errReconnected = errors.New("the bus was away, so STATE is read again")

func (w *service) reconnected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.endTerm != nil {
		w.endTerm(errReconnected)
	}
}

func (w *service) note(change func(*standing)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.standing)
}

func (w *service) stands() (standing, *bus.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.standing, w.conn
}

// checks are what /readyz asks. A watcher that stands by is ready.
func (w *service) checks() []telemetry.Check {
	return []telemetry.Check{
		{Name: "bus", Run: func(context.Context) error {
			_, conn := w.stands()
			if conn == nil {
				return fmt.Errorf("not connected yet to %s", w.settings.Bus)
			}
			return conn.Connected()
		}},
		{Name: "state", Run: func(context.Context) error {
			switch s, _ := w.stands(); {
			case s.trouble != nil:
				return s.trouble
			case s.leading && !s.complete:
				return fmt.Errorf("the source has not listed everything yet")
			}
			return nil
		}},
		{Name: "deletions", Run: func(context.Context) error {
			if s, _ := w.stands(); s.held != nil {
				return fmt.Errorf("%d deletions wait for approval: deltaplane approve %s", s.held.GetDeletions(), s.held.GetId())
			}
			return nil
		}},
	}
}
