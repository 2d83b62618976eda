// SPDX-License-Identifier: Apache-2.0

package walk

import (
	"iter"
	"math/bits"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Piece is one of the 2^Bits equal parts of all places, counted from 0: what rows are told in when all are. Places are
// evenly spread, so pieces have about as many rows each.
type Piece struct {
	Bits  int
	Index uint64
}

// maxBits keeps pieces no smaller than branches.
const maxBits = 4 * model.MaxDepth

// PieceAt returns the piece that a place is in, if there are so many rows in all and a piece is to have at most so many.
func PieceAt(place uint64, rows, most int) Piece {
	p := Piece{}
	if most = max(most, 1); rows > most {
		p.Bits = min(bits.Len(uint((rows-1)/most)), maxBits)
		p.Index = place >> (64 - p.Bits)
	}
	return p
}

// Last is the greatest place in p.
func (p Piece) Last() uint64 {
	if p.Bits == 0 {
		return ^uint64(0)
	}
	return p.Index<<(64-p.Bits) + (1<<(64-p.Bits) - 1)
}

// Branches are the largest that p is made of, in order: 1, 2, 4 or 8.
func (p Piece) Branches() iter.Seq[model.Branch] {
	depth := (p.Bits + 3) / 4
	n := uint64(1) << (4*depth - p.Bits)
	first := model.Branch(1<<(4*depth) | p.Index*n)
	return func(yield func(model.Branch) bool) {
		for i := range n {
			if !yield(first + model.Branch(i)) {
				return
			}
		}
	}
}
