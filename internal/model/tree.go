// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"crypto/sha256"
	"slices"
)

// Tree is the keys of a set of rows with the digests of its branches, kept up to date row by row, so that two holders
// of nearly the same rows find where they differ (docs/adr/0015). A row's place in it is the first 8 bytes of the
// SHA-256 of its key, so that branches of one depth have about as many rows each, whoever chose the keys; its digest is
// the first lane of Digest. Memory is some 45 bytes a row, changing one costs a descent and two hashes.
//
// Invariant: a branch has parts only if it has more than joinLeast rows.
type Tree struct {
	root  treeNode
	bytes rowBytes // scratch
}

// treeNode is one branch: with parts, or with the entries of its rows. An entry is a key and 8 bytes of digest.
type treeNode struct {
	digest  uint64
	rows    int
	parts   *[Fanout]treeNode
	entries []byte
}

const (
	splitMost = 32
	joinLeast = 8
)

// Apply changes t as Tables.Apply changes the tables.
func (t *Tree) Apply(c *Change) {
	t.remove(&c.Remove)
	t.put(&c.Put)
}

// Len returns the number of rows.
func (t *Tree) Len() int { return t.root.rows }

// Sum is what a branch comes to.
type Sum struct {
	Digest uint64 // the first lane of the digest of its rows
	Rows   int
}

// Sum returns what a branch comes to.
func (t *Tree) Sum(b Branch) (s Sum) {
	n, whole := t.find(b)
	if whole {
		return Sum{n.digest, n.rows}
	}
	n.each(func(key []byte, digest uint64) {
		if b.Holds(placeOf(key)) {
			s.Digest += digest
			s.Rows++
		}
	})
	return s
}

// Digests returns the digests of the parts of b, which has less than MaxDepth digits.
func (t *Tree) Digests(b Branch) (digests [Fanout]uint64) {
	n, whole := t.find(b)
	if whole && n.parts != nil {
		for i := range n.parts {
			digests[i] = n.parts[i].digest
		}
		return digests
	}
	n.each(func(key []byte, digest uint64) {
		if place := placeOf(key); b.Holds(place) {
			digests[digit(place, b.Depth())] += digest
		}
	})
	return digests
}

// Keys returns the keys of a branch's rows, in an order that depends on them alone.
func (t *Tree) Keys(b Branch) Keys {
	return t.keys(b, func([]byte, uint64) bool { return true })
}

// Beside returns those of a branch that another tree doesn't have.
func (t *Tree) Beside(b Branch, other *Tree) Keys {
	return t.keys(b, func(key []byte, place uint64) bool {
		p := other.path(place)
		return p.end().at(key) < 0
	})
}

func (t *Tree) keys(b Branch, wanted func(key []byte, place uint64) bool) (keys Keys) {
	n, _ := t.find(b)
	var found [][]byte
	n.each(func(key []byte, _ uint64) {
		if place := placeOf(key); b.Holds(place) && wanted(key, place) {
			found = append(found, key)
		}
	})
	slices.SortFunc(found, bytes.Compare)
	for _, key := range found {
		keys.add(key)
	}
	return keys
}

// find returns the node of a branch, or the entries that its rows are among.
func (t *Tree) find(b Branch) (n *treeNode, whole bool) {
	n = &t.root
	place := b.First()
	for depth := range b.Depth() {
		if n.parts == nil {
			return n, false
		}
		n = &n.parts[digit(place, depth)]
	}
	return n, true
}

func (n *treeNode) each(visit func(key []byte, digest uint64)) {
	if n.parts != nil {
		for i := range n.parts {
			n.parts[i].each(visit)
		}
		return
	}
	for b := n.entries; len(b) > 0; {
		size := 1 + keySizes[b[0]]
		visit(b[:size], big.Uint64(b[size:]))
		b = b[size+8:]
	}
}

// placeOf is where a key is in a tree.
func placeOf(key []byte) uint64 {
	hash := sha256.Sum256(key)
	return big.Uint64(hash[:])
}

// digit returns one hexadecimal digit of a place, counted from 0.
func digit(place uint64, depth int) int { return int(place >> (60 - 4*depth) & 15) }

func eachRow[R canonical](b *rowBytes, visit func(), rows []R, appendKey func([]byte, R) []byte) {
	for _, r := range rows {
		b.key, b.row = appendKey(b.key[:0], r), r.appendCanonical(b.row[:0])
		visit()
	}
}

// put adds rows of all tables to t.
func (t *Tree) put(r *Rows) { t.bytes.each(r, func() { t.set(t.bytes.key, t.bytes.digest()) }) }

// digest is the first lane of the row's Digest.
func (b *rowBytes) digest() uint64 {
	hash := sha256.Sum256(b.row)
	return big.Uint64(hash[:])
}

func removeKeys[K any](t *Tree, keys []K, appendKey func([]byte, K) []byte) {
	for _, k := range keys {
		t.bytes.key = appendKey(t.bytes.key[:0], k)
		t.drop(t.bytes.key)
	}
}

// path is the nodes from the root to the entries that a place is among.
type path struct {
	nodes [MaxDepth + 1]*treeNode
	depth int
}

func (t *Tree) path(place uint64) (p path) {
	n := &t.root
	p.nodes[0] = n
	for n.parts != nil {
		n = &n.parts[digit(place, p.depth)]
		p.depth++
		p.nodes[p.depth] = n
	}
	return p
}

func (p *path) end() *treeNode { return p.nodes[p.depth] }

// moved adds to the sums of all branches on the way.
func (p *path) moved(digest uint64, rows int) {
	for _, n := range p.nodes[:p.depth+1] {
		n.digest += digest
		n.rows += rows
	}
}

// at returns where the entry of a key begins; -1 if there is none.
func (n *treeNode) at(key []byte) int {
	for i := 0; i < len(n.entries); {
		size := 1 + keySizes[n.entries[i]]
		if size == len(key) && bytes.Equal(n.entries[i:i+size], key) {
			return i
		}
		i += size + 8
	}
	return -1
}

func (t *Tree) set(key []byte, digest uint64) {
	p := t.path(placeOf(key))
	n := p.end()
	if i := n.at(key); i >= 0 {
		old := n.entries[i+len(key):]
		p.moved(digest-big.Uint64(old), 0)
		big.PutUint64(old, digest)
		return
	}
	n.entries = big.AppendUint64(append(n.entries, key...), digest)
	p.moved(digest, 1)
	if n.rows > splitMost && p.depth < MaxDepth {
		n.split(p.depth)
	}
}

func (n *treeNode) split(depth int) {
	parts := new([Fanout]treeNode)
	n.each(func(key []byte, digest uint64) {
		part := &parts[digit(placeOf(key), depth)]
		part.entries = big.AppendUint64(append(part.entries, key...), digest)
		part.digest += digest
		part.rows++
	})
	n.parts, n.entries = parts, nil
}

func (t *Tree) drop(key []byte) {
	p := t.path(placeOf(key))
	n := p.end()
	i := n.at(key)
	if i < 0 {
		return
	}
	end := i + len(key) + 8
	p.moved(-big.Uint64(n.entries[end-8:]), -1)
	n.entries = append(n.entries[:i], n.entries[end:]...)
	for _, n := range p.nodes[:p.depth] {
		if n.rows <= joinLeast {
			n.join()
			return
		}
	}
}

// join makes one list of the entries of all parts.
func (n *treeNode) join() {
	var entries []byte
	n.each(func(key []byte, digest uint64) { entries = big.AppendUint64(append(entries, key...), digest) })
	n.parts, n.entries = nil, entries
}
