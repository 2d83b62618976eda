// SPDX-License-Identifier: Apache-2.0

package model

import "math/bits"

// Branch names the rows of a Tree whose places begin with the same hexadecimal digits: a 1 followed by these, at most
// MaxDepth. 0x1 is all rows, 0x1a3 those whose places begin with a3.
type Branch uint64

const (
	// Root is the branch of all rows.
	Root Branch = 1
	// MaxDepth bounds the digits of a Branch.
	MaxDepth = 15
	// Fanout is how many branches a branch has.
	Fanout = 16
)

// Valid says whether b is a Branch.
func (b Branch) Valid() bool { return b != 0 && bits.Len64(uint64(b))%4 == 1 }

// Depth is how many digits b has.
func (b Branch) Depth() int { return (bits.Len64(uint64(b)) - 1) / 4 }

// Part returns one of the branches of b, which are counted from 0. b has less than MaxDepth digits.
func (b Branch) Part(i int) Branch { return b<<4 | Branch(i) }

// First is the least place in b.
func (b Branch) First() uint64 {
	if b == Root {
		return 0
	}
	return uint64(b) << (64 - 4*b.Depth()) // which shifts the leading 1 out
}

// Last is the greatest place in b.
func (b Branch) Last() uint64 {
	if b == Root {
		return ^uint64(0)
	}
	return b.First() + (1<<(64-4*b.Depth()) - 1)
}

// Holds says whether a place is in b.
func (b Branch) Holds(place uint64) bool { return b.First() <= place && place <= b.Last() }

// Overlaps says whether b has rows of other, or could: one of them is a part of the other.
func (b Branch) Overlaps(other Branch) bool { return b.Holds(other.First()) || other.Holds(b.First()) }

// Held is what one branch holds.
type Held struct {
	Branch Branch
	// Digests are those of its parts, as Tree has them; nil if Rows tells instead.
	Digests *[Fanout]uint64
	Rows    Rows
}

// Branches is what some branches of a layer hold at one position.
type Branches struct {
	Layer    Layer
	Position Position
	Held     []Held
}

// Walk is a question about a layer: what Branches hold, or, if All, all rows whose place is From or greater.
type Walk struct {
	Layer    Layer
	Branches []Branch
	All      bool
	From     uint64
}
