// SPDX-License-Identifier: Apache-2.0

// Package portrange turns ranges of ports into prefixes, which a longest-prefix match finds.
//
// It promises the fewest prefixes that are exactly the range: at most 30, in order of ports. It is pure.
package portrange

import "math/bits"

// Prefix is a range of ports that is a power of two long and begins at a multiple of its length.
type Prefix struct {
	Port uint16 // the first
	Bits uint8  // of Port that count, 0 to 16; 0 is all ports
}

// Prefixes returns the prefixes of the ports from first to last; none if last is less.
func Prefixes(first, last uint16) []Prefix {
	list := make([]Prefix, 0, Count(first, last))
	each(first, last, func(p Prefix) { list = append(list, p) })
	return list
}

// Count returns how many prefixes the ports from first to last are.
func Count(first, last uint16) (n int) {
	each(first, last, func(Prefix) { n++ })
	return n
}

// each takes the longest prefix that begins at the first port and is within the range, and goes on after it.
func each(first, last uint16, yield func(Prefix)) {
	for at, end := uint32(first), uint32(last)+1; at < end; {
		length := min(16, bits.TrailingZeros32(at|1<<16), bits.Len32(end-at)-1)
		yield(Prefix{uint16(at), uint8(16 - length)})
		at += 1 << length
	}
}
