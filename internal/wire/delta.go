// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// DeltaPart is one decoded part of a Delta: the whole if Parts is 1. Its Change is the part's own; Causes are in
// part 0.
type DeltaPart struct {
	model.Delta
	Part, Parts uint32
}

// SnapshotPart is one decoded chunk of a Snapshot: the whole if Parts is 1.
type SnapshotPart struct {
	model.Snapshot
	Part, Parts uint32
}

// EncodeDelta returns a delta as messages of at most maxBytes each.
func EncodeDelta(d model.Delta, maxBytes int) ([][]byte, error) {
	parts, err := DeltaToProto(d, maxBytes)
	return list(parts, func(m *schemas.Delta) []byte { return encode(m) }), err
}

// DeltaToProto returns a delta as messages whose encoding is at most maxBytes each.
func DeltaToProto(d model.Delta, maxBytes int) ([]*schemas.Delta, error) {
	head := &schemas.Delta{
		Epoch: uint64(d.Epoch), Layer: d.Layer.String(), From: uint64(d.From), To: uint64(d.To),
		DigestAfter: d.DigestAfter.Bytes(), Causes: list(d.Causes, CauseToProto), CausesLeftOut: d.CausesLeftOut,
		Part: MaxParts, Parts: MaxParts, Committed: timeToProto(d.Committed), StateSequence: d.StateSequence, UnchangedAt: d.UnchangedAt,
	}
	if len(d.Causes) > model.MaxCauses {
		head.Causes = head.Causes[:model.MaxCauses]
		head.CausesLeftOut += uint32(len(d.Causes) - model.MaxCauses)
	}
	what := fmt.Sprintf("delta of layer %s to revision %d", d.Layer, d.To)
	changes, err := splitBeside(head, &d.Change, maxBytes, what)
	if err != nil {
		return nil, err
	}
	parts := make([]*schemas.Delta, len(changes))
	for i, c := range changes {
		p := &schemas.Delta{
			Epoch: head.Epoch, Layer: head.Layer, From: head.From, To: head.To, DigestAfter: head.DigestAfter,
			Put: RowsToProto(c.Put), Remove: KeysToProto(c.Remove),
			Part: uint32(i), Parts: uint32(len(changes)), Committed: head.Committed, StateSequence: head.StateSequence,
		}
		if i == 0 {
			p.Causes, p.CausesLeftOut, p.UnchangedAt = head.Causes, head.CausesLeftOut, head.UnchangedAt
		}
		parts[i] = p
	}
	return parts, nil
}

// EncodeSnapshot returns a snapshot as messages of at most maxBytes each.
func EncodeSnapshot(s model.Snapshot, maxBytes int) ([][]byte, error) {
	chunks, err := SnapshotToProto(s, maxBytes)
	return list(chunks, func(m *schemas.Snapshot) []byte { return encode(m) }), err
}

// SnapshotToProto returns a snapshot as messages whose encoding is at most maxBytes each.
func SnapshotToProto(s model.Snapshot, maxBytes int) ([]*schemas.Snapshot, error) {
	head := &schemas.Snapshot{
		Epoch: uint64(s.Position.Epoch), Layer: s.Layer.String(), Revision: uint64(s.Position.Revision),
		Digest: s.Position.Digest.Bytes(), Chunk: MaxParts, Chunks: MaxParts,
	}
	what := fmt.Sprintf("snapshot of layer %s at revision %d", s.Layer, s.Position.Revision)
	changes, err := splitBeside(head, &model.Change{Put: s.Rows}, maxBytes, what)
	if err != nil {
		return nil, err
	}
	chunks := make([]*schemas.Snapshot, len(changes))
	for i, c := range changes {
		chunks[i] = &schemas.Snapshot{
			Epoch: head.Epoch, Layer: head.Layer, Revision: head.Revision, Digest: head.Digest,
			Rows: RowsToProto(c.Put), Chunk: uint32(i), Chunks: uint32(len(changes)),
		}
	}
	return chunks, nil
}

// splitBeside splits a change into what fits beside head.
func splitBeside(head proto.Message, c *model.Change, maxBytes int, what string) ([]*model.Change, error) {
	room := maxBytes - proto.Size(head)
	if room < smallest {
		return nil, fmt.Errorf("encode %s in messages of %d bytes: causes and names leave %d for rows, at least %d are needed",
			what, maxBytes, room, smallest)
	}
	if n := c.Put.Len() + c.Remove.Len(); n > MaxRows {
		return nil, fmt.Errorf("encode %s: %d rows, at most %d", what, n, MaxRows)
	}
	parts := split(c, room)
	if len(parts) > MaxParts {
		return nil, fmt.Errorf("encode %s: %d parts of %d bytes, at most %d", what, len(parts), maxBytes, MaxParts)
	}
	return parts, nil
}

// DecodeDelta checks and returns one part of a Delta.
func DecodeDelta(data []byte) (DeltaPart, error) {
	var m schemas.Delta
	if err := Unmarshal(data, &m); err != nil {
		return DeltaPart{}, err
	}
	return DeltaFromProto(&m)
}

// DeltaFromProto checks and returns one part of a Delta.
func DeltaFromProto(m *schemas.Delta) (DeltaPart, error) {
	l, errLayer := layer(m.GetLayer())
	digest, errDigest := model.DigestOf(m.GetDigestAfter())
	put, errPut := RowsFromProto(m.GetPut())
	remove, errRemove := KeysFromProto(m.GetRemove())
	causes, errCauses := causesFromProto(m.GetCauses())
	committed, errCommitted := timeFromProto("committed", m.GetCommitted())
	err := first(errLayer, checkDelta(m), errDigest, errRemove, errPut, errCauses, errCommitted)
	if err != nil {
		return DeltaPart{}, foreign("delta of layer %.64q to revision %d: %w", m.GetLayer(), m.GetTo(), err)
	}
	return DeltaPart{Part: m.GetPart(), Parts: m.GetParts(), Delta: model.Delta{
		Epoch: model.Epoch(m.GetEpoch()), Layer: l, From: model.Revision(m.GetFrom()), To: model.Revision(m.GetTo()),
		Change: model.Change{Put: put, Remove: remove}, DigestAfter: digest,
		Causes: causes, CausesLeftOut: m.GetCausesLeftOut(), Committed: committed, StateSequence: m.GetStateSequence(),
		UnchangedAt: m.GetUnchangedAt(),
	}}, nil
}

func checkDelta(m *schemas.Delta) error {
	switch {
	case m.GetEpoch() == 0:
		return fmt.Errorf("epoch 0 is no epoch")
	case m.GetTo() <= m.GetFrom():
		return fmt.Errorf("it goes from revision %d to %d", m.GetFrom(), m.GetTo())
	}
	return checkPart(m.GetPart(), m.GetParts())
}

func checkPart(part, parts uint32) error {
	if parts == 0 || parts > MaxParts || part >= parts {
		return fmt.Errorf("part %d of %d: want less than the number of parts, which is 1 to %d", part, parts, MaxParts)
	}
	return nil
}

func causesFromProto(messages []*schemas.Cause) ([]model.Cause, error) {
	if len(messages) > model.MaxCauses {
		return nil, fmt.Errorf("%d causes: at most %d", len(messages), model.MaxCauses)
	}
	var causes []model.Cause
	err := into(&causes, "cause", messages, CauseFromProto)
	return causes, err
}

// DecodeSnapshot checks and returns one chunk of a Snapshot.
func DecodeSnapshot(data []byte) (SnapshotPart, error) {
	var m schemas.Snapshot
	if err := Unmarshal(data, &m); err != nil {
		return SnapshotPart{}, err
	}
	return SnapshotFromProto(&m)
}

// SnapshotFromProto checks and returns one chunk of a Snapshot.
func SnapshotFromProto(m *schemas.Snapshot) (SnapshotPart, error) {
	l, errLayer := layer(m.GetLayer())
	digest, errDigest := model.DigestOf(m.GetDigest())
	rows, errRows := RowsFromProto(m.GetRows())
	var errEpoch error
	if m.GetEpoch() == 0 {
		errEpoch = fmt.Errorf("epoch 0 is no epoch")
	}
	err := first(errLayer, errEpoch, errDigest, checkPart(m.GetChunk(), m.GetChunks()), errRows)
	if err != nil {
		return SnapshotPart{}, foreign("snapshot of layer %.64q at revision %d: %w", m.GetLayer(), m.GetRevision(), err)
	}
	return SnapshotPart{Part: m.GetChunk(), Parts: m.GetChunks(), Snapshot: model.Snapshot{
		Layer: l, Rows: rows,
		Position: model.Position{Epoch: model.Epoch(m.GetEpoch()), Revision: model.Revision(m.GetRevision()), Digest: digest},
	}}, nil
}
