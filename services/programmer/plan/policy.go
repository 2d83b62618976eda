// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// stage is one passage of policy's rows through the phases. A program that judges reads in the order
//
//	endpoint → rule set ┐
//	address → peer, else block → identity ┴► verdict → ports
//
// and what it finds must be of before or after the change, whenever it reads what. An address that moves to another
// identity is one write, and so is a verdict that changes where it stands, and an endpoint that gets another rule set.
// A change is one stage where those writes come apart; else refine makes three of it.
type stage struct {
	portVerdicts []turn[model.PortKey, model.PortVerdict]
	ruleSets     []turn[model.RuleSetID, model.RuleSet]
	rules        []turn[model.RuleID, model.Rule]
	verdicts     []turn[model.VerdictKey, model.Verdict]
	peers        []turn[netip.Addr, model.Peer]
	blocks       []turn[netip.Prefix, model.Block]
	endpoints    []turn[netip.Addr, model.Endpoint]

	moves *moving // of the addresses; nil where that is yet to be found out
	// when says when a verdict is written or removed.
	when func(of turn[model.VerdictKey, model.Verdict]) moment
	// settle asks to wait first for programs that may still be reading what the stage before led them to.
	settle bool
}

// moment is when, within a stage, a verdict is written.
type moment int

const (
	// ahead is before anything leads to it.
	ahead moment = iota
	// first is before addresses come to its identity.
	first
	// last is after addresses and endpoints have left it, and no program is on its way to it any more.
	last
	// over is when nothing leads to it any more.
	over
)

// whole returns the change as one stage.
func (t *transaction) whole() *stage {
	s := &stage{
		portVerdicts: turnsOf(t, portVerdicts, t.portVerdictsBefore, nil),
		ruleSets:     turnsOf(t, ruleSets, t.ruleSetsBefore, nil),
		rules:        turnsOf(t, rules, t.rulesBefore, nil),
		verdicts:     turnsOf(t, verdicts, t.verdictsBefore, nil),
		peers:        turnsOf(t, peers, t.peersBefore, nil),
		blocks:       turnsOf(t, blocks, t.blocksBefore, nil),
		endpoints:    turnsOf(t, endpoints, t.endpointsBefore, nil),
	}
	return s
}

// stages returns the change in as many stages as it takes.
func (t *transaction) stages() []*stage {
	s := t.whole()
	m := t.movesOf(s)
	s.moves = m
	s.when = func(of turn[model.VerdictKey, model.Verdict]) moment { return t.when(of, m.left) }
	if t.watched() && t.crosses(s, m) {
		stages := t.refine(s, m)
		stages[0].settle = t.astray(m)
		return stages
	}
	s.settle = t.astray(m)
	return []*stage{s}
}

// watched says that connections are judged before the change and after it: else nobody sees it come about.
func (t *transaction) watched() bool { return t.judging && t.policed() && t.mayBeJudging() }

// mayBeJudging says that something judges connections before the change, or that programs may still believe so.
func (t *transaction) mayBeJudging() bool { return t.anyJudged || len(t.stale.sets) > 0 }

func (t *transaction) when(of turn[model.VerdictKey, model.Verdict], left map[model.IdentityID]bool) moment {
	was, is := t.wasFound(of.key), t.isFound(of.key)
	switch {
	case was && is && left[of.key.Identity]:
		return last
	case was && is:
		return first
	case of.after.kind == 0 && !is:
		return over
	case was:
		return over
	}
	return ahead
}

// wasFound says whether programs may find a verdict before the change.
func (t *transaction) wasFound(k model.VerdictKey) bool {
	return t.wasJudged(k.RuleSet) && (k.Identity == 0 || t.wasHeld(k.Identity))
}

// isFound says whether they may after it.
func (t *transaction) isFound(k model.VerdictKey) bool {
	return t.uses.judged[k.RuleSet] > 0 && (k.Identity == 0 || t.uses.held[k.Identity] > 0)
}

func (t *transaction) wasJudged(id model.RuleSetID) bool {
	return before(t.judgedBefore, t.uses.judged, id) > 0
}

func (t *transaction) wasHeld(id model.IdentityID) bool {
	return before(t.heldBefore, t.uses.held, id) > 0
}

func before[K comparable](noted, now map[K]int32, key K) int32 {
	if n, changed := noted[key]; changed {
		return n
	}
	return now[key]
}

// crosses says whether a program could find a verdict that is neither of before nor after the change, if all of it went
// through the phases once.
func (t *transaction) crosses(s *stage, m *moving) bool {
	turned := turnedOf(s)
	touched := map[model.RuleSetID]bool{}
	for _, p := range turned {
		touched[p.before], touched[p.after] = true, true
	}
	for _, of := range s.verdicts {
		if !t.wasFound(of.key) || !t.isFound(of.key) || !t.decidesOtherwise(of.key) {
			continue
		}
		if touched[of.key.RuleSet] || m.left[of.key.Identity] && m.joined[of.key.Identity] {
			return true
		}
	}
	for _, p := range turned {
		for _, move := range m.list {
			if move.meets(p.addr) && !t.bears(p, &move) {
				return true
			}
		}
	}
	return false
}

// pointer is an endpoint that one rule set judges before the change and another after it, or none since it goes.
type pointer struct {
	addr          netip.Addr
	before, after model.RuleSetID
	goes          bool
}

func turnedOf(s *stage) (turned []pointer) {
	for _, of := range s.endpoints {
		if of.before.kind == 0 {
			continue
		}
		before, after, goes := of.before.row, of.after.row, of.after.kind == 0
		for _, p := range []pointer{{of.key, before.Ingress, after.Ingress, goes}, {of.key, before.Egress, after.Egress, goes}} {
			if p.before != p.after && p.before != 0 {
				turned = append(turned, p)
			}
		}
	}
	return turned
}

// decision is what counts of a verdict.
type decision struct {
	action model.Action
	ports  model.PortsID
}

var closed = decision{action: model.ActionClosed}

func decisionOf(row model.Verdict) decision { return decision{row.Action, row.Ports} }

// now returns what a rule set decides on an identity after the change.
func (t *transaction) now(id model.RuleSetID, identity model.IdentityID) decision {
	for _, of := range []model.IdentityID{identity, 0} {
		if row, kind := verdicts.held(t.State, model.VerdictKey{RuleSet: id, Identity: of}); kind != 0 {
			return decisionOf(row)
		}
	}
	return closed
}

// then returns what it decided before the change.
func (t *transaction) then(id model.RuleSetID, identity model.IdentityID) decision {
	for _, of := range []model.IdentityID{identity, 0} {
		if w := t.verdictBefore(model.VerdictKey{RuleSet: id, Identity: of}); w.kind != 0 {
			return decisionOf(w.row)
		}
	}
	return closed
}

func (t *transaction) verdictBefore(k model.VerdictKey) was[model.Verdict] {
	if w, changed := t.verdictsBefore[k]; changed || t.verdictsNew[k] {
		return w
	}
	row, kind := verdicts.held(t.State, k)
	return was[model.Verdict]{row, kind}
}

func (t *transaction) decidesOtherwise(k model.VerdictKey) bool {
	return t.then(k.RuleSet, k.Identity) != t.now(k.RuleSet, k.Identity)
}

// bears says whether an endpoint that still has its rule set of before decides on an address that has moved as it did or
// as it will.
func (t *transaction) bears(p pointer, m *move) bool {
	key := model.VerdictKey{RuleSet: p.before, Identity: m.to}
	between := t.then(p.before, m.to)
	if row, kind := verdicts.held(t.State, key); kind != 0 && t.verdictsNew[key] {
		between = decisionOf(row)
	}
	switch {
	case between == t.then(p.before, m.from):
		return true
	case p.goes:
		return between.action != model.ActionAllow && between.ports == 0
	case p.after == 0:
		return between == decision{action: model.ActionAllow}
	}
	return between == t.now(p.after, m.to)
}
