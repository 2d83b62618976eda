// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// lookEvery is how often a compiler looks whether the streams are still those it has read: nothing else tells
	// an idle one that they were removed, or restored from a backup.
	lookEvery = 10 * time.Second
	// reportsOf is of how long nodes' reports are read at the start; a node reports once in 10 s at least.
	reportsOf = 15 * time.Second
)

// look returns why what was read no longer counts, once it doesn't.
func (t *session) look(ctx context.Context) error {
	delta, state := uint64(0), uint64(0)
	for sleep(ctx, lookEvery) == nil {
		epoch, _, err := t.newestEpoch(ctx, schemas.Deltas.Name, schemas.SubjectEpoch)
		if err != nil {
			return err
		}
		newest, sequence, err := t.newestEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch)
		if err != nil {
			return err
		}
		if was := t.unsure.Load(); was != nil && *was != identify(newest) {
			return errStateReplaced
		}
		if err := changed(delta, epoch.GetEpoch(), state, sequence); err != nil {
			return err
		}
		delta, state = epoch.GetEpoch(), sequence
	}
	return ctx.Err()
}

// changed says why the streams are no longer those that were read: DELTA's epoch was a higher one before, or the message
// that STATE's epoch is in a later one.
func changed(epochBefore, epoch, stateBefore, state uint64) error {
	switch {
	case epoch < epochBefore:
		return fmt.Errorf("DELTA has gone back from epoch %d to %d: it was removed or restored", epochBefore, epoch)
	case state < stateBefore:
		return fmt.Errorf("STATE has gone back from message %d to %d: it was removed or restored", stateBefore, state)
	}
	return nil
}

// newestEpoch returns the newest epoch of a stream and its sequence; none if the stream has none. What is no epoch is
// passed over: whoever takes the next one says so.
func (t *session) newestEpoch(ctx context.Context, stream, subject string) (*schemas.Epoch, uint64, error) {
	newest, sequence := &schemas.Epoch{}, uint64(0)
	err := t.conn.Read(ctx, bus.ReadOptions{Stream: stream, Subjects: []string{subject}}, func(r bus.Record) error {
		if epoch, err := bus.ReadEpoch(r.Data); err == nil {
			newest, sequence = epoch, r.Sequence
		}
		return nil
	})
	return newest, sequence, err
}

// lastReports hears what nodes reported shortly before, so that their standing is known at once.
func (t *session) lastReports(ctx context.Context) {
	err := t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.AppliedReports.Name, FromTime: time.Now().Add(-reportsOf)},
		func(r bus.Record) error {
			t.applied(bus.Message{Subject: r.Subject, Data: r.Data})
			return ctx.Err()
		})
	if err != nil && ctx.Err() == nil {
		t.log.Warn("what nodes reported last can't be read; they report again within 10 s", "error", err)
	}
}
