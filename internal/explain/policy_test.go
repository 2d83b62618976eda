// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// policed is a small cluster, compiled, with policies: shop/front and shop/cart-0 on node a, shop/cart-1 and other/front on
// node b, and Service shop/cart of the two carts, which serve on port 8080.
func policed(t testing.TB, more ...*schemas.Fact) *World {
	t.Helper()
	facts := []*schemas.Fact{
		nodeFact("a", "172.20.0.2", "fd00:20::2"), nodeFact("b", "172.20.0.3", "fd00:20::3"),
		labelled(podFact("shop", "front", "a", "10.244.1.2", "fd00:1::2"), "app", "front"),
		labelled(podFact("shop", "cart-0", "a", "10.244.1.3", "fd00:1::3"), "app", "cart"),
		labelled(podFact("shop", "cart-1", "b", "10.244.2.3", "fd00:2::3"), "app", "cart"),
		labelled(podFact("other", "front", "b", "10.244.2.9"), "app", "front"),
		hostPodFact("kube-system", "agent", "b"),
		serviceFact("shop", "cart", 80, model.TCP, "10.96.0.10"), backends("shop", "cart", "10.244.1.3", "a", "10.244.2.3", "b"),
	}
	w, warnings, err := FromFacts(append(facts, more...), Config{})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return w
}

func labelled(fact *schemas.Fact, key, value string) *schemas.Fact {
	fact.GetPod().Labels = map[string]string{key: value}
	return fact
}

// backends is an EndpointSlice of ready endpoints at port 8080, each an address and its node.
func backends(namespace, service string, addresses ...string) *schemas.Fact {
	slice := &schemas.EndpointSlice{Service: service, Family: 4, Ports: []*schemas.EndpointPort{{Name: "main", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080}}}
	for pair := range slices.Chunk(addresses, 2) {
		slice.Endpoints = append(slice.Endpoints, &schemas.SliceEndpoint{Address: raw(pair[:1])[0], Node: pair[1], Ready: true, Serving: true})
	}
	return &schemas.Fact{Object: ref("EndpointSlice", namespace, service+"-x"), State: &schemas.Fact_EndpointSlice{EndpointSlice: slice}}
}

func having(key string, values ...string) *schemas.Selector {
	return &schemas.Selector{Terms: []*schemas.SelectorTerm{{Key: key, Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_IN, Values: values}}}
}

// fromPods allows pods of the own namespace, at a port if it isn't 0.
func fromPods(app string, port uint32) *schemas.PolicyRule {
	r := &schemas.PolicyRule{
		Action: schemas.RuleAction_RULE_ACTION_ACCEPT,
		Peers:  []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{Pods: having("app", app)}}}},
	}
	if r.AnyPort = port == 0; port != 0 {
		r.Ports = []*schemas.PolicyPort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: port}}
	}
	return r
}

func ingressOf(name, app string, rules ...*schemas.PolicyRule) *schemas.Fact {
	return &schemas.Fact{Object: ref("NetworkPolicy", "shop", name), Manager: "kubectl", State: &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
		Pods: having("app", app), IsolatesIngress: true, Ingress: rules,
	}}}
}

func egressOf(name, app string, rules ...*schemas.PolicyRule) *schemas.Fact {
	return &schemas.Fact{Object: ref("NetworkPolicy", "shop", name), State: &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
		Pods: having("app", app), IsolatesEgress: true, Egress: rules,
	}}}
}

// noNodes is an admin's: pods reach no node.
func noNodes(app string) *schemas.Fact {
	return &schemas.Fact{Object: ref("ClusterNetworkPolicy", "", "no-nodes"), State: &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: &schemas.ClusterNetworkPolicy{
		Tier: schemas.PolicyTier_POLICY_TIER_ADMIN, Priority: 10, Subject: &schemas.PodPeer{Pods: having("app", app)},
		Egress: []*schemas.PolicyRule{{
			Name: "nodes", Action: schemas.RuleAction_RULE_ACTION_DENY, AnyPort: true,
			Peers: []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Nodes{Nodes: &schemas.Selector{}}}},
		}},
	}}}
}

// told is a verdict in short: "deny policy_isolated NetworkPolicy shop/x -".
func told(v PolicyVerdict) string {
	words := []string{v.Verdict, v.Reason, "-", "-"}
	if v.Policy != nil {
		words[2] = *v.Policy
	}
	if v.Rule != nil {
		words[3] = *v.Rule
	}
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")
}

// Policy row 11: who asks is told the reason, the policy and the rule, at both ends.
func TestAnswersNamePolicies(t *testing.T) {
	for _, test := range []struct {
		name            string
		policies        []*schemas.Fact
		q               Question
		verdict         string
		egress, ingress string
		denied          []string
	}{
		{"no policy", nil, Question{From: "shop/front", To: "shop/cart:80"}, "forward none", "allow - -", "allow - -", nil},
		{"allowed by a rule", []*schemas.Fact{ingressOf("in", "cart", fromPods("front", 8080))}, Question{From: "shop/front", To: "shop/cart:80"}, "forward none", "allow - -", "allow NetworkPolicy shop/in ingress[0]", nil},
		{"a rule for the Service's port is none for the backend's", []*schemas.Fact{ingressOf("in", "cart", fromPods("front", 80))}, Question{From: "shop/front", To: "shop/cart:80"}, "drop policy_isolated", "allow - -", "deny policy_isolated NetworkPolicy shop/in -", nil},
		{"isolated by two", []*schemas.Fact{ingressOf("in", "cart"), ingressOf("also", "cart", fromPods("gate", 0))}, Question{From: "shop/front", To: "shop/cart-0:8080"}, "drop policy_isolated", "allow - -", "deny policy_isolated NetworkPolicy shop/also, NetworkPolicy shop/in -", nil},
		{"egress stops it first", []*schemas.Fact{ingressOf("in", "cart"), egressOf("out", "front")}, Question{From: "shop/front", To: "shop/cart:80"}, "drop policy_isolated", "deny policy_isolated NetworkPolicy shop/out -", "deny policy_isolated NetworkPolicy shop/in -", nil},
		{"an admin's rule by name", []*schemas.Fact{noNodes("front")}, Question{From: "shop/front", To: "172.20.0.3:22"}, "drop policy_denied", "deny policy_denied ClusterNetworkPolicy no-nodes egress[0] nodes", "allow - -", nil},
		{"the node of the pod reaches it", []*schemas.Fact{ingressOf("in", "cart")}, Question{From: "node/a", To: "shop/cart-0:8080"}, "forward none", "allow - -", "allow - -", nil},
		{"another node doesn't", []*schemas.Fact{ingressOf("in", "cart")}, Question{From: "node/b", To: "shop/cart-0:8080"}, "drop policy_isolated", "allow - -", "deny policy_isolated NetworkPolicy shop/in -", nil},
		{"of a Service the node's own backend alone", []*schemas.Fact{ingressOf("in", "cart")}, Question{From: "node/a", To: "shop/cart:80"}, "forward none", "allow - -", "allow - -", []string{"10.244.2.3:8080"}},
		{"outside", []*schemas.Fact{ingressOf("in", "cart")}, Question{From: "192.0.2.1", Node: "b", To: "shop/cart-1:8080"}, "drop policy_isolated", "allow - -", "deny policy_isolated NetworkPolicy shop/in -", nil},
		{"a pod reaches itself by a Service", []*schemas.Fact{ingressOf("in", "cart"), egressOf("out", "cart")}, Question{From: "shop/cart-0", To: "shop/cart:80"}, "forward none", "allow - -", "allow - -", []string{"10.244.2.3:8080"}},
		{"a pod in its node's network is none", []*schemas.Fact{egressOf("out", "front")}, Question{From: "kube-system/agent", To: "other/front:8080"}, "forward none", "allow - -", "allow - -", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := policed(t, test.policies...)
			got, err := w.Ask(Model{}, test.q)
			if err != nil {
				t.Fatal(err)
			}
			want := []any{test.verdict, test.egress, test.ingress, test.denied}
			if diff := cmp.Diff(want, []any{got.Verdict + " " + got.Reason, told(got.Policy.Egress), told(got.Policy.Ingress), got.Policy.Denied}); diff != "" {
				t.Errorf("%+v (-want +got):\n%s\nsteps:\n%s", test.q, diff, strings.Join(got.Steps, "\n"))
			}
		})
	}
}

// The programs say the same, by the rows that the compiler makes of the policies.
func TestEnginesAgreeOnPolicies(t *testing.T) {
	testkit.NeedKernel(t)
	w := policed(t, ingressOf("in", "cart", fromPods("front", 8080)), egressOf("out", "front", fromPods("cart", 0)), noNodes("cart"))
	kernel, err := NewKernel(w)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	ends := []string{"shop/front", "shop/cart-0", "shop/cart-1", "other/front", "node/a", "node/b", "192.0.2.1"}
	for _, from := range ends {
		for _, to := range []string{"shop/cart:80", "shop/cart-0:8080", "shop/cart-0:8081", "shop/cart-1:8080", "shop/front:8080", "other/front:8080", "172.20.0.2:22", "172.20.0.3:22", "192.0.2.9:443", "[fd00:1::3]:8080"} {
			for _, via := range []string{"", "packet"} {
				q := Question{From: from, To: to, Via: via}
				if from == "192.0.2.1" {
					q.Node = "a"
				}
				model, err := w.Ask(Model{}, q)
				if err != nil {
					continue // no address of that family, or no hook for that path
				}
				got, err := w.Ask(kernel, q)
				if err != nil {
					t.Fatalf("%+v: %v", q, err)
				}
				if diff := cmp.Diff(model, got, cmpopts.IgnoreFields(Answer{}, "Steps", "Evidence")); diff != "" {
					t.Errorf("%+v (-model +kernel):\n%s\n%s", q, diff, strings.Join(got.Steps, "\n"))
				}
			}
		}
	}
}

func TestDenialsNameTheNearestMiss(t *testing.T) {
	w := policed(t, ingressOf("deny", "cart"), ingressOf("allow", "cart", fromPods("gate", 0)))
	got, err := w.Ask(Model{}, Question{From: "shop/front", To: "shop/cart-0:8080"})
	if err != nil {
		t.Fatal(err)
	}
	want := []PolicyAsked{
		{Policy: "NetworkPolicy shop/allow", Verdict: "none", Text: "ingress[0] allows app=gate in namespace shop; this pod has app=front", Nearest: true},
		{Policy: "NetworkPolicy shop/deny", Verdict: "none", Text: "selects the pod, no rule matches"},
	}
	if diff := cmp.Diff(want, got.Policy.Ingress.Policies); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
	var causes []string
	for _, c := range got.Causes {
		causes = append(causes, c.Kind+" "+c.Name+" by "+c.Manager)
	}
	if diff := cmp.Diff([]string{"NetworkPolicy allow by kubectl", "NetworkPolicy deny by kubectl"}, causes); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
}
