// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// renumber gives classes the numbers that most of their addresses and prefixes have on nodes, so that another leader
// changes nothing. All others have none. Unless it was said how far counting has come, it goes on from the highest number.
func (e *Engine) renumber(known map[string]*model.Tables) {
	formed := map[classKey]*class{}
	flows, highest := e.votes(known)
	keep(flows, formed)
	for _, k := range e.classes {
		k.number = formed[k.classKey].id()
	}
	if e.next == 0 {
		e.next = highest
	}
	if highest > e.next {
		e.noteTaken() // counting has begun anew since it was given
	}
}

// votes counts which numbers the members of each class have, and returns the highest number.
func (e *Engine) votes(known map[string]*model.Tables) (flows []flow, highest model.IdentityID) {
	type vote struct {
		number model.IdentityID
		class  *class
	}
	count := map[vote]int{}
	see := func(number model.IdentityID) {
		if number != absent {
			highest = max(highest, number)
		}
	}
	add := func(number model.IdentityID, k *class) {
		see(number)
		if k != nil && number != 0 && number != absent {
			count[vote{number, k}]++
		}
	}
	for _, t := range known {
		for addr, row := range t.Peers.All() {
			var k *class
			if a := e.addresses[addr]; a != nil && a.cell != nil {
				k = a.cell.class
			}
			add(row.Identity, k)
		}
		for prefix, row := range t.Blocks {
			var k *class
			if r := e.regions.exact[prefix]; r != nil {
				k = r.class
			}
			add(row.Identity, k)
		}
		for key := range t.Verdicts {
			see(key.Identity)
		}
	}
	was := map[model.IdentityID]*class{}
	for v, n := range count {
		if was[v.number] == nil {
			was[v.number] = &class{number: v.number}
		}
		flows = append(flows, flow{was[v.number], v.class.classKey, e.nameOf(v.class.classKey), n})
	}
	return flows, highest
}

// unnumberAll takes the numbers of all classes that no node has rows of any more.
func (e *Engine) unnumberAll() { e.unnumber(slices.Collect(maps.Values(e.classes))) }
