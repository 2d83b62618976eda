// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/schemas"
)

// streamsEvery is how often each compiler looks how the streams stand.
const streamsEvery = 5 * time.Second

// streamWatch is what a compiler knows of how the streams stand, for as long as its process runs: sessions come and go.
type streamWatch struct {
	watch streams.Watch
	told  []streams.Alarm // that stand and that this compiler has told as the leader
}

// watchStreams looks how the streams stand until ctx ends.
func (s *service) watchStreams(ctx context.Context) {
	w := &streamWatch{}
	for ctx.Err() == nil {
		s.lookAtStreams(ctx, w)
		_ = sleep(ctx, s.streamsEvery)
	}
}

// lookAtStreams asks how each stream stands, makes reports and events a new stream where theirs is missing, and tells
// what is wrong. DELTA is made anew by the session, which has to know; STATE by the watcher.
func (s *service) lookAtStreams(ctx context.Context, w *streamWatch) {
	for _, of := range schemas.Streams {
		is, err := s.conn.StreamState(ctx, of.Name)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Debug("how a stream stands isn't known", "stream", of.Name, "error", err)
			}
			continue
		}
		w.watch.Look(time.Now(), of, is)
		if is.Missing && (of.Name == schemas.AppliedReports.Name || of.Name == schemas.EventLog.Name) {
			if err := s.conn.EnsureStreams(ctx, s.settings.replicas, of); err != nil && ctx.Err() == nil {
				s.log.Warn("a stream is missing and can't be made anew; trying again", "stream", of.Name, "error", err)
			}
		}
	}
	alarms := w.watch.Alarms()
	s.metrics.streams(w.watch.States(), alarms)
	var leads bool
	s.set(func() { s.alarms, leads = alarms, s.epoch > 0 })
	if leads {
		w.tell(s, alarms)
	}
}

// tell tells, as the leader, what is wrong and what no longer is. STATE's the watcher tells.
func (w *streamWatch) tell(s *service, alarms []streams.Alarm) {
	alarms = slices.DeleteFunc(slices.Clone(alarms), func(a streams.Alarm) bool { return a.Stream == schemas.StateFacts.Name })
	same := func(a streams.Alarm) func(streams.Alarm) bool {
		return func(b streams.Alarm) bool { return a.Stream == b.Stream && a.Kind == b.Kind && a.Since.Equal(b.Since) }
	}
	for _, a := range alarms {
		if !slices.ContainsFunc(w.told, same(a)) {
			s.tell(streamEvent(schemas.Severity_SEVERITY_ERROR, string(a.Kind), a.Text))
		}
	}
	for _, a := range w.told {
		if !slices.ContainsFunc(alarms, func(b streams.Alarm) bool { return a.Stream == b.Stream && a.Kind == b.Kind }) {
			s.tell(streamEvent(schemas.Severity_SEVERITY_INFO, string(a.Kind)+"_over", "No longer so: "+a.Text))
		}
	}
	w.told = alarms
}

func streamEvent(severity schemas.Severity, kind, text string) *schemas.Event {
	return &schemas.Event{Severity: severity, Service: "compiler", Kind: kind, Text: text, Happened: now()}
}

// streamFaults is what a status says of the streams.
func (s *service) streamFaults() (faults []*schemas.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.alarms {
		faults = append(faults, &schemas.Fault{Kind: string(a.Kind), Text: a.Text, Since: timestamppb.New(a.Since), Stream: a.Stream})
	}
	return faults
}
