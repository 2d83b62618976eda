// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/ordered"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// readLog folds DELTA: from shortly before the newest checkpoint if there is one, else all of it. It returns the last
// message, too.
func (t *session) readLog(ctx context.Context) (log *core.Fold, last bus.Record, err error) {
	late := time.Now().Add(-schemas.CheckpointInterval - time.Hour)
	log, last, err = t.foldFrom(ctx, late)
	if err == nil && (!log.Checkpointed() || log.Whole() != nil) {
		log, last, err = t.foldFrom(ctx, time.Time{})
	}
	return log, last, err
}

// outdated are records of DELTA whose key isn't known: that was given up, if a checkpoint of a trusted key follows, which
// takes their place; then there is nothing to tell.
type outdated struct {
	first bus.Record
	bad   error
	count int
}

func (o *outdated) add(r bus.Record, bad error) {
	if o.count++; o.count == 1 {
		o.first, o.bad = r, bad
	}
}

func (t *session) foldFrom(ctx context.Context, from time.Time) (log *core.Fold, last bus.Record, err error) {
	log = core.NewFold(0)
	old := outdated{}
	err = t.readRecords(func(add func(bus.Record) error) error {
		return t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.Deltas.Name, FromTime: from}, add)
	}, func(r bus.Record, bad error) error {
		last = bus.Record{Sequence: r.Sequence, Time: r.Time}
		switch {
		case errors.Is(bad, seal.ErrUnknownKey):
			old.add(r, bad)
			return nil
		case bad != nil:
			t.refuseRecord(r, bad)
			return nil
		}
		was := log.Checkpoint()
		if err := log.Add(r.Subject, r.Data); err != nil {
			t.log.Debug("a message of DELTA leaves a gap", "sequence", r.Sequence, "error", err)
		}
		if log.Checkpoint() != was {
			old = outdated{}
		}
		return nil
	})
	if old.count > 0 {
		t.refuseRecord(old.first, old.bad)
		t.metrics.unsealed.Add(float64(old.count - 1))
	}
	return log, last, err
}

// readRecords reads DELTA, checks what is sealed, and hands it on in order.
func (t *session) readRecords(read func(add func(bus.Record) error) error, each func(r bus.Record, bad error) error) error {
	type record struct {
		bus.Record
		bad error // why it isn't to be used
	}
	records := ordered.New(func(r *record) { r.bad = t.checkRecord(&r.Record) }, func(r *record) error { return each(r.Record, r.bad) })
	err := read(func(r bus.Record) error { return records.Add(record{Record: r}) })
	return errors.Join(err, records.Close())
}

// followLog hands the records of DELTA after the last one that was read to the loop.
func (t *session) followLog(ctx context.Context, last bus.Record) error {
	err := t.readRecords(func(add func(bus.Record) error) error {
		return t.conn.Follow(ctx, bus.ReadOptions{
			Stream: schemas.Deltas.Name, After: last,
			OnUnsure: func() error { return bus.ErrReplaced }, // no newer message takes an older one's place
		}, add)
	}, func(r bus.Record, bad error) error {
		if bad != nil {
			t.refuseRecord(r, bad)
			return nil
		}
		select {
		case t.records <- core.Record{Subject: r.Subject, Data: r.Data}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err == nil && ctx.Err() == nil {
		err = errors.New("following DELTA has ended")
	}
	return err
}
