// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// How a revision is read from DELTA.
const (
	historyWithin = 20 * time.Second
	// laterMost is how many messages after the revision are read for what ids have meant since. Beyond, a rollback gives
	// new ids to what isn't there any more, and its connections begin anew.
	laterMost = 50_000
)

// errEnough ends reading.
var errEnough = errors.New("enough was read")

// answerRollback answers a RollbackRequest: the log is read here, beside the loop, and the loop does the rest.
func (t *session) answerRollback(ctx context.Context, data []byte, reply func([]byte) error) {
	r := &schemas.RollbackRequest{}
	if err := wire.Unmarshal(data, r); err != nil {
		t.refuseRollback(reply, "This is no RollbackRequest: "+err.Error())
		return
	}
	begun := time.Now()
	h, err := t.history(ctx, model.Revision(r.GetRevision()))
	if err != nil {
		t.refuseRollback(reply, fmt.Sprintf("revision %d can't be read from DELTA: %v", r.GetRevision(), err))
		return
	}
	t.log.Info("read DELTA for a rollback", "revision", r.GetRevision(), "by", r.GetBy(), "took", time.Since(begun))
	t.answer(func(now time.Time, to any, _ []byte) core.Output { return t.core.Rollback(now, to, r, h) })(ctx, nil, reply)
}

func (t *session) refuseRollback(reply func([]byte) error, why string) {
	if err := reply(encode(&schemas.RollbackReply{Text: why})); err != nil {
		t.log.Warn("an answer broke off", "error", err)
	}
}

// history reads what DELTA says of a revision: from the newest checkpoint that isn't above it.
func (t *session) history(ctx context.Context, revision model.Revision) (*core.History, error) {
	ctx, cancel := context.WithTimeout(ctx, historyWithin)
	defer cancel()
	from, err := t.checkpointBefore(ctx, revision)
	if err != nil {
		return nil, err
	}
	var h *core.History
	later := 0
	err = t.readRecords(func(add func(bus.Record) error) error {
		return t.conn.Read(ctx, bus.ReadOptions{Stream: schemas.Deltas.Name, FromSequence: from}, add)
	}, func(r bus.Record, bad error) error {
		if h == nil {
			h = core.NewHistory(revision, r.Sequence == 1)
		}
		if bad != nil {
			t.refuseRecord(r, bad)
			return nil
		}
		h.Add(core.Record{Subject: r.Subject, Data: r.Data})
		if !h.Past() {
			return nil
		}
		if later++; later > laterMost {
			h.Leave()
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if h == nil {
		return nil, errors.New("it has no messages")
	}
	return h, nil
}

// checkpointBefore returns the sequence of the newest checkpoint that isn't above a revision; 1 if there is none. It goes
// from one checkpoint's head to the next, and passes over the snapshots between them.
func (t *session) checkpointBefore(ctx context.Context, revision model.Revision) (uint64, error) {
	before := uint64(1)
	for next := uint64(1); ; {
		r, err := t.conn.Next(ctx, schemas.Deltas.Name, schemas.SubjectCheckpoint, next)
		if err != nil || r == nil {
			return before, err
		}
		next = r.Sequence + 1
		var head schemas.Checkpoint
		if core.IsSnapshot(r.Data) || proto.Unmarshal(r.Data, &head) != nil {
			continue // of a checkpoint whose head is no longer kept
		}
		if head.GetRevision() > uint64(revision) {
			return before, nil
		}
		before, next = r.Sequence, next+uint64(head.GetSnapshots())
	}
}
