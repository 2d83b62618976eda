// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// refinement is a change in three stages, none of which lets a program see some of before and some of after:
//
//	refine    each address that moves gets a stand-in for the pair of its identities, which every rule set of before
//	          decides on as on the old one. No verdict changes.
//	switch    endpoints get their rule sets, or stand-ins for those that others have had before; then verdicts change,
//	          each in one write, and on the stand-ins too.
//	coarsen   addresses get their new identities, and endpoints their rule sets. No verdict changes.
type refinement struct {
	*transaction
	whole    *stage
	moves    *moving
	standIn  map[pair]model.IdentityID
	sets     map[model.RuleSetID]model.RuleSetID // stand-ins for rule sets
	pairsOf  map[model.IdentityID][]pair         // by the identity before
	pairsFor map[model.IdentityID][]pair         // by the one after
}

type verdictTurn = turn[model.VerdictKey, model.Verdict]

func (t *transaction) refine(whole *stage, m *moving) []*stage {
	r := &refinement{
		transaction: t, whole: whole, moves: m,
		standIn: map[pair]model.IdentityID{}, sets: map[model.RuleSetID]model.RuleSetID{},
		pairsOf: map[model.IdentityID][]pair{}, pairsFor: map[model.IdentityID][]pair{},
	}
	r.name()
	r.standForSets()
	refine, change, coarsen := &stage{}, &stage{}, &stage{settle: true}
	r.rest(refine, change, coarsen)
	r.addresses(refine, coarsen)
	r.verdicts(refine, change, coarsen)
	r.endpoints(change, coarsen)
	refine.when = func(verdictTurn) moment { return ahead }
	change.when = func(of verdictTurn) moment {
		if of.after.kind != 0 && !t.wasJudged(of.key.RuleSet) {
			return ahead
		}
		return last
	}
	coarsen.when = func(verdictTurn) moment { return over }
	return []*stage{refine, change, coarsen}
}

// name gives each pair of identities its stand-in, above all that are in use.
func (r *refinement) name() {
	next := model.IdentityID(firstStandIn)
	above := func(id model.IdentityID) { next = max(next, id+1) }
	for id := range r.uses.held {
		above(id)
	}
	for id := range r.heldBefore {
		above(id)
	}
	for _, kind := range kinds {
		for key := range r.State.tables[kind].Verdicts {
			above(key.Identity)
		}
	}
	for key := range r.verdictsBefore {
		above(key.Identity)
	}
	for _, move := range r.moves.list {
		p := pair{move.from, move.to}
		if _, named := r.standIn[p]; named {
			continue
		}
		r.standIn[p] = next
		r.pairsOf[p.from] = append(r.pairsOf[p.from], p)
		r.pairsFor[p.to] = append(r.pairsFor[p.to], p)
		next++
	}
}

// identity returns what stands for a pair.
func (r *refinement) identity(p pair) model.IdentityID {
	if p.from == p.to {
		return p.to
	}
	return r.standIn[p]
}

// standForSets finds the rule sets that endpoints come to while others have them already.
func (r *refinement) standForSets() {
	for _, of := range r.whole.endpoints {
		if of.before.kind == 0 || of.after.kind == 0 {
			continue
		}
		before, after := of.before.row, of.after.row
		for _, p := range [][2]model.RuleSetID{{before.Ingress, after.Ingress}, {before.Egress, after.Egress}} {
			if id := p[1]; p[0] != id && r.wasJudged(id) && r.sets[id] == 0 {
				r.sets[id] = r.freeSet(id)
			}
		}
	}
}

func (r *refinement) freeSet(id model.RuleSetID) model.RuleSetID {
	for {
		id++
		_, kind := ruleSets.held(r.State, id)
		_, before := r.ruleSetsBefore[id]
		if id != 0 && kind == 0 && !before && r.uses.judged[id] == 0 && !r.wasJudged(id) && r.uses.decided[id] == 0 && !r.taken(id) {
			return id
		}
	}
}

// taken says whether a rule set stands in for another already, or has verdicts that go.
func (r *refinement) taken(id model.RuleSetID) bool {
	for _, other := range r.sets {
		if other == id {
			return true
		}
	}
	for key := range r.verdictsBefore {
		if key.RuleSet == id {
			return true
		}
	}
	return false
}

// rest puts what only verdicts lead to into the first stage, and takes it away in the last.
func (r *refinement) rest(refine, change, coarsen *stage) {
	for _, of := range r.whole.portVerdicts {
		in := split(of, &refine.portVerdicts, &coarsen.portVerdicts)
		*in = append(*in, of)
	}
	for _, of := range r.whole.rules {
		in := split(of, &refine.rules, &coarsen.rules)
		*in = append(*in, of)
	}
	for _, of := range r.whole.ruleSets {
		in := split(of, &refine.ruleSets, &coarsen.ruleSets)
		*in = append(*in, of)
	}
	for id, other := range r.sets {
		row, kind := ruleSets.held(r.State, id)
		if kind == 0 {
			continue // what closes has no row where there is no room for it
		}
		row.ID = other
		copied := was[model.RuleSet]{row, kind}
		change.ruleSets = append(change.ruleSets, turn[model.RuleSetID, model.RuleSet]{key: other, after: copied})
		coarsen.ruleSets = append(coarsen.ruleSets, turn[model.RuleSetID, model.RuleSet]{key: other, before: copied})
	}
}

func split[K comparable, R any](of turn[K, R], puts, removes *[]turn[K, R]) *[]turn[K, R] {
	if of.after.kind == 0 {
		return removes
	}
	return puts
}

// addresses gives each its stand-in in the first stage, and what it is to have in the last.
func (r *refinement) addresses(refine, coarsen *stage) {
	for _, of := range r.whole.peers {
		between := was[model.Peer]{model.Peer{Addr: of.key, Identity: r.identity(r.moves.peers[of.key])}, layerOf(of)}
		refine.peers = append(refine.peers, turn[netip.Addr, model.Peer]{of.key, of.before, between})
		coarsen.peers = append(coarsen.peers, turn[netip.Addr, model.Peer]{of.key, between, of.after})
	}
	for _, of := range r.whole.blocks {
		between := was[model.Block]{model.Block{Prefix: of.key, Identity: r.identity(r.moves.blocks[of.key])}, layerOf(of)}
		refine.blocks = append(refine.blocks, turn[netip.Prefix, model.Block]{of.key, of.before, between})
		coarsen.blocks = append(coarsen.blocks, turn[netip.Prefix, model.Block]{of.key, between, of.after})
	}
}

func layerOf[K comparable, R any](of turn[K, R]) model.LayerKind {
	if of.after.kind != 0 {
		return of.after.kind
	}
	return of.before.kind
}

// endpoints come to their rule sets in the second stage, to new ones or stand-ins, and from the stand-ins in the last.
func (r *refinement) endpoints(change, coarsen *stage) {
	for _, of := range r.whole.endpoints {
		switch {
		case of.before.kind == 0:
			coarsen.endpoints = append(coarsen.endpoints, of)
		case of.after.kind == 0:
			change.endpoints = append(change.endpoints, of)
		default:
			between := of.after
			between.row.Ingress = r.ruleSet(of.before.row.Ingress, of.after.row.Ingress)
			between.row.Egress = r.ruleSet(of.before.row.Egress, of.after.row.Egress)
			change.endpoints = append(change.endpoints, turn[netip.Addr, model.Endpoint]{of.key, of.before, between})
			coarsen.endpoints = append(coarsen.endpoints, turn[netip.Addr, model.Endpoint]{of.key, between, of.after})
		}
	}
}

func (r *refinement) ruleSet(before, after model.RuleSetID) model.RuleSetID {
	if other, stands := r.sets[after]; stands && before != after {
		return other
	}
	return after
}

// verdicts on stand-ins come in the first stage as they were, turn in the second, and go in the last.
func (r *refinement) verdicts(refine, change, coarsen *stage) {
	on := map[model.VerdictKey]*verdictTurn{} // the stand-ins, by what they are before and after the second stage
	at := func(k model.VerdictKey) *verdictTurn {
		if on[k] == nil {
			on[k] = &verdictTurn{key: k}
		}
		return on[k]
	}
	r.eachBefore(func(w was[model.Verdict]) {
		for _, p := range r.pairsOf[w.row.Identity] {
			if r.wasJudged(w.row.RuleSet) {
				w.row.Identity = r.standIn[p]
				at(w.row.VerdictKey).before = w
			}
		}
	})
	r.eachAfter(func(w was[model.Verdict]) {
		other, stands := r.sets[w.row.RuleSet]
		if stands {
			r.also(change, coarsen, w, other)
		}
		for _, p := range r.pairsFor[w.row.Identity] {
			if r.uses.judged[w.row.RuleSet] == 0 {
				continue
			}
			w.row.Identity = r.standIn[p]
			at(w.row.VerdictKey).after = w
			if stands {
				r.also(change, coarsen, w, other)
			}
		}
	})
	change.verdicts = append(change.verdicts, r.whole.verdicts...)
	for k, of := range on {
		if of.before.kind != 0 {
			refine.verdicts = append(refine.verdicts, verdictTurn{key: k, after: of.before})
		}
		change.verdicts = append(change.verdicts, *of)
		if of.after.kind != 0 {
			coarsen.verdicts = append(coarsen.verdicts, verdictTurn{key: k, before: of.after})
		}
	}
}

// also gives a rule set's stand-in a verdict for as long as it stands in.
func (r *refinement) also(change, coarsen *stage, w was[model.Verdict], other model.RuleSetID) {
	w.row.RuleSet = other
	change.verdicts = append(change.verdicts, verdictTurn{key: w.row.VerdictKey, after: w})
	coarsen.verdicts = append(coarsen.verdicts, verdictTurn{key: w.row.VerdictKey, before: w})
}

// eachBefore calls f for each verdict before the change.
func (t *transaction) eachBefore(f func(was[model.Verdict])) {
	for _, kind := range kinds {
		for key, row := range t.State.tables[kind].Verdicts {
			if _, changed := t.verdictsBefore[key]; !changed && !t.verdictsNew[key] {
				f(was[model.Verdict]{row, kind})
			}
		}
	}
	for _, w := range t.verdictsBefore {
		f(w)
	}
}

// eachAfter calls f for each verdict after it.
func (t *transaction) eachAfter(f func(was[model.Verdict])) {
	for _, kind := range kinds {
		for _, row := range t.State.tables[kind].Verdicts {
			f(was[model.Verdict]{row, kind})
		}
	}
}
