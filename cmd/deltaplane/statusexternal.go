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
	devices, xdp := map[string]int{}, map[string]int{}
	var masquerade []differsJSON
	for _, n := range v.Nodes {
		if n.External == nil {
			continue
		}
		devices[n.External.String()]++
		if n.External.Masqueraded != "" {
			masquerade = append(masquerade, differsJSON{n.Node, "snat: " + n.External.Masqueraded})
		}
		for _, u := range n.External.Uplinks {
			xdp[u.XDP]++
		}
	}
	all := v.External
	if len(devices)+len(all.Silent) == 0 {
		return
	}
	parts := []string{tallied(devices, "nodes")}
	if all.VNI != 0 {
		parts = append(parts, fmt.Sprintf("VXLAN %#x", all.VNI))
	}
	if v.Forwarding != "" {
		parts = append(parts, "Services: "+v.Forwarding+" unless they say otherwise")
	}
	if len(xdp) > 0 {
		parts = append(parts, "XDP "+tallied(xdp, "uplinks"))
	}
	v.line(b, "External", strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "   "))
	v.few(b, v.paint.yellow, masquerade, "")
	v.few(b, v.paint.red, all.Deaf, ": what it and they send each other for clients is lost")
	v.few(b, v.paint.red, all.OtherTables, ": it picks other backends")
	if len(all.Silent) > 0 {
		v.line(b, "", "not told, or not all of it, by an older programmer on "+v.some(all.Silent))
	}
	v.withoutXDP(b)
}

// few names nodes, each on a line, up to a bound.
func (v statusView) few(b *strings.Builder, colour func(string) string, nodes []differsJSON, what string) {
	for i, n := range nodes {
		if i >= behindShown && !v.wide {
			v.line(b, "", fmt.Sprintf("and %s more (-o wide names all)", grouped(uint64(len(nodes)-i))))
			return
		}
		v.line(b, "", colour(n.Node)+"  "+n.Text+what)
	}
}

// someShown bounds the names on one line.
const someShown = 3

func (v statusView) some(names []string) string {
	if v.wide || len(names) <= someShown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %s more", strings.Join(names[:someShown], ", "), grouped(uint64(len(names)-someShown)))
}

// withoutXDP says of uplinks without XDP, though it was asked for, why that is: those of one reason together.
func (v statusView) withoutXDP(b *strings.Builder) {
	off := map[string][]string{}
	for _, n := range v.Nodes {
		if n.External == nil {
			continue
		}
		for _, u := range n.External.Uplinks {
			if u.Reason != "" {
				off[u.Reason] = append(off[u.Reason], n.Node+" "+u.Interface)
			}
		}
	}
	for i, reason := range slices.Sorted(maps.Keys(off)) {
		if i >= behindShown && !v.wide {
			v.line(b, "", fmt.Sprintf("and %d more reasons (-o wide names all)", len(off)-i))
			return
		}
		v.line(b, "", "XDP off, "+reason+": "+v.some(off[reason]))
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
