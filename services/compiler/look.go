// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// lookEvery is how often the leader looks whether the streams are still those it has read: nothing else tells
	// an idle one that they were removed, or restored from a backup.
	lookEvery = 10 * time.Second
	// reportsOf is of how long nodes' reports are read at the start; a node reports once in 10 s at least.
	reportsOf = 15 * time.Second
)

// look returns why the term must end, once it must.
func (t *term) look(ctx context.Context) error {
	var state uint64
	for sleep(ctx, lookEvery) == nil {
		epoch, _, err := t.newestEpoch(ctx, schemas.Deltas.Name, schemas.SubjectEpoch)
		switch {
		case err != nil:
			return err
		case epoch.GetEpoch() > t.fence.Epoch():
			return fmt.Errorf("epoch %d of DELTA is %s's: %w", epoch.GetEpoch(), epoch.GetHolder(), bus.ErrDeposed)
		case epoch.GetEpoch() < t.fence.Epoch():
			return fmt.Errorf("DELTA has gone back from epoch %d to %d: it was removed or restored", t.fence.Epoch(), epoch.GetEpoch())
		}
		_, sequence, err := t.newestEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch)
		switch {
		case err != nil:
			return err
		case sequence < state:
			return fmt.Errorf("STATE has gone back from message %d to %d: it was removed or restored", state, sequence)
		}
		state = sequence
	}
	return ctx.Err()
}

// newestEpoch returns the newest epoch of a stream and its sequence; none if the stream has none.
func (t *term) newestEpoch(ctx context.Context, stream, subject string) (*schemas.Epoch, uint64, error) {
	newest, sequence := &schemas.Epoch{}, uint64(0)
	err := t.conn.Read(ctx, bus.ReadOptions{Stream: stream, Subjects: []string{subject}}, func(r bus.Record) error {
		sequence = r.Sequence
		return proto.Unmarshal(r.Data, newest)
	})
	return newest, sequence, err
}

// lastReports hears what nodes reported shortly before this term, so that their standing is known at once.
func (t *term) lastReports(ctx context.Context) {
	err := t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.AppliedReports.Name, FromTime: time.Now().Add(-reportsOf)},
		func(r bus.Record) error {
			t.applied(bus.Message{Subject: r.Subject, Data: r.Data})
			return ctx.Err()
		})
	if err != nil && ctx.Err() == nil {
		t.log.Warn("what nodes reported last can't be read; they report again within 10 s", "error", err)
	}
}
