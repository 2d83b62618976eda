// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"iter"
	"maps"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// point turns an endpoint's pointers, and counts who uses which rule set.
func (e *Engine) point(x *endpoint, ingress, egress *ruleSet) {
	for _, r := range []*ruleSet{ingress, egress} {
		if r != nil {
			e.noteUse(x.node, r)
			x.node.sets[r]++
			r.users++
		}
	}
	for _, r := range []*ruleSet{x.ingress, x.egress} {
		if r != nil {
			e.noteUse(x.node, r)
			if x.node.sets[r]--; x.node.sets[r] == 0 {
				delete(x.node.sets, r)
			}
			r.users--
		}
	}
	x.ingress, x.egress = ingress, egress
}

// noteUse remembers whether a node had a rule set before its use changed.
func (e *Engine) noteUse(n *node, r *ruleSet) {
	noted := e.usage[n]
	if noted == nil {
		noted = map[*ruleSet]bool{}
		e.usage[n] = noted
	}
	if _, is := noted[r]; !is {
		noted[r] = n.sets[r] > 0
	}
}

// deploy says how rows change because nodes use other rule sets; classes are as they were.
func (e *Engine) deploy() {
	var gone []*ruleSet
	var shifts []*shift
	for n, noted := range e.usage {
		s := newShift(n)
		for r, had := range noted {
			switch has := n.sets[r] > 0; {
			case has && !had:
				s.added = append(s.added, r)
			case had && !has:
				s.removed = append(s.removed, r)
			}
			gone = append(gone, r)
		}
		if len(s.added)+len(s.removed) > 0 {
			shifts = append(shifts, s)
		}
	}
	e.shiftAll(shifts)
	for _, r := range gone {
		e.retire(r)
	}
	clear(e.usage)
}

// shiftAll says how rows change on several nodes. Classes get numbers where the first node gets rows of them.
func (e *Engine) shiftAll(shifts []*shift) {
	e.numberAll(e.classesOf(func(yield func(*ruleSet) bool) {
		for _, s := range shifts {
			for _, r := range s.added {
				if !yield(r) {
					return
				}
			}
		}
	}))
	var left []*class
	for _, s := range shifts {
		left = append(left, e.shift(s)...)
	}
	e.unnumber(left)
}

// shift is how the rule sets of one node change, and what is known there because of that.
type shift struct {
	node           *node
	added, removed []*ruleSet
	newAtoms       map[*atom]bool
	oldAtoms       map[*atom]bool
	newPrefixes    map[*region]bool
	oldPrefixes    map[*region]bool
	known          map[termSet][]*class // that its rule sets make known, by blocks, once it was asked for
}

func newShift(n *node) *shift {
	return &shift{
		node: n, newAtoms: map[*atom]bool{}, oldAtoms: map[*atom]bool{},
		newPrefixes: map[*region]bool{}, oldPrefixes: map[*region]bool{},
	}
}

// shift says how the rows of one node change, and returns the classes that it knows no more.
func (e *Engine) shift(s *shift) (went []*class) {
	n, d := s.node, e.delta(s.node)
	for _, r := range s.removed {
		d.ruleSet(r, true, false)
		e.setVerdict(n, r, 0, r.other, nil)
		s.eachClass(e, r, s.before(), func(k *class, o *outcome) { e.setVerdict(n, r, k.number, o, nil) })
	}
	s.count()
	came, went := e.classesShifted(s)
	for r := range s.kept() {
		for _, k := range went {
			e.setVerdict(n, r, k.number, e.outcome(r, k.classKey), nil)
		}
		for _, k := range came {
			e.setVerdict(n, r, k.number, nil, e.outcome(r, k.classKey))
		}
	}
	s.known = nil
	for _, r := range s.added {
		d.ruleSet(r, false, true)
		e.setVerdict(n, r, 0, nil, r.other)
		s.eachClass(e, r, maps.Keys(n.sets), func(k *class, o *outcome) { e.setVerdict(n, r, k.number, nil, o) })
	}
	s.rules(d)
	s.addresses(d, came, went)
	return went
}

// rules says how the rows of rules change. Those that come go first, so that what both have stays.
func (s *shift) rules(d *delta) {
	for _, r := range s.added {
		for _, row := range r.rows {
			d.addRule(row)
		}
	}
	for _, r := range s.removed {
		for _, row := range r.rows {
			d.dropRule(row)
		}
	}
}

// addresses says how the rows of addresses and prefixes change.
func (s *shift) addresses(d *delta, came, went []*class) {
	if d.fresh != nil {
		n := 0
		for _, k := range came {
			n += k.size()
		}
		d.fresh.Peers = make(model.Peers, n)
	}
	for _, k := range went {
		k.each(func(a *address) { d.peer(a.addr, k.number, 0) })
	}
	for _, k := range came {
		k.each(func(a *address) { d.peer(a.addr, 0, k.number) })
	}
	for r := range s.oldPrefixes {
		d.block(r.prefix, r.class.id(), absent)
	}
	for r := range s.newPrefixes {
		d.block(r.prefix, absent, r.class.id())
	}
}

// before are the rule sets that the node had.
func (s *shift) before() iter.Seq[*ruleSet] {
	return func(yield func(*ruleSet) bool) {
		for r := range s.kept() {
			if !yield(r) {
				return
			}
		}
		for _, r := range s.removed {
			if !yield(r) {
				return
			}
		}
	}
}

// kept are the rule sets that the node had and has.
func (s *shift) kept() iter.Seq[*ruleSet] {
	return func(yield func(*ruleSet) bool) {
		for r := range s.node.sets {
			if !slices.Contains(s.added, r) && !yield(r) {
				return
			}
		}
	}
}

// eachClass visits the classes that the node knows and that a rule set doesn't judge as unknown ones. If some of its
// atoms are blocks these may be any that the node knows, by whichever of its rule sets.
func (s *shift) eachClass(e *Engine, r *ruleSet, all iter.Seq[*ruleSet], visit func(*class, *outcome)) {
	judge := func(k *class) {
		if o := e.outcome(r, k.classKey); o != nil {
			visit(k, o)
		}
	}
	if !r.blocks {
		for _, k := range e.classesOf(func(yield func(*ruleSet) bool) { yield(r) }) {
			judge(k)
		}
		return
	}
	if s.known == nil {
		s.known = map[termSet][]*class{}
		for _, k := range e.classesOf(all) {
			s.known[k.blocks] = append(s.known[k.blocks], k)
		}
	}
	for blocks, classes := range s.known {
		if e.touches(r, blocks) {
			for _, k := range classes {
				judge(k)
			}
		}
	}
	for _, k := range e.classesOf(func(yield func(*ruleSet) bool) { yield(r) }) {
		if k.own != "" && !e.touches(r, k.blocks) {
			judge(k)
		}
	}
}

// classesOf returns the classes that rule sets make known.
func (e *Engine) classesOf(sets iter.Seq[*ruleSet]) (list []*class) {
	e.stamp++
	add := func(k *class) {
		if k != nil && k.seen != e.stamp {
			k.seen = e.stamp
			list = append(list, k)
		}
	}
	for r := range sets {
		for _, a := range r.atoms {
			for k := range a.classes {
				add(k)
			}
			for _, region := range a.regions {
				add(region.class)
			}
		}
	}
	return list
}

// count counts anew which atoms and prefixes the node uses.
func (s *shift) count() {
	for _, r := range s.added {
		for _, a := range r.atoms {
			gain(a.nodes, s.node, s.newAtoms, a)
		}
	}
	for _, r := range s.removed {
		for _, a := range r.atoms {
			lose(a.nodes, s.node, s.oldAtoms, a)
		}
	}
	for a := range s.newAtoms {
		for _, r := range a.regions {
			gain(r.nodes, s.node, s.newPrefixes, r)
		}
	}
	for a := range s.oldAtoms {
		for _, r := range a.regions {
			lose(r.nodes, s.node, s.oldPrefixes, r)
		}
	}
}

func gain[T comparable](uses map[*node]int, n *node, first map[T]bool, item T) {
	if uses[n]++; uses[n] == 1 {
		first[item] = true
	}
}

func lose[T comparable](uses map[*node]int, n *node, last map[T]bool, item T) {
	if uses[n]--; uses[n] == 0 {
		delete(uses, n)
		last[item] = true
	}
}

// classes returns the classes that the node knows anew, and those that it knows no more.
func (e *Engine) classesShifted(s *shift) (came, went []*class) {
	e.stamp++
	visit := func(k *class) {
		if k == nil || k.seen == e.stamp {
			return
		}
		k.seen = e.stamp
		was, is := e.knownIn(k, s)
		switch {
		case is && !was:
			came = append(came, k)
		case was && !is:
			went = append(went, k)
		}
	}
	for _, atoms := range []map[*atom]bool{s.newAtoms, s.oldAtoms} {
		for a := range atoms {
			for k := range a.classes {
				visit(k)
			}
		}
	}
	for _, prefixes := range []map[*region]bool{s.newPrefixes, s.oldPrefixes} {
		for r := range prefixes {
			visit(r.class)
		}
	}
	return came, went
}

// knownIn says whether a node knew a class, and whether it does.
func (e *Engine) knownIn(k *class, s *shift) (was, is bool) {
	for i := range k.own.len() {
		a := e.terms[k.own.at(i)]
		has := a.nodes[s.node] > 0
		is = is || has
		was = was || s.oldAtoms[a] || has && !s.newAtoms[a]
	}
	for _, r := range k.regions {
		has := r.nodes[s.node] > 0
		is = is || has
		was = was || s.oldPrefixes[r] || has && !s.newPrefixes[r]
	}
	return was, is
}
