// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// ruleSet judges one direction of all pods that the same policies select. It never changes.
type ruleSet struct {
	id        model.RuleSetID
	direction model.Direction
	parts     []*part
	closed    bool
	steps     []step
	tiers     [3]tier // admin, NetworkPolicies, baseline
	// atoms that its rules use, in order, and how.
	atoms  []*atom
	uses   [][]use
	blocks bool // some are blocks
	rows   []model.Rule
	row    model.RuleSet

	other    *outcome // of identities that it doesn't know
	outcomes map[string]*outcome
	users    int // shapes and endpoints that have it
	overfull int // verdicts that exceed the limit of ports
}

// step is a rule in the order in which rules are asked.
type step struct {
	*rule
	ports []state.PortRange // with those of names that the subject has
}

// tier is a run of steps.
type tier struct {
	from, to int // in steps
	isolates bool
}

// use is a step that an atom makes a rule set ask.
type use struct {
	step  int
	named bool // for the port that the atom is about alone
}

// ruleSet returns the rule set of some policies for a shape's pods; nil for none.
func (e *Engine) ruleSet(d model.Direction, parts []*part, s *shape) *ruleSet {
	if len(parts) == 0 {
		return nil
	}
	var m meaning
	m.number(int(d))
	for _, p := range parts {
		m.policy(p.policy.row.PolicyName)
		m = append(m, p.meaning[:]...)
		for _, name := range p.names {
			m.number(int(s.number(name)))
		}
	}
	id := model.RuleSetID(m.id())
	if r := e.ruleSets[id]; r != nil {
		return r
	}
	r := &ruleSet{id: id, direction: d, parts: parts, outcomes: map[string]*outcome{}}
	r.closed = slices.ContainsFunc(parts, func(p *part) bool { return p.closed })
	if !r.closed {
		r.assemble(s)
	}
	r.row = model.RuleSet{ID: id, Direction: d, Policies: r.names()}
	r.other = e.judge(r, nil)
	e.ruleSets[id] = r
	return r
}

// assemble puts the rules of all policies in order. Parts are ordered by kind, which is by tier.
func (r *ruleSet) assemble(s *shape) {
	for _, p := range r.parts {
		t := &r.tiers[p.policy.row.PolicyName.Kind-model.AdminPolicy]
		if t.from == t.to && !t.isolates {
			t.from, t.to = len(r.steps), len(r.steps)
		}
		t.isolates = p.policy.row.PolicyName.Kind == model.NetworkPolicy
		for i := range p.rules {
			r.steps = append(r.steps, p.rules[i].step(s))
			if p.rules[i].action != state.Pass {
				r.rows = append(r.rows, p.rules[i].Rule)
			}
		}
		t.to = len(r.steps)
	}
	users := map[*atom][]use{}
	for i, st := range r.steps {
		for _, a := range st.peers {
			users[a] = append(users[a], use{step: i})
		}
		for _, a := range st.named {
			users[a] = append(users[a], use{step: i, named: true})
		}
	}
	for a := range users {
		r.atoms = append(r.atoms, a)
		r.blocks = r.blocks || a.isBlock()
	}
	slices.SortFunc(r.atoms, func(a, b *atom) int { return cmp.Compare(a.id, b.id) })
	for _, a := range r.atoms {
		r.uses = append(r.uses, users[a])
	}
}

// step resolves the names of ports by what the subject has.
func (r *rule) step(s *shape) step {
	if len(r.names) == 0 {
		return step{r, r.ports}
	}
	ports := slices.Clone(r.ports)
	for _, name := range r.names {
		if number := s.number(name); number != 0 {
			ports = append(ports, state.PortRange{Protocol: name.protocol, First: number, Last: number})
		}
	}
	return step{r, ports}
}

// judging returns the rule sets of a shape's pods.
func (e *Engine) judging(s *shape) (ingress, egress *ruleSet) {
	if !s.known {
		s.ingress = e.ruleSet(model.Ingress, s.selecting(model.Ingress), s)
		s.egress = e.ruleSet(model.Egress, s.selecting(model.Egress), s)
		s.known = true
		for _, r := range []*ruleSet{s.ingress, s.egress} {
			if r != nil {
				r.users++
			}
		}
	}
	return s.ingress, s.egress
}

// unjudge forgets which rule sets judge a shape's pods.
func (e *Engine) unjudge(s *shape) {
	for _, r := range []*ruleSet{s.ingress, s.egress} {
		if r != nil {
			r.users--
			e.retire(r)
		}
	}
	s.ingress, s.egress, s.known = nil, nil, false
}

// retire forgets a rule set that nobody has.
func (e *Engine) retire(r *ruleSet) {
	if r.users == 0 {
		delete(e.ruleSets, r.id)
	}
}

// ID returns the rule set's id; 0 for none.
func (r *ruleSet) ID() model.RuleSetID {
	if r == nil {
		return 0
	}
	return r.id
}

const maxNames = 255 // bytes

// names writes the policies as model.RuleSet wants them.
func (r *ruleSet) names() string {
	text := ""
	for i, p := range r.parts {
		more := text + p.policy.row.PolicyName.String()
		room := maxNames
		if i < len(r.parts)-1 {
			room -= len(", and 10000000 more")
		}
		switch {
		case len(more) > room && i == 0:
			text = more[:room-3] + "..."
		case len(more) > room:
			return fmt.Sprintf("%sand %d more", text, len(r.parts)-i)
		default:
			text = more
		}
		if i < len(r.parts)-1 {
			text += ", "
		}
	}
	return text
}
