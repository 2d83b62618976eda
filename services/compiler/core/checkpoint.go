// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// checkpointState is when the next checkpoint is due.
type checkpointState struct {
	last    time.Time // when the newest was written; zero if the log has none
	size    int       // its bytes
	bytes   int       // of deltas since
	writing int       // bytes of the one that is being written
	// The keys that sealed the newest and the one that is being written: who has given up the old key can't fold what it
	// sealed.
	key, sealing seal.KeyID
}

// deltasBetween is how many bytes of deltas there are between checkpoints at least, so that small ones don't
// follow each other.
const deltasBetween = 16 << 20

// checkpointDue says whether folding the log would take much longer than folding a new checkpoint, or whether
// the log will soon forget the newest one.
func (c *Core) checkpointDue(now time.Time) bool {
	if !c.ready() || c.revision == 0 {
		return false
	}
	s := c.checkpoint
	return s.last.IsZero() || s.key != c.o.Signer.ID() || s.bytes > max(deltasBetween, 4*s.size) || now.Sub(s.last) >= schemas.CheckpointInterval
}

// beginCheckpoint prepares a checkpoint. It may take several batches; until the last is stored it doesn't
// count, and no delta comes between.
func (c *Core) beginCheckpoint(now time.Time) {
	var snapshots [][]byte
	for _, l := range slices.SortedFunc(maps.Keys(c.layers), compareLayers) {
		held := c.layers[l]
		snapshots = append(snapshots, c.snapshot(l, held)...)
	}
	head := &schemas.Checkpoint{
		Epoch: uint64(c.epoch), Revision: uint64(c.revision), Snapshots: uint32(len(snapshots)), Committed: timestamp(now),
		StateSequence: c.done, Hold: c.log.hold, LastIdentity: uint32(c.log.identity),
	}
	if c.compiled == nil {
		head.StateSequence = c.log.state // of when the rows were compiled
	}
	head.SnapshotsDigest = digestOfAll(snapshots)
	head.Freed = c.freed()
	set, backend := c.ids.Next()
	head.NextSet, head.NextBackend = uint32(set), uint32(backend)
	c.checkpoint.writing, c.checkpoint.sealing = 0, c.o.Signer.ID()
	var s *step
	for _, data := range slices.Concat([][]byte{c.o.Signer.SealOne(seal.Checkpoint, encode(head))}, snapshots) {
		if s == nil || len(s.records) >= c.o.MaxBatch || s.bytes+len(data) > c.o.MaxBatchBytes {
			c.appending = append(c.appending, step{})
			s = &c.appending[len(c.appending)-1]
		}
		s.records = append(s.records, Record{schemas.SubjectCheckpoint, data})
		s.bytes += len(data)
		c.checkpoint.writing += len(data)
	}
	s.checkpoint = true
}

// digestOfAll is what a checkpoint says of its snapshots, so that none of another checkpoint can stand among them.
func digestOfAll(messages [][]byte) []byte {
	all := sha256.New()
	for _, data := range messages {
		sum := sha256.Sum256(data)
		all.Write(sum[:])
	}
	return all.Sum(nil)
}

func (c *Core) snapshot(l model.Layer, held *layer) [][]byte {
	messages, err := wire.EncodeSnapshot(model.Snapshot{Layer: l, Position: held.at, Rows: held.rows.Rows()}, c.o.MaxMessage)
	if err != nil {
		panic("core: a snapshot can't be encoded: " + err.Error())
	}
	return c.o.Signer.Seal(seal.Snapshot, messages)
}

// maxFreed bounds the ids in quarantine that a checkpoint names, so that it stays one message. If it names as
// many, whoever folds it takes all ids that are not in use for freed when it was written.
const maxFreed = 30_000

func (c *Core) freed() []*schemas.FreedId {
	var freed []*schemas.FreedId
	sets, backends := c.ids.Quarantined()
	for _, f := range sets {
		freed = append(freed, &schemas.FreedId{Id: &schemas.FreedId_Set{Set: uint32(f.ID)}, Freed: timestamp(f.At)})
	}
	for _, f := range backends {
		freed = append(freed, &schemas.FreedId{Id: &schemas.FreedId_Backend{Backend: uint32(f.ID)}, Freed: timestamp(f.At)})
	}
	return freed[:min(len(freed), maxFreed)]
}

// heartbeat tells nodes once in a while how far they should be. While something is being appended it names no
// positions: they are not the log's yet. Nor before all was compiled: the log may have been cut, and nodes that are
// ahead of it would give up their rows for older ones.
func (c *Core) heartbeat(now time.Time) (out Output) {
	if now.Before(c.beat) {
		return out
	}
	c.beat = now.Add(c.o.Heartbeat)
	c.pieces.forget(now)
	if c.nodesNew {
		c.nodesNew = false
		lost := map[string]bool{}
		for n := range c.db.Snapshot().Nodes() {
			lost[n.Name.Name] = n.Lost
		}
		c.fleet.Know(lost)
	}
	c.fleet.Forget(now, time.Hour)
	out.Add(c.adapt(now))
	m := &schemas.Heartbeat{Epoch: uint64(c.epoch), Revision: uint64(c.last.revision), Sent: timestamp(c.sent(now))}
	if c.ready() && len(c.appending) == 0 {
		m.Positions, m.StateSequence, m.Digest, m.UnchangedAt = c.positions(now), c.done, c.Digest().Bytes(), c.unchanged
		if c.log.hold == nil && !c.doubt {
			m.State = cmp.Or(c.state, &schemas.Epoch{})
		}
		if c.done == c.seen {
			m.StateStored = timestamppb.New(c.stored)
		}
	}
	out.Publish = []Message{{schemas.SubjectHeartbeat, c.o.Signer.SealOne(seal.Heartbeat, encode(m))}}
	return out
}

// sent dates a heartbeat later than all before it, also when the clock was put back: nodes take an older one for a replay.
func (c *Core) sent(now time.Time) time.Time {
	if !now.After(c.lastSent) {
		now = c.lastSent.Add(time.Microsecond)
	}
	c.lastSent = now
	return now
}

// The node layers that a heartbeat names: few enough for a heartbeat to stay below a kilobyte.
const (
	recentlyChanged = 10 * time.Second
	maxPositions    = 20
)

// positions returns those of the cluster layer and of the node layers that changed of late and that their node hasn't
// said it holds. Most nodes say so within a second, so there is room for those that may have missed it; if there are
// more they take turns, those that changed first going first.
func (c *Core) positions(now time.Time) []*schemas.Position {
	var late []model.Layer
	for l, held := range c.layers {
		if l.Kind == model.LayerNode && now.Sub(held.changed) <= recentlyChanged && !c.fleet.Holds(l.Name, l, held.at) {
			late = append(late, l)
		}
	}
	slices.SortFunc(late, func(a, b model.Layer) int {
		return cmp.Or(c.layers[a].changed.Compare(c.layers[b].changed), compareLayers(a, b))
	})
	list := []*schemas.Position{wire.PositionToProto(model.ClusterLayer, c.Position(model.ClusterLayer))}
	for i := range min(len(late), maxPositions) {
		l := late[(c.named+i)%len(late)]
		list = append(list, wire.PositionToProto(l, c.Position(l)))
	}
	if c.named += maxPositions; c.named >= len(late) {
		c.named = 0
	}
	return list
}
