// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
)

// class is addresses that the same atoms match: one identity. It keeps its number while what matches it changes, as long
// as any node has a row of it.
type class struct {
	classKey
	number  model.IdentityID // 0 while no node has a row of it
	cells   []*cell          // of addresses that have terms of their own
	regions []*region        // of all others
	seen    uint64
}

// size returns the number of addresses that have terms of their own.
func (k *class) size() (n int) {
	for _, z := range k.cells {
		n += len(z.members)
	}
	return n
}

// each visits the addresses that have terms of their own.
func (k *class) each(visit func(*address)) {
	for _, z := range k.cells {
		for _, a := range z.members {
			visit(a)
		}
	}
}

// classKey is what is matched: the terms of pods and nodes, and those of blocks.
type classKey struct{ own, blocks termSet }

// cell is the addresses of one region that have the same terms of their own.
type cell struct {
	cellKey
	class   *class // as of the last repartition; nil without own terms
	members []*address
	joined  int // members that have moved since the last repartition
}

type cellKey struct {
	own    termSet
	region *region
}

// address is one that pods or nodes have.
type address struct {
	addr  netip.Addr
	cell  *cell
	slot  int    // in the cell
	moved uint64 // the repartition in which it last moved
	was   *class // before that
	pods  []*pod // that claim it, by name: the first has it
	nodes []*node
	ends  []*endpoint // by node, one at most each
}

// owner returns the pod that has the address, or nil.
func (a *address) owner() *pod {
	if len(a.pods) > 0 {
		return a.pods[0]
	}
	return nil
}

// key returns what matches a cell's addresses now.
func (z *cell) key() classKey { return classKey{z.own, z.region.set} }

// cell returns the cell of a key, which is made if it is new.
func (e *Engine) cell(key cellKey) *cell {
	if z := e.cells[key]; z != nil {
		return z
	}
	z := &cell{cellKey: key}
	e.cells[key] = z
	key.region.cells[z] = true
	return z
}

// place puts an address where it belongs now: into the cell of its owner's terms and its region, or nowhere.
func (e *Engine) place(a *address) {
	var own termSet
	switch {
	case len(a.pods) > 0:
		own = a.pods[0].shape.terms
	case len(a.nodes) > 0:
		own = a.nodes[0].terms
	default:
		e.lift(a)
		return
	}
	key := cellKey{own, e.regions.of(a.addr)}
	if a.cell != nil && a.cell.cellKey == key {
		return
	}
	e.lift(a)
	z := e.cell(key)
	e.partition.cells[z] = true
	a.cell, a.slot = z, len(z.members)
	z.members = append(z.members, a)
	z.joined++
}

// lift takes an address out of its cell, and notes where it was.
func (e *Engine) lift(a *address) {
	first := a.moved != e.partition.number
	if first {
		a.moved, a.was = e.partition.number, nil
		e.partition.moved = append(e.partition.moved, a)
	}
	z := a.cell
	if z == nil {
		return
	}
	if first {
		a.was = z.class
	} else {
		z.joined--
	}
	e.partition.cells[z] = true
	last := len(z.members) - 1
	z.members[a.slot] = z.members[last]
	z.members[a.slot].slot = a.slot
	z.members[last] = nil
	z.members = z.members[:last]
	a.cell = nil
}

// claim gives an address to a pod, if it is the first of those that claim it.
func (e *Engine) claim(p *pod) {
	for _, addr := range p.row.Addresses {
		a := e.address(addr)
		if i, found := slices.BinarySearchFunc(a.pods, p, comparePods); !found {
			a.pods = slices.Insert(a.pods, i, p)
		}
		e.place(a)
		e.unsettled[a] = true
	}
}

// disclaim takes a pod's addresses back.
func (e *Engine) disclaim(p *pod) {
	for _, addr := range p.row.Addresses {
		a := e.addresses[addr]
		if a == nil {
			continue // named twice by the pod
		}
		a.pods = slices.DeleteFunc(a.pods, func(q *pod) bool { return q == p })
		e.place(a)
		e.unsettled[a] = true
	}
}

func comparePods(a, b *pod) int { return a.row.Compare(b.row.Name) }

func (e *Engine) address(addr netip.Addr) *address {
	a := e.addresses[addr]
	if a == nil {
		a = &address{addr: addr}
		e.addresses[addr] = a
	}
	return a
}

func compareNodes(a, b *node) int { return strings.Compare(a.name, b.name) }

// id returns the class's number; 0 for none.
func (k *class) id() model.IdentityID {
	if k == nil {
		return 0
	}
	return k.number
}
