// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// renumber gives classes the numbers that most of their addresses and prefixes have on nodes, so that another leader
// changes nothing. Numbers count on from the highest there is.
func (e *Engine) renumber(known map[string]*model.Tables) {
	classes := make([]*class, 0, len(e.classes))
	for _, k := range e.classes {
		classes = append(classes, k)
	}
	slices.SortFunc(classes, func(a, b *class) int { return cmp.Compare(a.number, b.number) })
	formed := map[classKey]*class{}
	var flows []flow
	flows, e.next = e.votes(known)
	keep(flows, formed)
	for _, k := range classes {
		k.number = formed[k.classKey].id()
	}
	for _, k := range classes {
		if k.number == 0 {
			k.number = e.number()
		}
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
		flows = append(flows, flow{was[v.number], v.class.classKey, n})
	}
	return flows, highest
}
