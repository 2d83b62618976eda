// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// atom is what rules of policies in force name others by: a group of pods, those of a group with a named port, nodes by
// their labels, or blocks. Rules that name the same share it.
type atom struct {
	atomKey
	id     uint32
	uses   int  // by rules in force
	term   term // 0 with a port
	group  *group
	blocks []state.Block
	// numbers are the terms of a named port's numbers.
	numbers map[uint16]term

	classes map[*class]bool // that have a term of it; of blocks none is kept
	regions []*region       // of blocks: their prefixes and what they except
	nodes   map[*node]int   // how many rule sets on a node use it
}

type atomKey struct {
	kind  state.PeerKind
	pods  state.PodPeer
	port  portName // with pods; zero is none
	nodes state.Selector
	block string // packed blocks
}

func (a *atom) isBlock() bool { return a.kind == state.PeerBlock }

// atom returns the atom of a key, which is made, without effect as yet, if it is new.
func (e *Engine) atom(key atomKey) (a *atom, isNew bool) {
	if a := e.atoms[key]; a != nil {
		a.uses++
		return a, false
	}
	a = &atom{atomKey: key, uses: 1, nodes: map[*node]int{}, classes: map[*class]bool{}}
	e.atoms[key] = a
	own := e.newTerm(a, 0)
	a.id = uint32(own)
	if key.port == (portName{}) {
		a.term = own
	} else {
		a.numbers = map[uint16]term{}
	}
	return a, true
}

// podsAtom returns the atom for the pods of a group; with a port, for those that have it, by its number.
func (e *Engine) podsAtom(peer state.PodPeer, port portName) *atom {
	a, isNew := e.atom(atomKey{kind: state.PeerPods, pods: peer, port: port})
	if !isNew {
		return a
	}
	a.group = e.group(peer)
	if port == (portName{}) {
		a.group.peers = a
	} else {
		a.group.ports[port] = a
	}
	e.retermLater(a.group)
	return a
}

func (e *Engine) nodesAtom(selector state.Selector) *atom {
	a, isNew := e.atom(atomKey{kind: state.PeerNodes, nodes: selector})
	if isNew {
		e.nodeAtoms[a] = true
		for _, n := range e.nodes {
			if n.row != nil && selector.Matches(n.row.Labels) {
				e.partition.nodes[n] = true
			}
		}
	}
	return a
}

// blocksAtom returns the atom of all blocks of one rule: an address in any of them is matched.
func (e *Engine) blocksAtom(blocks []state.Block) *atom {
	a, isNew := e.atom(atomKey{kind: state.PeerBlock, block: packBlocks(blocks)})
	if isNew {
		a.blocks = blocks
		e.enclose(a)
	}
	return a
}

// release gives back one use of an atom. The last one ends it.
func (e *Engine) release(a *atom) {
	if a.uses--; a.uses > 0 {
		return
	}
	delete(e.atoms, a.atomKey)
	switch a.kind {
	case state.PeerPods:
		if a.port == (portName{}) {
			a.group.peers = nil
		} else {
			delete(a.group.ports, a.port)
		}
		e.retermLater(a.group)
		e.tidy(a.group)
	case state.PeerNodes:
		delete(e.nodeAtoms, a)
		for _, n := range e.nodes {
			e.partition.nodes[n] = true
		}
	case state.PeerBlock:
		e.open(a)
	}
	e.partition.ended = append(e.partition.ended, a)
}

// freeTerms frees the terms of atoms that no class has any more.
func (e *Engine) freeAtoms() {
	for _, a := range e.partition.ended {
		e.freeTerm(term(a.id))
		for _, t := range a.numbers {
			e.freeTerm(t)
		}
	}
	e.partition.ended = nil
}

// newTerm returns a term of an atom; of a named port, for one number of it.
func (e *Engine) newTerm(a *atom, number uint16) (t term) {
	if n := len(e.freeTerms); n > 0 {
		t, e.freeTerms = e.freeTerms[n-1], e.freeTerms[:n-1]
	} else {
		t = term(len(e.terms))
		e.terms, e.names = append(e.terms, nil), append(e.names, 0)
	}
	e.terms[t], e.names[t] = a, a.name(number)
	return t
}

func (e *Engine) freeTerm(t term) {
	e.terms[t] = nil
	e.freeTerms = append(e.freeTerms, t)
}

// numbered returns the term of a named port's number.
func (e *Engine) numbered(a *atom, number uint16) term {
	t, known := a.numbers[number]
	if !known {
		t = e.newTerm(a, number)
		a.numbers[number] = t
	}
	return t
}

// numberOf returns what port a term of a named port stands for.
func (a *atom) numberOf(t term) uint16 {
	for number, other := range a.numbers {
		if other == t {
			return number
		}
	}
	return 0
}

func packBlocks(blocks []state.Block) string {
	var b []byte
	for _, block := range blocks {
		b = appendPrefix(b, block.Prefix)
		b = binary.BigEndian.AppendUint32(b, uint32(len(block.Except)))
		for _, except := range block.Except {
			b = appendPrefix(b, except)
		}
	}
	return string(b)
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	addr := p.Addr().As16()
	return append(append(b, byte(model.FamilyOf(p.Addr())), byte(p.Bits())), addr[:]...)
}

// sortBlocks returns blocks in order, each once.
func sortBlocks(blocks []state.Block) []state.Block {
	compare := func(a, b state.Block) int {
		if c := a.Prefix.Compare(b.Prefix); c != 0 {
			return c
		}
		return slices.CompareFunc(a.Except, b.Except, netip.Prefix.Compare)
	}
	slices.SortFunc(blocks, compare)
	return slices.CompactFunc(blocks, func(a, b state.Block) bool { return compare(a, b) == 0 })
}
