// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// partition is what has changed of the classes since the last repartition.
type partition struct {
	number  uint64 // of the repartition that comes, from 1
	moved   []*address
	cells   map[*cell]bool // that members joined or left
	regions map[*region]bool
	cut     []netip.Prefix   // that are new regions
	around  map[*region]bool // that have addresses of those, until they are dealt out
	shapes  map[*shape]bool  // that atoms came to or went from, and nodes likewise
	nodes   map[*node]bool
	ended   []*atom
}

func (p *partition) reset() {
	*p = partition{
		number: p.number + 1, cells: map[*cell]bool{}, regions: map[*region]bool{}, around: map[*region]bool{},
		shapes: map[*shape]bool{}, nodes: map[*node]bool{}, ended: p.ended,
	}
}

// repartition makes classes agree with cells and regions again, and says how rows change.
func (e *Engine) repartition() {
	for s := range e.partition.shapes {
		e.reterm(s)
	}
	for n := range e.partition.nodes {
		e.retermNode(n)
	}
	if len(e.partition.moved) > 0 || len(e.partition.cells) > 0 || len(e.partition.regions) > 0 {
		e.dealOut()
		for r := range e.partition.regions {
			r.set = newTermSet(r.terms)
		}
		c := e.survey()
		e.deal(c)
		e.numberKnown(c.order)
		e.tell(c)
		e.unnumber(c.order)
		for _, a := range e.partition.moved {
			e.forget(a)
		}
	}
	e.partition.reset()
	e.freeAtoms()
}

// census is all that a repartition may change: some classes wholly, with all their cells and regions.
type census struct {
	classes map[*class]sighting // as they were
	order   []*class
	cells   []*cell
	regions []*region
	formed  map[classKey]*class // what they are dealt as
}

// sighting is what a class was and where rows of it were.
type sighting struct {
	classKey
	nodes []*node
}

// survey finds what changes: the classes that members joined or left, or that are what some will be.
func (e *Engine) survey() *census {
	c := &census{classes: map[*class]sighting{}, formed: map[classKey]*class{}}
	seenCells, seenRegions := map[*cell]bool{}, map[*region]bool{}
	var addCell func(z *cell)
	var addRegion func(r *region)
	addClass := func(k *class) {
		if k == nil {
			return
		}
		if _, seen := c.classes[k]; seen {
			return
		}
		c.classes[k] = sighting{k.classKey, e.nodesOf(k)}
		c.order = append(c.order, k)
		for _, z := range k.cells {
			addCell(z)
		}
		for _, r := range k.regions {
			addRegion(r)
		}
	}
	addCell = func(z *cell) {
		if z.own == "" || seenCells[z] {
			return
		}
		seenCells[z] = true
		c.cells = append(c.cells, z)
		addClass(z.class)
		addClass(e.classes[z.key()])
	}
	addRegion = func(r *region) {
		if seenRegions[r] {
			return
		}
		seenRegions[r] = true
		c.regions = append(c.regions, r)
		addClass(r.class)
		addClass(e.classes[classKey{"", r.set}])
	}
	for z := range e.partition.cells {
		addCell(z)
	}
	for r := range e.partition.regions {
		addRegion(r)
		for z := range r.cells {
			addCell(z)
		}
	}
	for _, a := range e.partition.moved {
		addClass(a.was)
	}
	return c
}

// flow is how many addresses and prefixes of a class are of a key now.
type flow struct {
	from *class
	to   classKey
	name className // of to
	n    int
}

// flows counts where the members of classes went.
func (e *Engine) flows(c *census) []flow {
	type way struct {
		from *class
		to   classKey
	}
	count := map[way]int{}
	for _, z := range c.cells {
		if stay := len(z.members) - z.joined; z.class != nil && stay > 0 {
			count[way{z.class, z.key()}] += stay
		}
	}
	for _, a := range e.partition.moved {
		if a.was != nil && a.cell != nil && a.cell.own != "" {
			count[way{a.was, a.cell.key()}]++
		}
	}
	for _, r := range c.regions {
		if r.class != nil && r.set != "" && r.uses > 0 {
			count[way{r.class, classKey{"", r.set}}]++
		}
	}
	list := make([]flow, 0, len(count))
	for w, n := range count {
		list = append(list, flow{w.from, w.to, e.nameOf(w.to), n})
	}
	return list
}

// keep gives each key the class that most of its members come from, the largest first: a class keeps its number with
// its largest part. A class that is what it was goes before others of as many members, one without rows after all.
func keep(flows []flow, formed map[classKey]*class) {
	slices.SortFunc(flows, func(a, b flow) int {
		return cmp.Or(boolean(a.from.number == 0)-boolean(b.from.number == 0), cmp.Compare(b.n, a.n),
			boolean(b.from.classKey == b.to)-boolean(a.from.classKey == a.to),
			cmp.Compare(a.from.number, b.from.number), a.name.compare(b.name))
	})
	given := map[*class]bool{}
	for _, f := range flows {
		if formed[f.to] == nil && !given[f.from] {
			formed[f.to] = f.from
			given[f.from] = true
		}
	}
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// deal forms the classes anew. Cells and regions still have their old ones, for tell.
func (e *Engine) deal(c *census) {
	keep(e.flows(c), c.formed)
	for _, k := range c.order {
		e.unlist(k)
		k.cells, k.regions = nil, nil
	}
	for key, k := range c.formed {
		k.classKey = key
		e.list(k)
	}
	for _, z := range c.cells {
		if len(z.members) > 0 {
			k := e.form(z.key(), c)
			k.cells = append(k.cells, z)
		}
	}
	for _, r := range c.regions {
		if r.uses > 0 && r.set != "" {
			k := e.form(classKey{"", r.set}, c)
			k.regions = append(k.regions, r)
		}
	}
}

// form returns the class of a key, which is made, without a number, if none was kept for it.
func (e *Engine) form(key classKey, c *census) *class {
	if k := c.formed[key]; k != nil {
		return k
	}
	k := &class{classKey: key}
	c.formed[key] = k
	c.order = append(c.order, k)
	e.list(k)
	return k
}

// list makes a class known by its key and to its atoms.
func (e *Engine) list(k *class) {
	e.classes[k.classKey] = k
	for i := range k.own.len() {
		e.terms[k.own.at(i)].classes[k] = true
	}
}

func (e *Engine) unlist(k *class) {
	if e.classes[k.classKey] == k {
		delete(e.classes, k.classKey)
	}
	for i := range k.own.len() {
		if a := e.terms[k.own.at(i)]; a != nil {
			delete(a.classes, k)
		}
	}
}
