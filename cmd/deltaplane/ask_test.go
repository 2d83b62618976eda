// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// answer answers all requests on a subject, and counts them.
func (s *stage) answer(subject string, with proto.Message) *atomic.Int32 {
	s.t.Helper()
	asked := &atomic.Int32{}
	data := encoded(s.t, with)
	if _, err := s.conn.Respond(subject, "", func(_ context.Context, _ []byte, reply func([]byte) error) { asked.Add(1); _ = reply(data) }); err != nil {
		s.t.Fatal(err)
	}
	return asked
}

// stop stops the leading compiler, as SIGSTOP does, or kills it: who is stopped still takes what it is asked. asked gets each
// question.
func (s *stage) stop(killed bool) (asked chan struct{}) {
	s.t.Helper()
	s.compiler.Stop()
	asked = make(chan struct{}, 100)
	if !killed {
		if _, err := s.conn.Respond(schemas.SubjectStatus, "", func(context.Context, []byte, func([]byte) error) { asked <- struct{}{} }); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.conn.Flush(); err != nil {
		s.t.Fatal(err)
	}
	return asked
}

// standBy has a compiler send pulses that say that it stands by, until the test ends. Who receives waits for the next.
func (s *stage) standBy() (pulses chan struct{}) {
	s.t.Helper()
	pulses = make(chan struct{})
	done := make(chan struct{})
	data := encoded(s.t, &schemas.Pulse{Service: "compiler", Name: "two", Able: true})
	go func() {
		defer close(done)
		every := time.NewTicker(20 * time.Millisecond)
		defer every.Stop()
		for s.t.Context().Err() == nil {
			_ = s.conn.Publish(schemas.PulseSubject("compiler"), data)
			select {
			case pulses <- struct{}{}:
			default:
			}
			select {
			case <-every.C:
			case <-s.t.Context().Done():
			}
		}
	}()
	s.t.Cleanup(func() { <-done })
	return pulses
}

// Fault 2: right after the leading compiler was stopped or killed, commands ask on until the other one leads.
func TestCommandsAskOnUntilSomebodyLeads(t *testing.T) {
	for what, killed := range map[string]bool{"stopped": false, "killed": true} {
		for _, args := range [][]string{{"status"}, {"wait", "812344"}, {"rollback", "812000", "--yes"}} {
			t.Run(strings.Join(args, " ")+" "+what, func(t *testing.T) {
				s := newStage(t)
				asked, pulses := s.stop(killed), s.standBy()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if stdout, stderr, code := command(t, args...); code != exitOK {
						t.Errorf("exit %d: %s%s", code, stdout, stderr)
					}
				}()
				if killed {
					<-pulses
				} else {
					<-asked
				}
				rollbacks := s.answer(schemas.SubjectRollback, &schemas.RollbackReply{Done: true, Revision: 812345, Text: "done"})
				s.answer(schemas.SubjectStatus, s.status)
				<-ended
				if n := rollbacks.Load(); args[0] == "rollback" && n != 1 {
					t.Errorf("it was ordered %d times, want once", n)
				}
			})
		}
	}
}

// Fault 2: while nobody leads, who asks is told which replicas there are.
func TestWhoAsksIsToldWhoIsThere(t *testing.T) {
	s := newStage(t)
	s.stop(true)
	<-s.standBy()
	_, stderr, code := command(t, "wait", "4", "--timeout", "1s")
	if want := "no compiler leads; heard of: compiler two stands by"; code != exitNotHealthy || !strings.Contains(stderr, want) {
		t.Errorf("exit %d: %q doesn't say %q", code, stderr, want)
	}
}
