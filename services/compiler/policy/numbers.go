// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// A class has a number from when the first node gets a row of it until the last one has lost all of them. New numbers
// count on, in the order of what the classes mean. So two engines that have the same state, and whose nodes have the same
// rows, give the same numbers from there on, whatever either has seen before.

// CountFrom says which number was given last: new ones come after it.
func (e *Engine) CountFrom(last model.IdentityID) { e.next = last }

// className is what a class means, whatever numbers its terms have.
type className struct{ own, blocks uint64 }

func (n className) compare(o className) int {
	return cmp.Or(cmp.Compare(n.own, o.own), cmp.Compare(n.blocks, o.blocks))
}

func (e *Engine) nameOf(k classKey) (n className) {
	for i := range k.own.len() {
		n.own += e.names[k.own.at(i)]
	}
	for i := range k.blocks.len() {
		n.blocks += e.names[k.blocks.at(i)]
	}
	return n
}

// numberAll gives numbers to those classes that have none.
func (e *Engine) numberAll(classes []*class) {
	type named struct {
		*class
		name className
	}
	var list []named
	for _, k := range classes {
		if k.number == 0 {
			list = append(list, named{k, e.nameOf(k.classKey)})
		}
	}
	slices.SortFunc(list, func(a, b named) int { return a.name.compare(b.name) })
	for _, k := range list {
		k.number = e.number()
	}
}

// numberKnown gives numbers to those classes that have none and that nodes know.
func (e *Engine) numberKnown(classes []*class) {
	var list []*class
	for _, k := range classes {
		if k.number == 0 && e.known(k) {
			list = append(list, k)
		}
	}
	e.numberAll(list)
}

// unnumber takes the numbers of those classes that no node has rows of.
func (e *Engine) unnumber(classes []*class) {
	for _, k := range classes {
		if !e.known(k) {
			k.number = 0
		}
	}
}

// known says whether any node has rows of a class.
func (e *Engine) known(k *class) bool {
	for _, r := range k.regions {
		if len(r.nodes) > 0 {
			return true
		}
	}
	if len(k.cells) == 0 {
		return false
	}
	for i := range k.own.len() {
		if len(e.terms[k.own.at(i)].nodes) > 0 {
			return true
		}
	}
	return false
}

// number returns a number that was not used yet. After the last one it counts from 1 again, and leaves out those that are
// in use: what got its number since is behind it.
func (e *Engine) number() model.IdentityID {
	for e.next++; e.next == 0 || e.next == absent || e.inUse(e.next); e.next++ {
		if e.next == absent {
			e.noteTaken()
		}
	}
	return e.next
}

func (e *Engine) inUse(n model.IdentityID) bool {
	k := e.taken[n]
	return k != nil && k.number == n
}

func (e *Engine) noteTaken() {
	e.taken = map[model.IdentityID]*class{}
	for _, k := range e.classes {
		e.taken[k.number] = k
	}
}
