// SPDX-License-Identifier: Apache-2.0

package ids

import (
	"math/bits"
	"slices"
)

// bitmap is a set of numbers that finds the lowest one missing in some six steps, whatever its size: a tree in
// which a bit of one level says that the word below it is full.
type bitmap struct {
	levels [][]uint64 // levels[0] has the numbers themselves; the last level has one word
}

func (b *bitmap) has(n uint32) bool {
	return len(b.levels) > 0 && int(n/64) < len(b.levels[0]) && b.levels[0][n/64]&(1<<(n%64)) != 0
}

func (b *bitmap) set(n uint32) {
	b.grow(n)
	for level := range b.levels {
		word := &b.levels[level][n/64]
		*word |= 1 << (n % 64)
		if *word != ^uint64(0) {
			return
		}
		n /= 64
	}
}

func (b *bitmap) clear(n uint32) {
	if !b.has(n) {
		return
	}
	for level := range b.levels {
		word := &b.levels[level][n/64]
		full := *word == ^uint64(0)
		*word &^= 1 << (n % 64)
		if !full {
			return
		}
		n /= 64
	}
}

// lowestClear returns the lowest number that is not in the set.
func (b *bitmap) lowestClear() uint32 {
	n := uint32(0)
	for _, words := range slices.Backward(b.levels) {
		if int(n) >= len(words) {
			n *= 64 // below this nothing was ever set
			continue
		}
		n = n*64 + uint32(bits.TrailingZeros64(^words[n]))
	}
	return n
}

// highest returns the highest number in the set, or 0.
func (b *bitmap) highest() uint32 {
	if len(b.levels) == 0 {
		return 0
	}
	for i, word := range slices.Backward(b.levels[0]) {
		if word != 0 {
			return uint32(i*64 + 63 - bits.LeadingZeros64(word))
		}
	}
	return 0
}

func (b *bitmap) count() (n int) {
	for level, words := range b.levels {
		if level > 0 {
			break
		}
		for _, word := range words {
			n += bits.OnesCount64(word)
		}
	}
	return n
}

// grow makes room for n. Levels are added at the top until the topmost is one word that is not full.
func (b *bitmap) grow(n uint32) {
	for level := 0; ; level++ {
		if level == len(b.levels) {
			b.levels = append(b.levels, b.summary(level))
		}
		need := int(n/64) + 1
		for len(b.levels[level]) < need {
			b.levels[level] = append(b.levels[level], 0)
		}
		n /= 64
		if len(b.levels[level]) == 1 && level == len(b.levels)-1 && b.levels[level][0] != ^uint64(0) {
			return
		}
	}
}

// summary returns the words of a new level, which say what of the level below is full.
func (b *bitmap) summary(level int) []uint64 {
	if level == 0 {
		return []uint64{0}
	}
	words := make([]uint64, (len(b.levels[level-1])+63)/64)
	for i, word := range b.levels[level-1] {
		if word == ^uint64(0) {
			words[i/64] |= 1 << (i % 64)
		}
	}
	return words
}
