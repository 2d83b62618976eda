// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// tell says how rows change because classes did; who uses which atoms is as it was.
func (e *Engine) tell(c *census) {
	after := make(map[*class][]*node, len(c.order))
	for _, k := range c.order {
		before := c.classes[k]
		switch {
		case len(k.cells)+len(k.regions) == 0:
		case k.own != "" && k.classKey == before.classKey:
			after[k] = before.nodes
		default:
			after[k] = e.nodesOf(k)
		}
		e.tellVerdicts(k, before, after[k])
	}
	ways := map[[2]*class]*way{}
	move := func(a *address, from, to *class) {
		w := ways[[2]*class{from, to}]
		if w == nil {
			w = e.newWay(from, to, c.classes[from].nodes, after[to])
			ways[[2]*class{from, to}] = w
		}
		w.move(e, a)
	}
	for _, a := range e.partition.moved {
		var to *class
		if a.cell != nil && a.cell.own != "" {
			to = c.formed[a.cell.key()]
		}
		move(a, a.was, to)
	}
	for _, z := range c.cells {
		to := c.formed[z.key()]
		if stays := len(z.members) - z.joined; stays > 0 && z.class != to {
			for _, a := range z.members {
				if a.moved != e.partition.number {
					move(a, z.class, to)
				}
			}
		}
		z.class = to
	}
	for z := range e.partition.cells {
		z.joined = 0
		if len(z.members) == 0 {
			delete(e.cells, z.cellKey)
			delete(z.region.cells, z)
		}
	}
	e.tellBlocks(c)
}

// tellBlocks says how the rows of prefixes change.
func (e *Engine) tellBlocks(c *census) {
	for _, r := range c.regions {
		var to *class
		if r.uses > 0 && r.set != "" {
			to = c.formed[classKey{"", r.set}]
		}
		if r.class != to {
			for n := range r.nodes {
				e.delta(n).block(r.prefix, r.class.id(), to.id())
			}
		}
		r.class = to
	}
}

// tellVerdicts says what nodes' rule sets say of a class that has changed. A rule set without any of the atoms that came
// to the class or left it says the same as before: while classes split for a policy that is not in force yet, all do.
func (e *Engine) tellVerdicts(k *class, before sighting, after []*node) {
	news := e.apart(before.own, k.own, nil)
	news = e.apart(before.blocks, k.blocks, news)
	e.both(before.nodes, after, func(n *node, was, is bool) {
		stays := was && is
		if stays && !slices.ContainsFunc(news, func(a *atom) bool { return a.nodes[n] > 0 }) {
			return
		}
		for r := range n.sets {
			if stays && !slices.ContainsFunc(news, func(a *atom) bool { _, asks := r.find(a); return asks }) {
				continue
			}
			var old, now *outcome
			if was {
				old = e.outcome(r, before.classKey)
			}
			if is {
				now = e.outcome(r, k.classKey)
			}
			e.setVerdict(n, r, k.number, old, now)
		}
	})
}

// apart appends the atoms of the terms that only one of two sets has.
func (e *Engine) apart(a, b termSet, atoms []*atom) []*atom {
	for i, j := 0, 0; i < a.len() || j < b.len(); {
		switch {
		case j == b.len() || i < a.len() && a.at(i) < b.at(j):
			atoms = append(atoms, e.terms[a.at(i)])
			i++
		case i == a.len() || b.at(j) < a.at(i):
			atoms = append(atoms, e.terms[b.at(j)])
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return atoms
}

// both visits the nodes of two lists, each once.
func (e *Engine) both(before, after []*node, visit func(n *node, was, is bool)) {
	e.stamp++
	for _, n := range after {
		n.seen = e.stamp
	}
	for _, n := range before {
		visit(n, true, n.seen == e.stamp)
	}
	e.stamp++
	for _, n := range before {
		n.seen = e.stamp
	}
	for _, n := range after {
		if n.seen != e.stamp {
			visit(n, false, true)
		}
	}
}

// way is how addresses go from one class to another: on which nodes rows of theirs change, and how.
type way struct {
	from, to    *class
	put, remove []*node
	had         []bool // for put: there was a row
}

func (e *Engine) newWay(from, to *class, before, after []*node) *way {
	w := &way{from: from, to: to}
	e.both(before, after, func(n *node, was, is bool) {
		switch {
		case !is:
			w.remove = append(w.remove, n)
		case !was || from != to:
			w.put, w.had = append(w.put, n), append(w.had, was)
		}
	})
	return w
}

func (w *way) move(e *Engine, a *address) {
	for _, n := range w.remove {
		e.delta(n).peer(a.addr, w.from.id(), 0)
	}
	for i, n := range w.put {
		var old model.IdentityID
		if w.had[i] {
			old = w.from.id()
		}
		e.delta(n).peer(a.addr, old, w.to.id())
	}
}

// nodesOf returns the nodes that know a class: those that use an atom of its own, or a prefix of its regions.
func (e *Engine) nodesOf(k *class) (list []*node) {
	e.stamp++
	add := func(nodes map[*node]int) {
		for n := range nodes {
			if n.seen != e.stamp {
				n.seen = e.stamp
				list = append(list, n)
			}
		}
	}
	for i := range k.own.len() {
		add(e.terms[k.own.at(i)].nodes)
	}
	for _, r := range k.regions {
		add(r.nodes)
	}
	return list
}
