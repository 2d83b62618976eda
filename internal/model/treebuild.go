// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"cmp"
	"slices"
)

// TreeBuilder builds the Tree of many rows, in steps: a million rows take the time that other work should not wait for.
// Each row is hashed once and sorted by its place, which costs half of what putting row by row does.
type TreeBuilder struct {
	rows    Rows     // yet to be hashed
	sorters []sorter // by the first digits of their rows' places: one, or 256
	built   int      // sorters that are trees already
	root    treeNode
	bytes   rowBytes // scratch
}

// sorter holds rows of one branch.
type sorter struct {
	entries []treeEntry
	keys    []byte
}

// treeEntry is a row: its key is so many bytes of a sorter's keys.
type treeEntry struct {
	place, digest uint64
	at            uint32
	size          uint8
}

// One sorter is enough for so many rows.
const sortedAtOnce = 4096

// BuildTree returns what builds the tree of some rows, which it goes through once.
func BuildTree(rows Rows) *TreeBuilder {
	b := &TreeBuilder{rows: rows, sorters: make([]sorter, 1)}
	if n := rows.Len(); n > sortedAtOnce {
		b.sorters = make([]sorter, Fanout*Fanout)
		for i := range b.sorters {
			b.sorters[i].entries = make([]treeEntry, 0, n/len(b.sorters)*9/8)
		}
	}
	return b
}

// NewTree returns the tree of some rows.
func NewTree(rows *Rows) *Tree {
	b := BuildTree(*rows)
	for {
		if t := b.Step(rows.Len() + 1); t != nil {
			return t
		}
	}
}

// Step goes on by about as much as n rows take, and returns the tree when it is built, else nil.
func (b *TreeBuilder) Step(n int) *Tree {
	if b.rows.Len() > 0 {
		part := b.rows.cut(n)
		b.bytes.each(&part, b.add)
		return nil
	}
	for ; b.built < len(b.sorters); b.built++ {
		s := &b.sorters[b.built]
		if n <= 0 {
			return nil
		}
		n -= len(s.entries)
		s.sort()
		if len(b.sorters) == 1 {
			b.root.build(s, s.entries, 0)
		} else {
			b.part(b.built).build(s, s.entries, 2)
		}
		*s = sorter{}
	}
	b.sum()
	return &Tree{root: b.root}
}

// part returns a branch of two digits.
func (b *TreeBuilder) part(i int) *treeNode {
	if b.root.parts == nil {
		b.root.parts = new([Fanout]treeNode)
	}
	n := &b.root.parts[i/Fanout]
	if n.parts == nil {
		n.parts = new([Fanout]treeNode)
	}
	return &n.parts[i%Fanout]
}

// sum sums up the branches above those of two digits.
func (b *TreeBuilder) sum() {
	if len(b.sorters) == 1 {
		return
	}
	for i := range b.root.parts {
		b.root.parts[i].sum()
	}
	b.root.sum()
}

func (n *treeNode) sum() {
	n.digest, n.rows = 0, 0
	for i := range n.parts {
		n.digest += n.parts[i].digest
		n.rows += n.parts[i].rows
	}
}

// sort brings entries in the order of their places, each key once: the last of it counts.
func (s *sorter) sort() {
	slices.SortStableFunc(s.entries, func(a, b treeEntry) int { return cmp.Compare(a.place, b.place) })
	kept := s.entries[:0]
	for i := 0; i < len(s.entries); {
		end := i + 1
		for end < len(s.entries) && s.entries[end].place == s.entries[i].place {
			end++
		}
		for ; i < end; i++ {
			again := slices.ContainsFunc(s.entries[i+1:end], func(later treeEntry) bool { return bytes.Equal(s.key(later), s.key(s.entries[i])) })
			if !again {
				kept = append(kept, s.entries[i])
			}
		}
	}
	s.entries = kept
}

func (s *sorter) key(e treeEntry) []byte { return s.keys[e.at : int(e.at)+int(e.size)] }

// build makes n the branch of some sorted entries, which so many digits lead to.
func (n *treeNode) build(s *sorter, entries []treeEntry, depth int) {
	if len(entries) <= splitMost || depth == MaxDepth {
		n.fill(s, entries)
		return
	}
	n.parts = new([Fanout]treeNode)
	for i := range n.parts {
		end, _ := slices.BinarySearchFunc(entries, i+1, func(e treeEntry, next int) int { return cmp.Compare(digit(e.place, depth), next) })
		n.parts[i].build(s, entries[:end], depth+1)
		entries = entries[end:]
	}
	n.sum()
}

func (n *treeNode) fill(s *sorter, entries []treeEntry) {
	size := 0
	for _, e := range entries {
		size += int(e.size) + 8
	}
	n.entries = make([]byte, 0, size)
	for _, e := range entries {
		n.entries = big.AppendUint64(append(n.entries, s.key(e)...), e.digest)
		n.digest += e.digest
		n.rows++
	}
}

// add takes in a row.
func (b *TreeBuilder) add() {
	e := treeEntry{place: placeOf(b.bytes.key), digest: b.bytes.digest(), size: uint8(len(b.bytes.key))}
	s := &b.sorters[0]
	if len(b.sorters) > 1 {
		s = &b.sorters[e.place>>56]
	}
	e.at = uint32(len(s.keys))
	s.keys = append(s.keys, b.bytes.key...)
	s.entries = append(s.entries, e)
}

// cut takes up to n rows off r.
func (r *Rows) cut(n int) (part Rows) {
	part.Frontends = cut(&r.Frontends, &n)
	part.Sets = cut(&r.Sets, &n)
	part.Backends = cut(&r.Backends, &n)
	part.Members = cut(&r.Members, &n)
	part.Endpoints = cut(&r.Endpoints, &n)
	part.Views = cut(&r.Views, &n)
	part.SourceRanges = cut(&r.SourceRanges, &n)
	part.Networks = cut(&r.Networks, &n)
	part.HealthChecks = cut(&r.HealthChecks, &n)
	part.Nodes = cut(&r.Nodes, &n)
	part.Selves = cut(&r.Selves, &n)
	part.RuleSets = cut(&r.RuleSets, &n)
	part.Rules = cut(&r.Rules, &n)
	part.PortVerdicts = cut(&r.PortVerdicts, &n)
	part.Verdicts = cut(&r.Verdicts, &n)
	part.Blocks = cut(&r.Blocks, &n)
	part.Peers = cut(&r.Peers, &n)
	return part
}

func cut[R any](rows *[]R, n *int) (part []R) {
	most := min(len(*rows), *n)
	part, *rows = (*rows)[:most], (*rows)[most:]
	*n -= most
	return part
}
