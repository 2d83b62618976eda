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
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/fair"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/lead/replica"
	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// How sessions follow each other.
const (
	// restBetween is the least time from one session to the next: one that fails at once must not spin.
	restBetween = time.Second
	// stuckAfter is how long the loop may take for one turn until the process counts as beyond help.
	stuckAfter = 2 * time.Minute
	// raiseEvery is how often nodes' word ends a term at most, so that nodes that lie can't keep all from leading. Of one node
	// it does so three times, then every wordEvery: who isn't lying needs it once each time that the log is lost.
	raiseEvery = time.Minute
	wordEvery  = 10 * time.Minute
	wordsMost  = 3
	// What one node may report: once a second is usual while it changes. What is more isn't read.
	reportsPerSecond, reportsAtOnce = 10, 100
	// What one node may ask, which is more than the core answers of it: what is beyond isn't looked at, so that it takes no
	// time from the others.
	questionsPerSecond, questionsAtOnce = 200, 200
	// floodToldEvery is how often the loop is told of a node that reports or asks more.
	floodToldEvery = 5 * time.Second
)

// service is a compiler: it stands by, and leads while this replica has DELTA's epoch.
type service struct {
	settings *settings
	name     string
	log      *slog.Logger
	metrics  *metrics
	seals    seals
	unsealed strange
	conn     *bus.Conn
	replica  *replica.Replica

	mu      sync.Mutex
	phase   string         // what it is doing, for readyz; empty when all is well
	trouble error          // why the last session ended; nil once one works
	running *session       // that knows the streams; nil in none
	epoch   uint64         // it leads in; 0 while it stands by
	turn    time.Time      // when the loop last came round; zero when it doesn't run
	memory  core.Memory    // of the session before
	above   core.Outranked // what a node has seen that the log had lost
	raised  time.Time      // when above was set last
	alarms  []streams.Alarm

	words     *fair.Limiter // by which nodes end terms
	reports   *fair.Limiter // that are read of each node
	questions *fair.Limiter // the same
	named     *fair.Limiter // nodes that flood

	streamsEvery time.Duration
	// factNumber is the highest number of a fact that was read, in any session.
	factNumber uint64
}

func newService(s *settings, name string, log *slog.Logger) *service {
	return &service{
		settings: s, name: name, log: log, metrics: newMetrics(), phase: "it hasn't reached the bus yet", streamsEvery: streamsEvery,
		words:     fair.New(rate.Every(wordEvery), wordsMost),
		reports:   fair.New(reportsPerSecond, reportsAtOnce),
		questions: fair.New(questionsPerSecond, questionsAtOnce),
		named:     fair.New(rate.Every(floodToldEvery), 1),
	}
}

// run stands by and leads until ctx ends.
func (s *service) run(ctx context.Context) error {
	if err := s.openSeals(); err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Options{
		URL: s.settings.Bus, Name: "compiler " + s.name, Log: s.log,
		CredentialsFile: s.settings.BusCredentials, RootCAFile: s.settings.BusCA,
		OnDropped: func(string, int) { s.metrics.dropped.Inc() },
		OnBroken:  func(stream string) { s.metrics.broken.WithLabelValues(stream).Inc() },
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Close()
	s.set(func() {
		s.conn = conn
		s.replica = replica.New(conn, replica.Options{
			Options: lead.Options{Service: "compiler", Name: s.name},
			Stream:  schemas.Deltas.Name, EpochSubject: schemas.SubjectEpoch, Log: s.log,
		})
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.replica.Run(ctx, s.lead) })
	group.Go(func() error { s.sessions(ctx); return nil })
	group.Go(func() error { s.watchStreams(ctx); return nil })
	group.Go(func() error { return conn.Ended(ctx) })
	return group.Wait()
}

// sessions runs one after the other until ctx ends.
func (s *service) sessions(ctx context.Context) {
	for ctx.Err() == nil {
		rest := time.After(restBetween)
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		s.set(func() { s.trouble = err })
		s.log.Warn("the streams are read again", "reason", err)
		select {
		case <-rest:
		case <-ctx.Done():
		}
	}
}

func (s *service) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// checks are what health is asked about. A compiler that stands by is ready.
func (s *service) checks() []telemetry.Check {
	return []telemetry.Check{
		{Name: "bus", Run: func(context.Context) error {
			s.mu.Lock()
			conn := s.conn
			s.mu.Unlock()
			if conn == nil {
				return fmt.Errorf("not connected yet to %s", s.settings.Bus)
			}
			return conn.Connected()
		}},
		{Name: "compiling", Run: func(context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case s.trouble != nil:
				return s.trouble
			case s.phase != "":
				return errors.New("it waits: " + s.phase)
			}
			return nil
		}},
		{Name: "loop", Live: true, Run: func(context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if since := time.Since(s.turn); !s.turn.IsZero() && since > stuckAfter {
				return fmt.Errorf("one turn has taken %s", since.Truncate(time.Second))
			}
			return nil
		}},
	}
}

// tell publishes an event and logs it.
func (s *service) tell(event *schemas.Event) {
	level := slog.LevelWarn
	if event.GetSeverity() == schemas.Severity_SEVERITY_ERROR {
		level = slog.LevelError
	}
	s.log.Log(context.Background(), level, "event", "kind", event.GetKind(), "text", event.GetText())
	s.metrics.events.WithLabelValues(event.GetKind()).Inc()
	wire.BoundEvent(event)
	s.publish(schemas.EventSubject("compiler", ""), encode(event))
}

// publish sends what may be lost: nodes find out by the next heartbeat, people by the log.
func (s *service) publish(subject string, data []byte) {
	if err := s.conn.Publish(subject, data); err != nil {
		s.metrics.unsent.Inc()
		s.log.Debug("not published", "subject", subject, "error", err)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func encode(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic("compiler: encode a message of our own: " + err.Error())
	}
	return data
}
