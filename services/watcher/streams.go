// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/schemas"
)

// lookAtStream asks how STATE stands, and tells what is wrong with it, or no longer.
func (w *service) lookAtStream(ctx context.Context) (streams.State, error) {
	is, err := w.conn.StreamState(ctx, schemas.StateFacts.Name)
	if err != nil {
		return is, err
	}
	raised, over := w.streams.Look(time.Now(), schemas.StateFacts, is)
	w.metrics.stream(is, w.streams.Alarms())
	for _, alarm := range raised {
		if err := w.tell(alarmed(schemas.Severity_SEVERITY_ERROR, string(alarm.Kind), alarm.Text)); err != nil {
			return is, err
		}
	}
	for _, alarm := range over {
		if err := w.tell(alarmed(schemas.Severity_SEVERITY_INFO, string(alarm.Kind)+"_over", "No longer so: "+alarm.Text)); err != nil {
			return is, err
		}
	}
	return is, nil
}

func alarmed(severity schemas.Severity, kind, text string) *schemas.Event {
	return &schemas.Event{Severity: severity, Service: "watcher", Kind: kind, Text: text, Happened: timestamppb.Now()}
}
