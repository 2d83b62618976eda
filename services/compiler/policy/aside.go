// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// SetAside returns the policies that exceed a limit, by kind and name. What can't be understood is set aside by state.
func (e *Engine) SetAside() (list []state.SetAside) {
	reasons := map[model.PolicyName]string{}
	for p := range e.refused {
		reasons[p.row.PolicyName] = p.refused
	}
	for r := range e.overfull {
		for _, p := range r.parts {
			if name := p.policy.row.PolicyName; reasons[name] == "" {
				reasons[name] = "some peers pass nothing: the " + r.direction.String() + " rules of " + r.row.Policies +
					" together tell more ranges of ports apart for them than the limit; join ranges"
			}
		}
	}
	for name, reason := range reasons {
		list = append(list, state.SetAside{Object: object(name), Reason: reason})
	}
	slices.SortFunc(list, func(a, b state.SetAside) int { return strings.Compare(key(a.Object), key(b.Object)) })
	return list
}

// Refused returns the policies that close what they select, each with why: those that can't be understood, and those that
// exceed a limit.
func (e *Engine) Refused() map[model.PolicyName]string {
	refused := map[model.PolicyName]string{}
	for name, p := range e.policies {
		if why := cmp.Or(p.row.Refused, p.refused); why != "" {
			refused[name] = why
		}
	}
	return refused
}

// crowd counts the verdicts of a rule set that exceed the limit of ports.
func (e *Engine) crowd(r *ruleSet, more int) {
	if r.overfull += more; r.overfull > 0 {
		e.overfull[r] = true
	} else {
		delete(e.overfull, r)
	}
}

func object(name model.PolicyName) *schemas.ObjectRef {
	kind := state.KindClusterNetworkPolicy
	if name.Kind == model.NetworkPolicy {
		kind = state.KindNetworkPolicy
	}
	return &schemas.ObjectRef{Kind: kind, Namespace: name.Namespace, Name: name.Name}
}

func key(o *schemas.ObjectRef) string {
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

// Counts returns how many sets of addresses policies tell apart, and how many rule sets there are.
func (e *Engine) Counts() (identities, ruleSets int) { return len(e.classes), len(e.ruleSets) }
