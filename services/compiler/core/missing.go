// SPDX-License-Identifier: Apache-2.0

package core

import (
	"iter"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
)

// usualRoom is how much one answer has room for unless the node says otherwise, bytes.
const usualRoom = 256 << 10

// missing is an answer in the making: what a node lacks, up to where there is no more room.
type missing struct {
	most  int // bytes it had room for
	room  int // that is left
	parts []part
	more  bool
}

// part is some messages of one sort within an answer.
type part struct {
	field    protowire.Number
	messages [][]byte
}

// add adds a message and says whether there is room for more.
func (m *missing) add(field protowire.Number, message []byte) (more bool) {
	if n := len(m.parts); n == 0 || m.parts[n-1].field != field {
		m.parts = append(m.parts, part{field: field})
	}
	p := &m.parts[len(m.parts)-1]
	p.messages = append(p.messages, message)
	m.room -= len(message)
	return m.room > 0
}

// missing answers with what a node lacks.
func (c *Core) missing(now time.Time, r request) Answer {
	m := missing{most: r.room(), room: r.room()}
	walks := map[model.Layer]model.Walk{}
	for _, w := range r.Walks {
		walks[w.Layer] = w
	}
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.Node)} {
		if m.room <= 0 {
			m.more = true
			break
		}
		is, told := r.Positions[l]
		w, walked := walks[l]
		switch should := c.Position(l); {
		case walked && w.All:
			c.all(now, &m, l, w.From)
		case walked:
			c.branches(&m, l, w.Branches)
		case !told:
			c.all(now, &m, l, 0)
		case is.Revision == should.Revision && is.Digest == should.Digest:
			c.stats.SyncDeltas++
		case !c.deltas(&m, l, is):
			c.branches(&m, l, []model.Branch{model.Root})
		}
	}
	c.stats.SyncBytes += r.room() - m.room
	return Answer{To: r.to, messages: func() iter.Seq[[]byte] { return replies(m.parts, m.more) }}
}

func (r *request) room() int {
	if r.Room == 0 {
		return usualRoom
	}
	return r.Room
}

// deltas answers with those since a position, if they are there and cost less than looking for what differs: many
// changes of the same rows may come to little.
func (c *Core) deltas(m *missing, l model.Layer, since model.Position) bool {
	entries, ok := c.recent.since(l, since, c.o.Signer.ID())
	if !ok {
		return false
	}
	size := 0
	for _, e := range entries {
		size += e.bytes
		if m.most < usualRoom && e.bytes > m.most {
			return false // in one piece it is too much for a slow node
		}
	}
	const perRow = 8 // a quarter of what a row takes
	if size > max(usualRoom, perRow*c.rows(l).Len()) {
		return false
	}
	c.stats.SyncDeltas++
	for i, e := range entries {
		room := true
		for _, message := range e.messages {
			room = m.add(fieldDelta, message)
		}
		if !room && i < len(entries)-1 {
			m.more = true
			break
		}
	}
	return true
}

// branches answers with what branches hold.
func (c *Core) branches(m *missing, l model.Layer, ask []model.Branch) {
	c.stats.SyncBranches++
	s := c.source(l)
	message, _ := s.Branches(ask, min(m.room, c.o.MaxMessage))
	m.add(fieldBranches, c.o.Signer.SealOne(seal.Branches, message))
}

// all answers with all rows from a place on.
func (c *Core) all(now time.Time, m *missing, l model.Layer, from uint64) {
	c.stats.SyncPieces++
	s := c.source(l)
	most := max(1, min(c.o.MaxMessage/pieceRow, m.room/usualRow))
	for {
		p := walk.PieceAt(from, s.Tree.Len(), most)
		if !m.add(fieldBranches, c.piece(now, &s, p)) || p.Last() == math.MaxUint64 {
			return
		}
		from = p.Last() + 1
	}
}

// Field numbers of SyncReply in delta.proto; a test holds them to the generated code.
const (
	fieldDelta    protowire.Number = 1
	fieldLast     protowire.Number = 3
	fieldSequence protowire.Number = 5
	fieldBranches protowire.Number = 6
	fieldMore     protowire.Number = 7
)

// replies wraps messages that are encoded already into SyncReplies, the last of which says so.
func replies(parts []part, more bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		left, sequence := 0, uint64(0)
		for _, p := range parts {
			left += len(p.messages)
		}
		if left == 0 {
			yield(protowire.AppendVarint(protowire.AppendTag(nil, fieldLast, protowire.VarintType), 1))
			return
		}
		for _, p := range parts {
			for _, m := range p.messages {
				left--
				b := make([]byte, 0, len(m)+answerRoom)
				b = protowire.AppendBytes(protowire.AppendTag(b, p.field, protowire.BytesType), m)
				if left == 0 {
					b = protowire.AppendVarint(protowire.AppendTag(b, fieldLast, protowire.VarintType), 1)
				}
				if left == 0 && more {
					b = protowire.AppendVarint(protowire.AppendTag(b, fieldMore, protowire.VarintType), 1)
				}
				b = protowire.AppendVarint(protowire.AppendTag(b, fieldSequence, protowire.VarintType), sequence)
				sequence++
				if !yield(b) {
					return
				}
			}
		}
	}
}
