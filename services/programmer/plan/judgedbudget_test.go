// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// judgedPods is a node of 50 pods that one rule set judges, with 1,000 peers of 10 identities.
func judgedPods(rule *ruleSetOf) *model.Tables {
	w := world{policed: true, pods: map[netip.Addr]class{}, judged: map[netip.Addr][2]*ruleSetOf{}, numbers: map[class]model.IdentityID{}}
	for i := range 10 {
		w.numbers[class(i+1)] = model.IdentityID(i + 1)
	}
	for i := range 1000 {
		w.pods[netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})] = class(i%10 + 1)
	}
	for i := range 50 {
		w.judged[netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})] = [2]*ruleSetOf{rule}
	}
	return w.rows()
}

var (
	webOnly  = &ruleSetOf{model.Ingress, []class{1, 2}, []decided{{model.ActionAllow, 0}, {model.ActionAllow, 0}}, model.ActionIsolate}
	webOrNot = &ruleSetOf{model.Ingress, []class{1, 2}, []decided{{model.ActionAllow, 0}, {model.ActionDeny, 0}}, model.ActionIsolate}
)

// Policy row 8: a pod that joins a known identity is one write, and a policy that is edited one pointer an endpoint.
func TestWhatAChangeOfPolicyCosts(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*model.Tables)
		want int
	}{
		{"nothing", func(*model.Tables) {}, 0},
		{"a pod joins a known identity", func(t *model.Tables) {
			p := peer("10.9.9.9", 3)
			t.Peers.Put(p)
		}, 1},
		{"a pod leaves", func(t *model.Tables) { t.Peers.Remove(netip.MustParseAddr("10.2.0.7")) }, 1},
		{"a pod gets other labels", func(t *model.Tables) {
			p := peer("10.2.0.7", 1)
			t.Peers.Put(p)
		}, 1},
		{"a pod comes to the node", func(t *model.Tables) {
			e := t.Endpoints[netip.MustParseAddr("10.1.0.7")]
			e.Addr = netip.MustParseAddr("10.1.0.99")
			t.Endpoints[e.Addr] = e
		}, 1},
		// One rule set and its default less and more, 4 of the 10 identities decided on each (2 bits of 4), 50 pointers.
		{"a policy is edited", func(t *model.Tables) {
			*t = *judgedPods(webOrNot)
		}, 2*(1+1+8) + 50},
	} {
		before := judgedPods(webOnly)
		s := plan.Empty()
		mustApply(t, s, towards(s, model.LayerNode, before))
		p := mustApply(t, s, towards(s, model.LayerNode, edited(before, test.edit)))
		t.Logf("%-35s %4d", test.name, p.Writes())
		if p.Writes() > test.want {
			t.Errorf("%s: %d writes, want at most %d", test.name, p.Writes(), test.want)
		}
	}
}

// Policy that leads to nothing is refused by name, and what was before stays.
func TestPolicyThatLeadsToNothingIsRefused(t *testing.T) {
	before := judgedPods(&ruleSetOf{model.Ingress, []class{1}, []decided{{model.ActionIsolate, model.ActionAllow}}, model.ActionIsolate})
	var id model.RuleSetID
	for id = range before.RuleSets {
	}
	for want, edit := range map[string]func(*model.Tables){
		"endpoint 10.1.0.7 of pod shop/x is to be judged by rule set 0000000000000063, which does not exist": func(t *model.Tables) {
			addr := netip.MustParseAddr("10.1.0.7")
			t.Endpoints[addr] = model.Endpoint{Addr: addr, Pod: "shop/x", Ingress: 99}
		},
		"the change removes rule set ": func(t *model.Tables) { delete(t.RuleSets, id) },
		"(NetworkPolicy shop/web), which 50 endpoints are judged by": func(t *model.Tables) {
			clear(t.Verdicts)
			delete(t.RuleSets, id)
		},
		"by ports 0000000000000063, which do not exist": func(t *model.Tables) {
			key := model.VerdictKey{RuleSet: id, Identity: 2}
			t.Verdicts[key] = model.Verdict{VerdictKey: key, Ports: 99, Action: model.ActionDeny}
		},
		"the change removes all of ports ": func(t *model.Tables) { clear(t.PortVerdicts) },
		"there is a verdict on identity 2 of rule set 0000000000000063, which does not exist": func(t *model.Tables) {
			key := model.VerdictKey{RuleSet: 99, Identity: 2}
			t.Verdicts[key] = model.Verdict{VerdictKey: key, Action: model.ActionDeny}
		},
		"peer 10.9.9.9 of identity 0": func(t *model.Tables) {
			p := peer("10.9.9.9", 0)
			t.Peers.Put(p)
		},
	} {
		s := plan.Empty()
		mustApply(t, s, towards(s, model.LayerNode, before))
		digest := s.Digest(model.LayerNode)
		_, err := s.Apply(plan.Capacities{}, towards(s, model.LayerNode, edited(before, edit)))
		refusal, ok := errors.AsType[*plan.Refusal](err)
		if !ok || refusal.Kind != "rows" || !strings.Contains(refusal.Text, want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if s.Digest(model.LayerNode) != digest {
			t.Errorf("%s: the state has changed", want)
		}
		if p := mustApply(t, s, towards(s, model.LayerNode, before)); p.Writes() != 0 {
			t.Errorf("%s: %d writes after the refusal", want, p.Writes())
		}
	}
}
