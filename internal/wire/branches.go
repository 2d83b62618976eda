// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// The bounds of a SyncRequest.
const (
	// MaxAsked bounds the branches that one Walk asks about.
	MaxAsked = 4096
	// maxWalks bounds the layers that one SyncRequest walks: a node has two.
	maxWalks = 2
)

// BranchesToProto returns what branches hold as a message.
func BranchesToProto(b model.Branches) *schemas.Branches {
	return &schemas.Branches{
		Epoch: uint64(b.Position.Epoch), Layer: b.Layer.String(), Revision: uint64(b.Position.Revision),
		Digest: b.Position.Digest.Bytes(), Branches: list(b.Held, HeldToProto),
	}
}

// HeldToProto returns what one branch holds as a message.
func HeldToProto(h model.Held) *schemas.Branch {
	m := &schemas.Branch{Branch: uint64(h.Branch), Rows: RowsToProto(h.Rows)}
	if h.Digests != nil {
		for _, d := range h.Digests {
			m.Digests = binary.BigEndian.AppendUint64(m.Digests, d)
		}
	}
	return m
}

// BranchesFromProto checks and returns what branches hold.
func BranchesFromProto(m *schemas.Branches) (model.Branches, error) {
	l, errLayer := layer(m.GetLayer())
	digest, errDigest := model.DigestOf(m.GetDigest())
	var errEpoch error
	if m.GetEpoch() == 0 {
		errEpoch = fmt.Errorf("epoch 0 is no epoch")
	}
	var held []model.Held
	err := first(errLayer, errEpoch, errDigest, into(&held, "branch", m.GetBranches(), heldFromProto))
	if err != nil {
		return model.Branches{}, foreign("branches of layer %.64q at revision %d: %w", m.GetLayer(), m.GetRevision(), err)
	}
	return model.Branches{Layer: l, Held: held, Position: model.Position{
		Epoch: model.Epoch(m.GetEpoch()), Revision: model.Revision(m.GetRevision()), Digest: digest,
	}}, nil
}

func heldFromProto(m *schemas.Branch) (h model.Held, err error) {
	if h.Branch, err = branchFromProto(m.GetBranch()); err != nil {
		return h, err
	}
	if b := m.GetDigests(); len(b) > 0 {
		const size = 8 * model.Fanout
		if len(b) != size || m.GetRows() != nil || h.Branch.Depth() == model.MaxDepth {
			return h, fmt.Errorf("branch %x has %d bytes of digests: want %d, or rows", uint64(h.Branch), len(b), size)
		}
		h.Digests = new([model.Fanout]uint64)
		for i := range h.Digests {
			h.Digests[i] = binary.BigEndian.Uint64(b[8*i:])
		}
		return h, nil
	}
	if h.Rows, err = RowsFromProto(m.GetRows()); err != nil {
		return h, err
	}
	return h, checkChange(&model.Change{Put: h.Rows})
}

func branchFromProto(n uint64) (model.Branch, error) {
	b := model.Branch(n)
	if !b.Valid() {
		return 0, fmt.Errorf("%x names no branch: want a 1 and at most %d hexadecimal digits", n, model.MaxDepth)
	}
	return b, nil
}

// SyncRequest is a decoded SyncRequest.
type SyncRequest struct {
	Node      string
	Positions map[model.Layer]model.Position
	Walks     []model.Walk
	Room      int // bytes; 0 if the node didn't say
}

// SyncRequestToProto returns a request as a message.
func SyncRequestToProto(r SyncRequest) *schemas.SyncRequest {
	return &schemas.SyncRequest{
		Node: r.Node, Positions: PositionsToProto(r.Positions), Room: uint32(r.Room),
		Walks: list(r.Walks, func(w model.Walk) *schemas.Walk {
			m := &schemas.Walk{Layer: w.Layer.String(), Branches: list(w.Branches, func(b model.Branch) uint64 { return uint64(b) })}
			if w.All {
				m.From = &w.From
			}
			return m
		}),
	}
}

// DecodeSyncRequest checks and returns what a node asks for.
func DecodeSyncRequest(data []byte) (r SyncRequest, err error) {
	var m schemas.SyncRequest
	if err := Unmarshal(data, &m); err != nil {
		return r, err
	}
	if err := Name("node", m.GetNode()); err != nil {
		return r, foreign("sync request: %w", err)
	}
	r.Node, r.Room = m.GetNode(), int(min(m.GetRoom(), schemas.MaxMessageBytes))
	if len(m.GetWalks()) > maxWalks {
		return r, foreign("sync request of node %s walks %d layers: at most %d", r.Node, len(m.GetWalks()), maxWalks)
	}
	if r.Positions, err = PositionsFromProto(m.GetPositions()); err != nil {
		return r, fmt.Errorf("sync request of node %s: %w", r.Node, err)
	}
	if err := into(&r.Walks, "walk", m.GetWalks(), walkFromProto); err != nil {
		return r, foreign("sync request of node %s: %w", r.Node, err)
	}
	return r, nil
}

func walkFromProto(m *schemas.Walk) (w model.Walk, err error) {
	if len(m.GetBranches()) > MaxAsked {
		return w, fmt.Errorf("%d branches: at most %d", len(m.GetBranches()), MaxAsked)
	}
	if w.Layer, err = layer(m.GetLayer()); err == nil {
		err = into(&w.Branches, "branch", m.GetBranches(), branchFromProto)
	}
	w.All, w.From = m.From != nil, m.GetFrom()
	return w, err
}
