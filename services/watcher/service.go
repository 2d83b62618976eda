// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/lead/replica"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

const (
	// restBetween is the least time from one session to the next: one that fails at once must not spin.
	restBetween = time.Second
	// maxSetAsideTold bounds the objects set aside that one answer names.
	maxSetAsideTold = 256
	// shapeEvery is how often the watcher looks whether its source is there, which others must know to take over.
	shapeEvery = 250 * time.Millisecond
)

// source is where objects come from.
type source interface {
	// Run emits what it sees until ctx ends; the first inputs are complete lists. lost are the Nodes that STATE says are
	// lost, until the source knows better.
	Run(ctx context.Context, lost map[string]bool, emit func(core.Input)) error
	// Look asks for one object as it is now, or with an empty reference for all that there is. What it returns is told of,
	// or will be, by what Run emits.
	Look(ctx context.Context, ref *schemas.ObjectRef) (core.Sighting, error)
	// Away says why the source can't be seen at the moment; nil if it can.
	Away() error
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
	// confirmEvery is how often it writes its epoch once more, though nothing has happened.
	confirmEvery time.Duration

	source     source
	sourceName string
	kinds      []string
	versioned  bool           // the source's versions grow
	recorder   *kube.Recorder // of Events; nil without a Kubernetes
	lead       lead.Options
	streams    streams.Watch // of STATE; the session that runs uses it
	// reviewer knows nodes' tokens; nil without an API server.
	reviewer reviewer
	nodes    nodes // that the source has

	mu       sync.Mutex
	conn     *bus.Conn
	signer   *keyfile.Signer
	own      *seal.Trust // what signer has sealed
	highest  uint64      // number of a fact in STATE, or said; of the session that runs alone
	replica  *replica.Replica
	current  *session // that runs; nil in none
	standing standing
}

// standing is how the watcher stands, for those who ask.
type standing struct {
	leading  bool
	warm     bool   // it could lead: STATE and the source are known
	cold     string // what can't be read, while it isn't
	complete bool
	held     *schemas.HeldDeletions
	trouble  error // why the last session ended; nil once one is warm
}

func newService(s *settings, name string, log *slog.Logger) *service {
	return &service{
		settings: s, name: name, log: log, metrics: newMetrics(), started: time.Now(), lookEvery: lookEvery, confirmEvery: confirmEvery,
		lead: lead.Options{Service: "watcher", Name: name},
	}
}

// run stands by, and leads whenever it is this watcher's turn, until ctx ends.
func (w *service) run(ctx context.Context) error {
	if err := w.openKey(); err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, w.busOptions())
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Close()
	if w.recorder != nil {
		stop, err := w.recorder.Start(ctx)
		if err != nil {
			return fmt.Errorf("begin to write Kubernetes Events: %w", err)
		}
		defer stop()
	}
	r := replica.New(conn, replica.Options{
		Options: w.lead, Stream: schemas.StateFacts.Name, EpochSubject: schemas.SubjectStateEpoch, Log: w.log,
	})
	w.mu.Lock()
	w.conn, w.replica = conn, r
	w.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.Run(ctx, w.leads) })
	group.Go(func() error {
		w.sessions(ctx)
		return nil
	})
	group.Go(func() error { return conn.Ended(ctx) })
	return group.Wait()
}

// sessions runs one session after the other until ctx ends.
func (w *service) sessions(ctx context.Context) {
	for ctx.Err() == nil {
		rest := time.After(restBetween)
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		w.note(func(s *standing) { *s = standing{trouble: err} })
		w.replica.Set(lead.Shape{})
		w.log.Warn("reading STATE and the source anew", "error", err)
		select {
		case <-rest:
		case <-ctx.Done():
		}
	}
}

// leads has the session that runs lead until ctx ends or the session does.
func (w *service) leads(ctx context.Context, fence *bus.Fence) error {
	w.mu.Lock()
	s := w.current
	w.mu.Unlock()
	if s == nil {
		return errors.New("STATE and the source are being read anew")
	}
	return s.leads(ctx, fence)
}

// errReconnected ends a session: what the server lost while it was away is only found by reading STATE again.
var errReconnected = errors.New("the bus was away")

func (w *service) reconnected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current != nil {
		w.current.end(errReconnected)
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

// checks are what /readyz asks. A watcher that stands by is ready once it could lead.
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
			case !s.warm && s.cold != "":
				return fmt.Errorf("the source has not listed everything yet: %s", s.cold)
			case !s.warm || s.leading && !s.complete:
				return errors.New("the source has not listed everything yet")
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
