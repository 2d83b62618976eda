// SPDX-License-Identifier: Apache-2.0

// Package walk finds where two holders of nearly the same rows differ, and brings one of them to what the other has
// (docs/adr/0015). Source is who is asked, and keeps nothing about who asks; Walk is who asks.
//
// It promises that a walk ends with exactly the rows of the position that it says, judged by the digest of all rows, or
// says that it can't; that it doesn't matter which of several sources answers which question, nor that they move on
// meanwhile; and that whatever answers come, memory and bytes are bounded by the rows that there are.
//
// The one thing to know: an answer is true at its own position only. What was taken at several is made one by the
// deltas since the oldest: a row that none of them touches was the same at all of these positions, one that they touch
// is as the last of them says.
package walk

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// few rows are told instead of digests: they take about as many bytes, and end the way down.
	few = 4
	// fewInAll is how many rows a whole layer may have to be told at once.
	fewInAll = 64
	// digestsBytes is what one branch's digests take in a message.
	digestsBytes = 140
)

// Source is a layer's rows at a position.
type Source struct {
	Layer    model.Layer
	Position model.Position
	Tables   *model.Tables
	Tree     *model.Tree
}

// Branches returns a message that tells of branches, in their order, as many as fit into room bytes, but at least of the
// first, and how many these are.
func (s *Source) Branches(ask []model.Branch, room int) (message []byte, told int) {
	var body []byte
	for _, b := range ask {
		if told > 0 && len(body)+digestsBytes > room {
			break
		}
		body = s.appendBranch(body, s.Held(b))
		told++
	}
	return s.Message(body), told
}

// Held returns what one branch holds: digests, or rows if these are few.
func (s *Source) Held(b model.Branch) model.Held {
	rows := s.Tree.Sum(b).Rows
	if rows <= few || b == model.Root && rows <= fewInAll || b.Depth() == model.MaxDepth {
		return s.All(b)
	}
	digests := s.Tree.Digests(b)
	return model.Held{Branch: b, Digests: &digests}
}

// All returns all rows of one branch.
func (s *Source) All(b model.Branch) model.Held {
	keys := s.Tree.Keys(b)
	return model.Held{Branch: b, Rows: s.Tables.Find(&keys)}
}

// Rows returns all rows of a piece, encoded; Message makes a message of them.
func (s *Source) Rows(p Piece) (body []byte) {
	for b := range p.Branches() {
		body = s.appendBranch(body, s.All(b))
	}
	return body
}

// Digest returns what Tree says of a piece: as long as it is the same, so are its rows.
func (s *Source) Digest(p Piece) (digest uint64) {
	for b := range p.Branches() {
		digest += s.Tree.Sum(b).Digest
	}
	return digest
}

func (s *Source) appendBranch(body []byte, h model.Held) []byte {
	return protowire.AppendBytes(protowire.AppendTag(body, fieldBranches, protowire.BytesType), encode(wire.HeldToProto(h)))
}

// fieldBranches is the number of branches in Branches; a test holds it to the schema.
const fieldBranches protowire.Number = 5

// Message puts the layer and position before branches that are encoded already.
func (s *Source) Message(body []byte) []byte {
	head := encode(wire.BranchesToProto(model.Branches{Layer: s.Layer, Position: s.Position}))
	return append(head, body...)
}

func encode(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic("walk: encode a message of our own: " + err.Error())
	}
	return data
}

// Decode reads what Source writes.
func Decode(message []byte) (model.Branches, error) {
	var m schemas.Branches
	if err := wire.Unmarshal(message, &m); err != nil {
		return model.Branches{}, err
	}
	return wire.BranchesFromProto(&m)
}
