// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"math"

	"github.com/deltaplane/deltaplane/internal/model"
)

// checkPolicy refuses rows of policy that no map could hold, or that would judge otherwise than they say.
func (t *transaction) checkPolicy(put *model.Rows) error {
	for _, s := range put.RuleSets {
		if s.ID == 0 || len(s.Policies) > policiesMax {
			return refuse("rows", "rule set %016x of %s: its id is 0 or the list of its policies longer than %d bytes", uint64(s.ID), s.Policies, policiesMax)
		}
	}
	for _, r := range put.Rules {
		if r.ID == 0 || len(policyText(r.Policy)) > policyMax || len(r.Name) > ruleNameMax {
			return refuse("rows", "rule %016x (%s): its id is 0, or its policy's name longer than %d bytes, or its own longer than %d",
				uint64(r.ID), r, policyMax, ruleNameMax)
		}
	}
	for _, v := range put.PortVerdicts {
		if v.Ports == 0 || v.Bits > 16 || v.Port&(math.MaxUint16>>v.Bits) != 0 || !judges(v.Action) {
			return refuse("rows", "the verdict %s on port %d/%d (%s) of ports %016x is no prefix, or none that can be carried out",
				v.Action, v.Port, v.Bits, v.Protocol, uint64(v.Ports))
		}
	}
	for _, v := range put.Verdicts {
		if v.RuleSet == 0 || !judges(v.Action) {
			return refuse("rows", "the verdict %s of rule set %016x on identity %d can't be carried out", v.Action, uint64(v.RuleSet), v.Identity)
		}
	}
	for _, p := range put.Peers {
		if p.Identity == 0 || !p.Addr.IsValid() || p.Addr.Is4In6() {
			return refuse("rows", "peer %s of identity %d: it has no identity, or its address is none", p.Addr, p.Identity)
		}
	}
	for _, b := range put.Blocks {
		if b.Prefix != b.Prefix.Masked() || b.Prefix.Addr().Is4In6() {
			return refuse("rows", "block %s of identity %d: its prefix is none", b.Prefix, b.Identity)
		}
	}
	return nil
}

func judges(a model.Action) bool { return a >= model.ActionAllow && a <= model.ActionClosed }

// checkJudged refuses policy that leads to nothing: an endpoint to a rule set, a verdict to its rule set or its ports.
func (t *transaction) checkJudged() error {
	for _, kind := range kinds {
		for _, e := range t.changes[kind].Put.Endpoints {
			for _, id := range []model.RuleSetID{e.Ingress, e.Egress} {
				if _, at := ruleSets.held(t.State, id); id != 0 && at == 0 && !t.closers[id] {
					return refuse("rows", "endpoint %s of pod %s is to be judged by rule set %016x, which does not exist", e.Addr, e.Pod, uint64(id))
				}
			}
		}
		for _, v := range t.changes[kind].Put.Verdicts {
			if _, at := ruleSets.held(t.State, v.RuleSet); at == 0 {
				return refuse("rows", "there is a verdict on identity %d of rule set %016x, which does not exist", v.Identity, uint64(v.RuleSet))
			}
			if v.Ports != 0 && t.uses.ports[v.Ports] == 0 {
				return refuse("rows", "rule set %016x (%s) decides on identity %d by ports %016x, which do not exist",
					uint64(v.RuleSet), t.policiesOf(v.RuleSet), v.Identity, uint64(v.Ports))
			}
		}
	}
	for id, w := range t.ruleSetsBefore {
		if _, at := ruleSets.held(t.State, id); at == 0 && !t.closers[id] && t.uses.judged[id]+t.uses.decided[id] > 0 {
			return refuse("rows", "the change removes rule set %016x (%s), which %d endpoints are judged by and which has %d verdicts",
				uint64(id), w.row.Policies, t.uses.judged[id], t.uses.decided[id])
		}
	}
	for key := range t.portVerdictsBefore {
		if t.uses.ports[key.Ports] == 0 && t.uses.excepted[key.Ports] > 0 {
			return refuse("rows", "the change removes all of ports %016x, by which %d verdicts decide", uint64(key.Ports), t.uses.excepted[key.Ports])
		}
	}
	return nil
}
