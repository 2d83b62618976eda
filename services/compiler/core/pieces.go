// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
)

// encoded are the pieces of the cluster layer that were told of late, sealed: when all nodes start at once, all want the same.
type encoded map[walk.Piece]*piece

type piece struct {
	body, message []byte // message has body in it
	digest        uint64
	at            model.Position
	key           seal.KeyID
	made, told    time.Time
}

const (
	// A row takes pieceRow bytes at most, and usualRow mostly.
	pieceRow = 640
	usualRow = 40
	// A piece may be of an older position for so long, if nodes can be given the deltas since: so that each is made
	// anew at most that often, however many nodes ask and however often something changes.
	pieceFresh = 5 * time.Second
	// pieceKept is how long one is kept that nobody asks for.
	pieceKept = time.Minute
)

// piece returns the message that tells of a piece.
func (c *Core) piece(now time.Time, s *walk.Source, p walk.Piece) []byte {
	if s.Layer != model.ClusterLayer {
		return c.o.Signer.SealOne(seal.Branches, s.Message(s.Rows(p)))
	}
	held := c.pieces[p]
	if held != nil && held.key == c.o.Signer.ID() && (held.at == s.Position || now.Sub(held.made) < pieceFresh && c.recent.reaches(s.Layer, held.at)) {
		held.told = now
		return held.message
	}
	digest := s.Digest(p)
	var body []byte
	if held != nil && held.digest == digest {
		body = held.body
	} else {
		body = s.Rows(p)
	}
	held = &piece{
		body: body, message: c.o.Signer.SealOne(seal.Branches, s.Message(body)), digest: digest,
		at: s.Position, key: c.o.Signer.ID(), made: now, told: now,
	}
	if c.pieces == nil {
		c.pieces = encoded{}
	}
	c.pieces[p] = held
	return held.message
}

// forget gives up what nobody asks for any more.
func (p encoded) forget(now time.Time) {
	maps.DeleteFunc(p, func(_ walk.Piece, held *piece) bool { return now.Sub(held.told) > pieceKept })
}
