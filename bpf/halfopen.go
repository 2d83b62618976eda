// SPDX-License-Identifier: Apache-2.0

package bpf

import "cmp"

// What a client outside has begun and not shown to be its own is half open. Each such flow has a place in half_open_v1 and
// up to four entries of the table of flows, see include/half.h: a quarter of the table can be half open at most.
const (
	entriesPerPlace = 16
	leastPlaces     = 64
	mostPlaces      = 65535 // as many as struct flow can count
)

// halfOpenPlaces returns how many flows may be half open.
func halfOpenPlaces(options Options) uint32 {
	return min(max(cmp.Or(options.Flows, DefaultFlows)/entriesPerPlace, leastPlaces), mostPlaces)
}
