// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// outcome is what a rule set says about a class of addresses.
type outcome struct {
	decision // of all that ports has no exception for
	ports    *portTable
	overfull bool // it would have more ports than the limit: it closes
}

// decision is an action and the rule that decided, 0 for none.
type decision struct {
	action model.Action
	rule   model.RuleID
}

// hit is a step that a term makes a rule set ask; for one port of the peer alone if it isn't 0.
type hit struct {
	step     int
	protocol model.Protocol
	port     uint16
}

// outcome returns what a rule set says about a class; nil if that is the same as of identities that it doesn't know.
func (e *Engine) outcome(r *ruleSet, k classKey) *outcome {
	if len(r.atoms) == 0 {
		return nil
	}
	hits := e.scratch[:0]
	for _, set := range [2]termSet{k.own, k.blocks} {
		for i := range set.len() {
			hits = e.hits(r, set.at(i), hits)
		}
	}
	e.scratch = hits
	if len(hits) == 0 {
		return nil
	}
	o := e.judge(r, hits)
	if o.same(r.other) {
		return nil
	}
	return o
}

func (o *outcome) same(p *outcome) bool {
	return o.decision == p.decision && o.ports.id() == p.ports.id() && o.overfull == p.overfull
}

// touches says whether a rule set has an atom of some terms.
func (e *Engine) touches(r *ruleSet, set termSet) bool {
	for i := range set.len() {
		if _, found := r.find(e.terms[set.at(i)]); found {
			return true
		}
	}
	return false
}

func (r *ruleSet) find(a *atom) (int, bool) {
	return slices.BinarySearchFunc(r.atoms, a.id, func(a *atom, id uint32) int { return cmp.Compare(a.id, id) })
}

// hits appends the steps that a term asks for.
func (e *Engine) hits(r *ruleSet, t term, hits []hit) []hit {
	a := e.terms[t]
	i, found := r.find(a)
	if !found {
		return hits
	}
	for _, u := range r.uses[i] {
		h := hit{step: u.step}
		if u.named {
			h.protocol, h.port = a.port.protocol, a.numberOf(t)
		}
		hits = append(hits, h)
	}
	return hits
}

// judge returns what a rule set says about who makes it ask some steps. It remembers: most classes ask the same few.
func (e *Engine) judge(r *ruleSet, hits []hit) *outcome {
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port))
	})
	key := e.key[:0]
	for i, h := range hits {
		if i > 0 && h == hits[i-1] {
			continue
		}
		key = binary.BigEndian.AppendUint32(key, uint32(h.step))
		key = append(key, byte(h.protocol), byte(h.port>>8), byte(h.port))
	}
	e.key = key
	if o := r.outcomes[string(key)]; o != nil {
		return o
	}
	o := r.decide(hits, e.limits.Ports)
	r.outcomes[string(key)] = o
	return o
}

// matched is a step that matches, with the ports that it matches.
type matched struct {
	*step
	tier  int
	every bool // protocol and port
	ports []state.PortRange
}

// matches returns the steps that are asked, in order: those for everyone, and those that are hit.
func (r *ruleSet) matches(hits []hit) (list []matched) {
	for number, t := range r.tiers {
		for i := t.from; i < t.to; i++ {
			m := matched{step: &r.steps[i], tier: number}
			wholly := m.anyPeer
			for len(hits) > 0 && hits[0].step == i {
				if hits[0].port == 0 {
					wholly = true
				} else {
					m.ports = append(m.ports, state.PortRange{Protocol: hits[0].protocol, First: hits[0].port, Last: hits[0].port})
				}
				hits = hits[1:]
			}
			if wholly {
				m.every = m.anyPort
				m.ports = append(m.ports, m.step.ports...)
			}
			if m.every || len(m.ports) > 0 {
				list = append(list, m)
			}
		}
	}
	return list
}

// decide finds the outcome: first for protocols without ports, then what is otherwise of each protocol that has some.
func (r *ruleSet) decide(hits []hit, limit int) *outcome {
	if r.closed {
		return &outcome{decision: decision{action: model.ActionClosed}}
	}
	list := r.matches(hits)
	o := &outcome{decision: r.paint(list, 0, wholeRange)[0]}
	var rows []model.PortVerdict
	for _, protocol := range protocols {
		if !mentions(list, protocol) {
			continue
		}
		bounds := boundsOf(list, protocol)
		rows = appendPorts(rows, protocol, bounds, r.paint(list, protocol, bounds), o.decision)
	}
	if len(rows) > limit {
		return &outcome{decision: decision{action: model.ActionClosed}, overfull: true}
	}
	o.ports = newPortTable(rows)
	return o
}
