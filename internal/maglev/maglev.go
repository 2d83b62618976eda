// SPDX-License-Identifier: Apache-2.0

// Package maglev fills tables by which every node picks the same backend for the same client, after Eisenbud et al.,
// "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Each backend has a preference
// among the slots of a table, its permutation, and they take turns in claiming the slot that they like best of those left.
//
// It promises that a table follows from the addresses, ports and weights of the backends alone: not from their ids, which
// differ between clusters' histories, nor from their order. When backends come or go, nearly all slots of the others stay.
//
// The one thing to know before changing this: nodes of different versions share connections, so the same backends must
// give the same table, and the same packet the same hash, for ever. bpf/include/maglev.h is the twin of Hash and Slot.
package maglev

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// DefaultSize is the slots of a table unless configured: shares of up to 40 backends are within 1 % of what they should be.
const DefaultSize = 4093

// sizes are the greatest primes below powers of two: with a prime every step visits all slots.
var sizes = []uint32{1021, 2039, DefaultSize, 8191, 16381, 32749, 65521, 131071}

// CheckSize says why a table can't have so many slots; nil if it can.
func CheckSize(slots uint32) error {
	if !slices.Contains(sizes, slots) {
		return fmt.Errorf("a Maglev table of %d slots: want one of the primes %v", slots, sizes)
	}
	return nil
}

// Member is a backend of a table.
type Member struct {
	ID     uint32         // what its slots hold, not 0
	At     netip.AddrPort // differs between the members of a table
	Weight uint16         // its share against others', 1 to 100
}

// Slot is a place in a table, and the id of the member that is there.
type Slot struct{ Index, ID uint32 }

// Change returns the slots in which a table of the given slots differs from one filled with members. Of nobody it is nothing:
// a table without members is not asked.
func Change(slots []uint32, members []Member) (changed []Slot) {
	for i, id := range Fill(uint32(len(slots)), members) {
		if slots[i] != id {
			changed = append(changed, Slot{uint32(i), id})
		}
	}
	return changed
}

// Fill returns a table of size slots, of which CheckSize approves: the id of each slot's member. It is nil without members.
func Fill(size uint32, members []Member) []uint32 {
	if len(members) == 0 {
		return nil
	}
	claimants := claimantsOf(size, members)
	table := make([]uint32, size)
	turns := turnsOf(claimants)
	for range table {
		c := turns.next()
		for table[c.at] != 0 {
			c.step(size)
		}
		table[c.at] = c.id
	}
	return table
}

// claimant is a member on its way through its permutation: offset, offset + skip, offset + 2 skip, …, modulo size.
type claimant struct {
	at, skip uint32
	id       uint32
	weight   uint16
}

func (c *claimant) step(size uint32) {
	if c.at += c.skip; c.at >= size {
		c.at -= size
	}
}

// claimantsOf returns the members at the start of their permutations, in the order in which they claim.
func claimantsOf(size uint32, members []Member) []claimant {
	members = slices.SortedFunc(slices.Values(members), func(a, b Member) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
	claimants := make([]claimant, len(members))
	for i, m := range members {
		high, low := words(m.At.Addr())
		hash := func(seed uint64) uint64 { return last(mix(mix(mix(seed, high), low), uint64(m.At.Port()))) }
		claimants[i] = claimant{
			at: uint32(hash(offsetSeed) % uint64(size)), skip: uint32(hash(skipSeed)%uint64(size-1)) + 1,
			id: m.ID, weight: max(1, m.Weight),
		}
	}
	return claimants
}
