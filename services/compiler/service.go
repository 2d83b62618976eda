// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// How leading is taken and left.
const (
	// leaderless is how long no heartbeat may come until a compiler that stands by takes over.
	leaderless = 3 * time.Second
	// restBetween is the least time from one term to the next: a term that fails at once must not spin.
	restBetween = time.Second
	// stuckAfter is how long the loop may take for one turn until the process counts as beyond help.
	stuckAfter = 2 * time.Minute
	// raiseEvery is how often a node's word ends a term at most, so that a node that lies can't keep all from leading.
	raiseEvery = time.Minute
)

// service is a compiler: it stands by until nobody leads, then leads until it is deposed or something fails.
type service struct {
	settings *settings
	name     string
	log      *slog.Logger
	metrics  *metrics
	seals    seals
	unsealed strange
	conn     *bus.Conn

	mu      sync.Mutex
	phase   string                  // what it is doing, for readyz; empty when all is well
	trouble error                   // why the last term ended; nil once one works
	endTerm context.CancelCauseFunc // of the term that runs; nil in none
	epoch   uint64                  // of the term that runs; 0 in none, and until it is taken
	beat    time.Time               // of the newest heartbeat of another compiler
	turn    time.Time               // when the loop last came round; zero when it doesn't run
	above   core.Outranked          // what a node has seen that the log had lost
	raised  time.Time               // when above was set last
}

func newService(s *settings, name string, log *slog.Logger) *service {
	return &service{settings: s, name: name, log: log, metrics: newMetrics(), phase: "it hasn't reached the bus yet"}
}

// run stands by and leads in turn until ctx ends.
func (s *service) run(ctx context.Context) error {
	if err := s.openSeals(); err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Options{
		URL: s.settings.Bus, Name: "compiler " + s.name, Log: s.log, OnReconnect: s.reconnected,
		CredentialsFile: s.settings.BusCredentials, RootCAFile: s.settings.BusCA,
		OnDropped: func(string, int) { s.metrics.dropped.Inc() },
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Close()
	s.set(func() { s.conn = conn })
	beats, err := conn.Subscribe(schemas.SubjectHeartbeat, s.heard)
	if err != nil {
		return err
	}
	defer beats.Stop()
	for ctx.Err() == nil {
		rest := time.After(restBetween)
		if err := s.standBy(ctx); err != nil {
			return nil
		}
		err := s.lead(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.set(func() {
			if s.trouble = err; errors.Is(err, bus.ErrDeposed) {
				s.trouble = nil // that another leads is no trouble
			}
		})
		s.log.Warn("no longer leading; another term may follow", "error", err)
		select {
		case <-rest:
		case <-ctx.Done():
		}
	}
	return nil
}

// standBy waits until nobody leads: at once if nobody answers for the cluster's status, else when heartbeats stop.
func (s *service) standBy(ctx context.Context) error {
	s.set(func() { s.phase = "" })
	_, err := s.conn.Request(ctx, schemas.SubjectStatus, encode(&schemas.StatusRequest{}))
	switch {
	case errors.Is(err, bus.ErrNobody) && s.silence() >= leaderless:
		return ctx.Err()
	case err == nil:
		s.log.Info("standing by: another compiler leads")
		s.set(func() { s.trouble = nil })
	}
	begun := time.Now()
	for {
		if since := min(s.silence(), time.Since(begun)); since >= leaderless {
			return ctx.Err()
		} else if err := sleep(ctx, leaderless-since); err != nil {
			return err
		}
	}
}

// heard notes heartbeats of other compilers. One of a higher epoch deposes this one.
func (s *service) heard(m bus.Message) {
	data, err := s.seals.trust.Open(seal.Heartbeat, m.Data)
	if err != nil {
		s.refuse("a heartbeat", err)
		return
	}
	var beat schemas.Heartbeat
	if err := proto.Unmarshal(data, &beat); err != nil {
		s.log.Warn("a heartbeat that can't be read is ignored", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != 0 && beat.GetEpoch() <= s.epoch {
		return // our own, or of one that hasn't noticed yet
	}
	s.beat = time.Now()
	if s.epoch != 0 {
		s.endTerm(fmt.Errorf("a compiler leads in epoch %d, this one in %d: %w", beat.GetEpoch(), s.epoch, bus.ErrDeposed))
	}
}

// silence is how long no other compiler was heard.
func (s *service) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.beat)
}

// errReconnected ends a term: what the server lost while it was away is only found by reading the log again.
var errReconnected = errors.New("the bus was away, so the log is read again")

func (s *service) reconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endTerm != nil {
		s.endTerm(errReconnected)
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
	s.publish(schemas.EventSubject("compiler", ""), encode(event))
}

// publish sends what may be lost: nodes find out by the next heartbeat, people by the log.
func (s *service) publish(subject string, data []byte) {
	if err := s.conn.Publish(subject, data); err != nil {
		s.metrics.unsent.Inc()
		s.log.Debug("not published", "subject", subject, "error", err)
	}
}

// pulse keeps others from taking over while the loop works on something long, such as folding the log: a
// heartbeat without positions says only who leads.
func (s *service) pulse(ctx context.Context, epoch uint64, last func() time.Time) {
	for sleep(ctx, time.Second) == nil {
		if time.Since(last()) > 1500*time.Millisecond {
			beat := encode(&schemas.Heartbeat{Epoch: epoch, Sent: now()})
			s.publish(schemas.SubjectHeartbeat, s.seals.signer.SealOne(seal.Heartbeat, beat))
		}
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
