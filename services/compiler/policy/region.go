// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
)

// region is the addresses of a prefix that are in no longer one: no block tells them apart. Blocks and what they
// except make regions; what is in none is in the region without a prefix.
type region struct {
	prefix netip.Prefix
	uses   int // by atoms
	terms  []term
	set    termSet // of terms, as of the last repartition
	class  *class  // of the addresses that nothing but blocks match; nil without terms
	cells  map[*cell]bool
	nodes  map[*node]int // how many atoms that a node uses have the prefix
}

// regions are all of them, so ordered that those within a prefix follow it.
type regions struct {
	sorted []*region
	exact  map[netip.Prefix]*region
	// lengths counts the prefixes of each length, of IPv4 and IPv6.
	lengths [2][129]int
	outside *region
}

func (r *regions) init() {
	r.exact = map[netip.Prefix]*region{}
	r.outside = newRegion(netip.Prefix{})
}

func newRegion(p netip.Prefix) *region {
	return &region{prefix: p, cells: map[*cell]bool{}, nodes: map[*node]int{}}
}

// of returns the region that an address is in.
func (r *regions) of(addr netip.Addr) *region { return r.longest(addr, addr.BitLen()) }

// longest returns the region with the longest prefix, up to some bits, that has the address.
func (r *regions) longest(addr netip.Addr, bits int) *region {
	lengths := &r.lengths[family(addr)]
	for ; bits >= 0; bits-- {
		if lengths[bits] == 0 {
			continue
		}
		if prefix, err := addr.Prefix(bits); err == nil && r.exact[prefix] != nil {
			return r.exact[prefix]
		}
	}
	return r.outside
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

func (r *regions) find(p netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(r.sorted, p, func(r *region, p netip.Prefix) int { return r.prefix.Compare(p) })
}

// within returns the regions whose prefixes are in p, p's own first.
func (r *regions) within(p netip.Prefix) []*region {
	from, _ := r.find(p)
	to := from
	for to < len(r.sorted) && contains(p, r.sorted[to].prefix) {
		to++
	}
	return r.sorted[from:to]
}

func contains(p, q netip.Prefix) bool { return q.Bits() >= p.Bits() && p.Contains(q.Addr()) }

// region returns the region of a prefix; if it is new, cut out of the one that it lies in. Addresses stay there until
// they are dealt out.
func (e *Engine) region(p netip.Prefix) *region {
	if r := e.regions.exact[p]; r != nil {
		r.uses++
		return r
	}
	around := e.regions.longest(p.Addr(), p.Bits())
	r := newRegion(p)
	r.uses, r.terms = 1, slices.Clone(around.terms)
	e.partition.regions[r] = true
	e.regions.exact[p] = r
	e.regions.lengths[family(p.Addr())][p.Bits()]++
	i, _ := e.regions.find(p)
	e.regions.sorted = slices.Insert(e.regions.sorted, i, r)
	e.partition.cut = append(e.partition.cut, p)
	e.partition.around[around] = true
	return r
}

// dealOut moves addresses into the regions that were cut, in one walk for all of them: there may be thousands in a
// region that has all pods.
func (e *Engine) dealOut() {
	slices.SortFunc(e.partition.cut, netip.Prefix.Compare)
	var outer []netip.Prefix
	for _, p := range e.partition.cut {
		if len(outer) == 0 || !contains(outer[len(outer)-1], p) {
			outer = append(outer, p)
		}
	}
	var inside []*address
	for r := range e.partition.around {
		for z := range r.cells {
			for _, a := range z.members {
				if anyContains(outer, a.addr) {
					inside = append(inside, a)
				}
			}
		}
	}
	e.placeAll(inside)
}

// anyContains says whether one of some prefixes has an address; they are in order, and apart.
func anyContains(prefixes []netip.Prefix, addr netip.Addr) bool {
	after, found := slices.BinarySearchFunc(prefixes, addr, func(p netip.Prefix, addr netip.Addr) int { return p.Addr().Compare(addr) })
	return found || after > 0 && prefixes[after-1].Contains(addr)
}

// dropRegion gives back one use of a region. With the last, its addresses fall to the one around it.
func (e *Engine) dropRegion(r *region) {
	if r.uses--; r.uses > 0 {
		return
	}
	e.partition.regions[r] = true
	delete(e.regions.exact, r.prefix)
	e.regions.lengths[family(r.prefix.Addr())][r.prefix.Bits()]--
	i, _ := e.regions.find(r.prefix)
	e.regions.sorted = slices.Delete(e.regions.sorted, i, i+1)
	var inside []*address
	for z := range r.cells {
		inside = append(inside, z.members...)
	}
	e.placeAll(inside)
}

func (e *Engine) placeAll(list []*address) {
	for _, a := range list {
		e.place(a)
	}
}

// enclose puts an atom's term on all regions that its blocks hold.
func (e *Engine) enclose(a *atom) {
	for _, block := range a.blocks {
		a.bound(e, block.Prefix)
		for _, except := range block.Except {
			a.bound(e, except)
		}
	}
	e.eachHeld(a, func(r *region) {
		if n := len(r.terms); n == 0 || r.terms[n-1] != a.term { // two blocks may hold one region
			r.terms = append(r.terms, a.term)
			e.partition.regions[r] = true
		}
	})
	a.regions = distinct(a.regions, e.dropRegion)
}

// bound makes a prefix a region of the atom. Nodes keep IPv4 addresses among the IPv6 ones (RFC 4291, 2.5.5.2): where a
// prefix has these in it, that of all IPv4 addresses says what is true of them.
func (a *atom) bound(e *Engine, p netip.Prefix) {
	a.regions = append(a.regions, e.region(p))
	if p.Addr().Is6() && contains(p, mapped) {
		a.regions = append(a.regions, e.region(everyIPv4))
	}
}

var (
	mapped    = netip.MustParsePrefix("::ffff:0:0/96")
	everyIPv4 = netip.MustParsePrefix("0.0.0.0/0")
)

// open takes an atom's term from all regions.
func (e *Engine) open(a *atom) {
	e.eachHeld(a, func(r *region) {
		r.terms = without(r.terms, a.term)
		e.partition.regions[r] = true
	})
	for _, r := range a.regions {
		e.dropRegion(r)
	}
}

// eachHeld visits the regions in each block of an atom and in none of the block's exceptions. All of these are prefixes
// of regions, so that a region is in each wholly or not at all.
func (e *Engine) eachHeld(a *atom, visit func(*region)) {
	for _, block := range a.blocks {
		var skip netip.Prefix // whose regions follow
		if slices.ContainsFunc(block.Except, func(p netip.Prefix) bool { return contains(p, block.Prefix) }) {
			continue
		}
		for _, r := range e.regions.within(block.Prefix) {
			if skip.IsValid() && contains(skip, r.prefix) {
				continue
			}
			if _, excepted := slices.BinarySearchFunc(block.Except, r.prefix, netip.Prefix.Compare); excepted {
				skip = r.prefix
				continue
			}
			visit(r)
		}
	}
}

// distinct leaves each region once and gives back the others.
func distinct(list []*region, drop func(*region)) []*region {
	seen := map[*region]bool{}
	kept := list[:0]
	for _, r := range list {
		if seen[r] {
			drop(r)
			continue
		}
		seen[r] = true
		kept = append(kept, r)
	}
	return kept
}
