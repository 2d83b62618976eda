// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// String is how packets go on to other nodes, in a word or two.
func (e *externalJSON) String() string {
	switch {
	case e == nil:
		return "-"
	case e.Masqueraded != "":
		return "snat"
	}
	return fmt.Sprintf("%s:%d", e.Device, e.Port)
}

// external says how packets of outside clients go on to other nodes, and which nodes can't send them so and why.
func (v statusView) external(b *strings.Builder) {
	devices := map[string]int{}
	xdp, slots := map[string]int{}, map[string]int{}
	for _, n := range v.Nodes {
		if n.External == nil {
			continue
		}
		devices[n.External.String()]++
		slots[grouped(uint64(n.External.MaglevSlots))+" slots"]++
		for _, u := range n.External.Uplinks {
			xdp[u.XDP]++
		}
	}
	if len(devices) == 0 {
		return
	}
	text := tallied(devices, "nodes")
	if len(xdp) > 0 {
		text += "   XDP " + tallied(xdp, "uplinks")
	}
	if len(slots) > 1 {
		text += v.paint.red("   Maglev tables differ: " + tallied(slots, "nodes") + " (--maglev-size)")
	}
	v.line(b, "External", text)
	shown := 0
	for _, n := range v.Nodes {
		if n.External == nil || n.External.Masqueraded == "" {
			continue
		}
		if shown >= behindShown && !v.wide {
			break
		}
		shown++
		v.line(b, "", v.paint.yellow(n.Node)+"  snat: "+n.External.Masqueraded)
	}
	if left := devices["snat"] - shown; left > 0 {
		v.line(b, "", fmt.Sprintf("and %s more (-o wide names all)", grouped(uint64(left))))
	}
}

// tallied writes how many things of a kind there are of each word.
func tallied(counts map[string]int, of string) string {
	var all []string
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%s on %s %s", word, grouped(uint64(counts[word])), of))
	}
	return strings.Join(all, ", ")
}
