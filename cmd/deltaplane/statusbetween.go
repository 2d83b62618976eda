// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// betweenJSON is what nodes must have in common for clients from outside, and who hasn't.
type betweenJSON struct {
	// Port, VNI and MaglevSlots are those of most nodes, of as many the smallest; 0 if none says.
	Port        uint32 `json:"port"`
	VNI         uint32 `json:"vni"`
	MaglevSlots uint32 `json:"maglevSlots"`
	// Deaf are nodes with another UDP port or VXLAN number: they and the others drop what they wrap for each other.
	Deaf []differsJSON `json:"deaf"`
	// OtherTables are nodes with Maglev tables of another size: they pick other backends than the rest for the same client.
	OtherTables []differsJSON `json:"otherTables"`
	// Silent are nodes whose programs forward, and that don't say how, or not all of it: of an older version.
	Silent []string `json:"silent"`
}

// differsJSON is a node that isn't like the others, and in what.
type differsJSON struct {
	Node string `json:"node"`
	Text string `json:"text"`
}

// between compares nodes. What one doesn't say isn't held against it; nodes without a device wrap nothing.
func between(nodes []nodeStatus) betweenJSON {
	b := betweenJSON{Deaf: []differsJSON{}, OtherTables: []differsJSON{}, Silent: []string{}}
	ports, numbers, slots := map[uint32]int{}, map[uint32]int{}, map[uint32]int{}
	for _, n := range nodes {
		e := n.External
		if e == nil {
			if n.Reported != nil && n.MapsKind == "kernel" {
				b.Silent = append(b.Silent, n.Node)
			}
			continue
		}
		ports[e.Port]++
		numbers[e.VNI]++
		slots[e.MaglevSlots]++
		if e.Device != "" && e.VNI == 0 {
			b.Silent = append(b.Silent, n.Node)
		}
	}
	b.Port, b.VNI, b.MaglevSlots = most(ports), most(numbers), most(slots)
	for _, n := range nodes {
		e := n.External
		if e == nil {
			continue
		}
		if e.Port != 0 && e.Port != b.Port {
			b.Deaf = append(b.Deaf, differsJSON{n.Node, fmt.Sprintf("UDP port %d, most have %d (--tunnel-port)", e.Port, b.Port)})
		}
		if e.VNI != 0 && e.VNI != b.VNI {
			b.Deaf = append(b.Deaf, differsJSON{n.Node, fmt.Sprintf("VXLAN number %#x, most have %#x (--tunnel-vni)", e.VNI, b.VNI)})
		}
		if e.MaglevSlots != 0 && e.MaglevSlots != b.MaglevSlots {
			text := fmt.Sprintf("%s slots a Maglev table, most have %s (--maglev-size)", grouped(uint64(e.MaglevSlots)), grouped(uint64(b.MaglevSlots)))
			b.OtherTables = append(b.OtherTables, differsJSON{n.Node, text})
		}
	}
	return b
}

// most returns what most say; 0 is to say nothing.
func most(said map[uint32]int) uint32 {
	delete(said, 0)
	if len(said) == 0 {
		return 0
	}
	return slices.MaxFunc(slices.Collect(maps.Keys(said)), func(a, b uint32) int {
		return cmp.Or(cmp.Compare(said[a], said[b]), cmp.Compare(b, a))
	})
}
