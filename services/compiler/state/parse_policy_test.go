// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

const tcp = schemas.Protocol_PROTOCOL_TCP

// labelled selects a label.
func labelled(key, value string) *schemas.Selector {
	return &schemas.Selector{Terms: []*schemas.SelectorTerm{
		{Key: key, Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_IN, Values: []string{value}},
	}}
}

// accepting is a rule for web pods and a block, on two ports.
func accepting() *schemas.PolicyRule {
	return &schemas.PolicyRule{
		Action: schemas.RuleAction_RULE_ACTION_ACCEPT,
		Peers: []*schemas.PolicyPeer{
			{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{Pods: labelled("app", "web")}}},
			{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{
				Cidr: "10.0.0.7/8", Except: []string{"10.1.0.0/16", "192.168.0.0/16"},
			}}},
		},
		Ports: []*schemas.PolicyPort{{Protocol: tcp, Port: 80, EndPort: 90}, {Protocol: tcp, Name: "http"}},
	}
}

func networkPolicy(m *schemas.NetworkPolicy) *schemas.Fact {
	return &schemas.Fact{Object: ref(KindNetworkPolicy, "p"), State: &schemas.Fact_NetworkPolicy{NetworkPolicy: m}}
}

func clusterPolicy(m *schemas.ClusterNetworkPolicy) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: KindClusterNetworkPolicy, Name: "c"},
		State:  &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: m},
	}
}

func only(t *testing.T, db *DB) *Policy {
	t.Helper()
	for p := range db.Snapshot().Policies() {
		return p
	}
	t.Fatal("there is no policy")
	return nil
}

func TestANetworkPolicySaysWhatItsAuthorLeftUnsaid(t *testing.T) {
	db := New()
	changes := apply(t, db, networkPolicy(&schemas.NetworkPolicy{
		Pods: labelled("app", "db"), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{accepting()},
	}))
	name := model.PolicyName{Kind: model.NetworkPolicy, Namespace: "shop", Name: "p"}
	shop := InNamespace("shop")
	want := &Policy{
		PolicyName: name, Subject: PodPeer{shop, NewSelector(Term{"app", In, []string{"db"}})},
		Ingress: Part{Judges: true, Rules: []Rule{{
			Action: Accept, Ports: []PortRange{{Protocol: model.TCP, First: 80, Last: 90}, {Protocol: model.TCP, Name: "http"}},
			Peers: []Peer{
				{Kind: PeerPods, Pods: PodPeer{shop, NewSelector(Term{"app", In, []string{"web"}})}},
				{Kind: PeerBlock, Block: Block{netip.MustParsePrefix("10.0.0.0/8"), []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}},
			},
		}}},
	}
	exact := cmp.Options{
		cmp.Comparer(func(a, b Selector) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
	if diff := cmp.Diff(want, only(t, db), exact); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]model.PolicyName{name}, changes.Touched[0].Policy.Policies); diff != "" {
		t.Errorf("touched (-want +got):\n%s", diff)
	}
	if again := apply(t, db, networkPolicy(&schemas.NetworkPolicy{
		Pods: labelled("app", "db"), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{accepting()},
	})); again.Unchanged != 1 {
		t.Errorf("the same again changes %+v", again)
	}
}

// TestWhatIsNotUnderstoodCloses refuses policies as a whole. Policy row 9: their pods fail closed, and they are named.
func TestWhatIsNotUnderstoodCloses(t *testing.T) {
	unreadable := &schemas.Selector{Terms: []*schemas.SelectorTerm{{Key: "app", Operator: 9}}}
	rule := func(change func(*schemas.PolicyRule)) *schemas.Fact {
		r := accepting()
		change(r)
		return networkPolicy(&schemas.NetworkPolicy{Pods: labelled("app", "db"), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{r}})
	}
	port := func(p *schemas.PolicyPort) *schemas.Fact {
		return rule(func(r *schemas.PolicyRule) { r.Ports[0] = p })
	}
	all, both := "everything", "ingress egress"
	for _, test := range []struct {
		name                  string
		fact                  *schemas.Fact
		pods, closes, because string
	}{
		{"of an older watcher", networkPolicy(&schemas.NetworkPolicy{}), all, both, "older"},
		{"without pods", networkPolicy(&schemas.NetworkPolicy{IsolatesEgress: true}), all, "egress", "which pods"},
		{"refused by the watcher", networkPolicy(&schemas.NetworkPolicy{Pods: labelled("app", "db"), Refused: "no"}), "app=db", both, "no"},
		{"an unreadable selector", networkPolicy(&schemas.NetworkPolicy{Pods: unreadable, IsolatesIngress: true}), all, "ingress", "operator 9"},
		{"a fact of another kind", &schemas.Fact{Object: ref(KindNetworkPolicy, "p"), State: pod("a", "n").State}, all, both, "Fact_Pod"},
		{"an unknown action", rule(func(r *schemas.PolicyRule) { r.Action = 7 }), "app=db", "ingress", "ingress[0]: action 7"},
		{"a denial", rule(func(r *schemas.PolicyRule) { r.Action = 2 }), "app=db", "ingress", "action 2"},
		{"neither ports nor all", rule(func(r *schemas.PolicyRule) { r.Ports = nil }), "app=db", "ingress", "all ports"},
		{"a peer that is no one", rule(func(r *schemas.PolicyRule) { r.Peers[0] = &schemas.PolicyPeer{} }), "app=db", "ingress", "peers[0]"},
		{"a peer's unreadable selector", rule(func(r *schemas.PolicyRule) { r.Peers[0].GetPods().Pods = unreadable }), "app=db", "ingress", "operator 9"},
		{"a bad block", rule(func(r *schemas.PolicyRule) { r.Peers[1].GetBlock().Cidr = "10.0.0.0/33" }), "app=db", "ingress", "10.0.0.0/33"},
		{"a bad exception", rule(func(r *schemas.PolicyRule) { r.Peers[1].GetBlock().Except[0] = "x" }), "app=db", "ingress", "except[0]"},
		{"no protocol", port(&schemas.PolicyPort{Port: 80}), "app=db", "ingress", "protocol 0"},
		{"a range backwards", port(&schemas.PolicyPort{Protocol: tcp, Port: 80, EndPort: 79}), "app=db", "ingress", "80 to 79"},
		{"a port too high", port(&schemas.PolicyPort{Protocol: tcp, Port: 65536}), "app=db", "ingress", "65536"},
		{"a range of a name", port(&schemas.PolicyPort{Protocol: tcp, Name: "http", EndPort: 80}), "app=db", "ingress", "a name and a number"},
		{"no tier", clusterPolicy(&schemas.ClusterNetworkPolicy{Subject: &schemas.PodPeer{Pods: labelled("app", "db")}}), "app=db", both, "tier 0"},
		{"a priority too high", clusterPolicy(&schemas.ClusterNetworkPolicy{
			Tier: 1, Priority: 1001, Subject: &schemas.PodPeer{Pods: labelled("app", "db")}, Egress: []*schemas.PolicyRule{accepting()},
		}), "app=db", "egress", "priority 1001"},
		{"no subject", clusterPolicy(&schemas.ClusterNetworkPolicy{Tier: 1, Ingress: []*schemas.PolicyRule{accepting()}}), all, "ingress", "which pods"},
		{"a cluster's fact of another kind", &schemas.Fact{Object: clusterPolicy(nil).GetObject(), State: pod("a", "n").State}, all, both, "Fact_Pod"},
	} {
		db := New()
		changes := apply(t, db, test.fact)
		p := only(t, db)
		closes := strings.Trim(fmt.Sprint(map[bool]string{true: "ingress "}[p.Ingress.Judges], map[bool]string{true: "egress"}[p.Egress.Judges]), " ")
		if got := p.Subject.Pods.String(); got != test.pods || closes != test.closes || p.Ingress.Rules != nil || p.Egress.Rules != nil {
			t.Errorf("%s: closes %s of %s, want %s of %s", test.name, closes, got, test.closes, test.pods)
		}
		if !strings.Contains(p.Refused, test.because) || len(changes.SetAside) != 1 || !strings.Contains(changes.SetAside[0].Reason, test.because) {
			t.Errorf("%s: refused because %q and set aside as %v, want %q", test.name, p.Refused, changes.SetAside, test.because)
		}
	}
}

// TestUnknownPeersNeverOpen reads what network-policy-api may have in later versions.
func TestUnknownPeersNeverOpen(t *testing.T) {
	for action, want := range map[schemas.RuleAction]Rule{
		schemas.RuleAction_RULE_ACTION_ACCEPT: {Action: Accept, AnyPort: true},
		schemas.RuleAction_RULE_ACTION_DENY:   {Action: Deny, AnyPeer: true, AnyPort: true},
		schemas.RuleAction_RULE_ACTION_PASS:   {Action: Deny, AnyPeer: true, AnyPort: true},
	} {
		db := New()
		changes := apply(t, db, clusterPolicy(&schemas.ClusterNetworkPolicy{
			Tier: 1, Subject: &schemas.PodPeer{}, Egress: []*schemas.PolicyRule{{
				Action: action, AnyPort: true, Peers: []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Unknown{Unknown: "domainNames"}}},
			}},
		}))
		if p := only(t, db); p.Refused != "" || len(p.Egress.Rules) != 1 || !sameRule(p.Egress.Rules[0], want) {
			t.Errorf("action %s became %+v, want %+v", action, p.Egress.Rules, want)
		}
		if len(changes.SetAside) != 1 || !strings.Contains(changes.SetAside[0].Reason, "domainNames") {
			t.Errorf("action %s: set aside %v, want domainNames named", action, changes.SetAside)
		}
	}
}

// TestWhatPoliciesSee names what changed of that which policies are about.
func TestWhatPoliciesSee(t *testing.T) {
	db := New()
	labelledPod, again, named := pod("a", "n1", "10.1.0.1"), pod("a", "n1", "10.1.0.1"), pod("a", "n1", "10.1.0.1")
	labelledPod.GetPod().Labels = map[string]string{"app": "web"}
	again.GetPod().Labels, again.Object.Uid = labelledPod.GetPod().Labels, "another"
	named.GetPod().Labels, named.Object.Uid = labelledPod.GetPod().Labels, "another"
	named.GetPod().Ports = []*schemas.EndpointPort{{Name: "http", Protocol: tcp, Port: 80}}
	node := func(zone, label string) *schemas.Fact {
		return &schemas.Fact{Object: &schemas.ObjectRef{Kind: KindNode, Name: "n1"}, State: &schemas.Fact_Node{Node: &schemas.Node{
			Zone: zone, Labels: map[string]string{"role": label},
		}}}
	}
	namespace := func(label string) *schemas.Fact {
		return &schemas.Fact{Object: &schemas.ObjectRef{Kind: KindNamespace, Name: "shop"}, State: &schemas.Fact_Namespace{
			Namespace: &schemas.Namespace{Labels: map[string]string{"team": label}},
		}}
	}
	tier := func(tier schemas.PolicyTier) *schemas.Fact {
		return clusterPolicy(&schemas.ClusterNetworkPolicy{Tier: tier, Subject: &schemas.PodPeer{}})
	}
	aPod, aNode, aNamespace := Policed{Pods: []Name{{"shop", "a"}}}, Policed{Nodes: []string{"n1"}}, Policed{Namespaces: []string{"shop"}}
	for _, test := range []struct {
		name string
		fact *schemas.Fact
		want Policed
	}{
		{"a pod", pod("a", "n1", "10.1.0.1"), aPod},
		{"its labels", labelledPod, aPod},
		{"the same again", labelledPod, Policed{}},
		{"its successor", again, aPod},
		{"its ports", named, aPod},
		{"a node", node("z1", "a"), aNode},
		{"its zone", node("z2", "a"), Policed{}},
		{"its labels", node("z2", "b"), aNode},
		{"a namespace", namespace("a"), aNamespace},
		{"its labels", namespace("b"), aNamespace},
		{"its end", &schemas.Fact{Object: namespace("").GetObject()}, aNamespace},
		{"a policy of the admin tier", tier(1), Policed{Policies: []model.PolicyName{{Kind: model.AdminPolicy, Name: "c"}}}},
		{"in the other tier", tier(2), Policed{Policies: []model.PolicyName{
			{Kind: model.AdminPolicy, Name: "c"}, {Kind: model.BaselinePolicy, Name: "c"},
		}}},
		{"gone", &schemas.Fact{Object: tier(1).GetObject()}, Policed{Policies: []model.PolicyName{{Kind: model.BaselinePolicy, Name: "c"}}}},
	} {
		var got Policed
		for _, touch := range apply(t, db, test.fact).Touched {
			got = touch.Policy
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestANamespaceAlwaysHasItsName(t *testing.T) {
	db := New()
	of := func() map[string]string { return db.Snapshot().NamespaceLabels("shop").Map() }
	if diff := cmp.Diff(map[string]string{NamespaceLabel: "shop"}, of()); diff != "" {
		t.Errorf("of one that isn't known (-want +got):\n%s", diff)
	}
	apply(t, db, &schemas.Fact{Object: &schemas.ObjectRef{Kind: KindNamespace, Name: "shop"}, State: &schemas.Fact_Namespace{
		Namespace: &schemas.Namespace{Labels: map[string]string{"team": "a", NamespaceLabel: "other"}},
	}})
	if diff := cmp.Diff(map[string]string{NamespaceLabel: "shop", "team": "a"}, of()); diff != "" {
		t.Errorf("of one that is (-want +got):\n%s", diff)
	}
}

// TestAFactWithAnotherKindsNameRemovesNothing names a policy as only one of the other kind can be named: neither that
// fact nor its end may open what the other one closes.
func TestAFactWithAnotherKindsNameRemovesNothing(t *testing.T) {
	cluster := clusterPolicy(&schemas.ClusterNetworkPolicy{Tier: 1, Subject: &schemas.PodPeer{}})
	own := networkPolicy(&schemas.NetworkPolicy{Pods: &schemas.Selector{}, IsolatesIngress: true})
	for _, c := range []struct {
		is    *schemas.Fact
		other *schemas.ObjectRef
	}{
		{cluster, &schemas.ObjectRef{Kind: KindNetworkPolicy, Name: "c"}},
		{own, &schemas.ObjectRef{Kind: KindClusterNetworkPolicy, Namespace: "shop", Name: "p"}},
	} {
		for _, state := range []*schemas.Fact{own, cluster, {}} {
			db := New()
			apply(t, db, c.is, &schemas.Fact{Object: c.other, State: state.State})
			if !db.Snapshot().Policed() {
				t.Errorf("%s %s is gone after a fact that is named %s %q/%q and holds a %T", c.is.Object.Kind, c.is.Object.Name,
					c.other.Kind, c.other.Namespace, c.other.Name, state.State)
			}
			for p := range db.Snapshot().Policies() {
				if p.Kind == model.NetworkPolicy != (c.is == own) {
					t.Errorf("%s is not what was there", p.PolicyName)
				}
			}
		}
	}
}
