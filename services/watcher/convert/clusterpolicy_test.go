// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
)

func clusterPolicyOf(t *testing.T, spec string) *schemas.ClusterNetworkPolicy {
	t.Helper()
	object := &unstructured.Unstructured{}
	document := "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}, spec: " + spec + "}"
	if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
		t.Fatal(err)
	}
	fact, err := Fact(object)
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return fact.GetClusterNetworkPolicy()
}

// Policy row 5: tiers, priority, the three actions, and pods, namespaces, nodes and networks as peers.
func TestClusterNetworkPoliciesBecomeFacts(t *testing.T) {
	got := clusterPolicyOf(t, `{
	  tier: Admin, priority: 7, subject: {namespaces: {matchLabels: {team: shop}}},
	  ingress: [
	    {name: "no\u0001lab", action: Deny, from: [{namespaces: {matchExpressions: [{key: lab, operator: Exists}]}}]},
	    {action: Pass, from: [{pods: {podSelector: {}}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {destinationNamedPort: web}]}],
	  egress: [{
	    action: Accept,
	    to: [{nodes: {}}, {networks: [10.9.8.7/8, "fd00::/8"]}, {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}}],
	    protocols: [{udp: {destinationPort: {range: {start: 1000, end: 2000}}}}, {sctp: {destinationPort: {number: 1}}}]}]}`)
	want := text(t, &schemas.ClusterNetworkPolicy{}, `
tier: POLICY_TIER_ADMIN priority: 7
subject: { namespaces: { terms: { key: 'team' operator: SELECTOR_OPERATOR_IN values: 'shop' } } }
ingress: { name: 'no?lab' action: RULE_ACTION_DENY any_port: true peers: { pods: { namespaces: { terms: { key: 'lab' operator: SELECTOR_OPERATOR_EXISTS } } } } }
ingress: { action: RULE_ACTION_PASS peers: { pods: { namespaces: {} pods: {} } } ports: { protocol: PROTOCOL_TCP port: 80 } ports: { name: 'web' } }
egress: {
  action: RULE_ACTION_ACCEPT
  peers: { nodes: {} } peers: { block: { cidr: '10.0.0.0/8' } } peers: { block: { cidr: 'fd00::/8' } }
  peers: { pods: { namespaces: { terms: { key: 'a' operator: SELECTOR_OPERATOR_IN values: 'b' } } pods: {} } }
  ports: { protocol: PROTOCOL_UDP port: 1000 end_port: 2000 } ports: { protocol: PROTOCOL_SCTP port: 1 }
}`)
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("fact (-want +got):\n%s", diff)
	}
}

// Peers that a newer API may have are kept as such: network-policy-api wants an implementation that sees none it knows
// to fail closed, rule by rule.
func TestUnknownPeersAreToldAsUnknown(t *testing.T) {
	const rest = "tier: Baseline, priority: 0, subject: {namespaces: {}}"
	for peer, want := range map[string]string{
		"{domainNames: ['*.example.com']}":    "domainNames",
		"{}":                                  "a peer without a field",
		"{namespaces: {}, clusters: {}}":      "clusters",
		"{" + strings.Repeat("x", 200) + ":}": strings.Repeat("x", 100),
	} {
		got := clusterPolicyOf(t, "{"+rest+", egress: [{action: Deny, to: ["+peer+"]}]}")
		if len(got.GetEgress()) != 1 || got.GetEgress()[0].GetPeers()[0].GetUnknown() != want || got.GetRefused() != "" {
			t.Errorf("%s: got %v, want %q", peer, got, want)
		}
	}
	got := clusterPolicyOf(t, "{"+rest+", ingress: [{action: Accept, from: [{networks: [10.0.0.0/8]}]}]}")
	if got.GetIngress()[0].GetPeers()[0].GetUnknown() != "networks" {
		t.Errorf("networks in ingress, which has none: %v", got)
	}
}

// Policy row 9: what can't be used is refused as a whole and named, and still selects, in the directions of its rules.
func TestARefusedClusterNetworkPolicyStillSelects(t *testing.T) {
	const head = "tier: Admin, priority: 5, subject: {namespaces: {}}, "
	rule := func(rest string) string {
		return "{" + head + "ingress: [{action: Deny, from: [{namespaces: {}}], " + rest + "}]}"
	}
	for _, test := range []struct{ spec, want string }{
		{"{subject: {namespaces: {}}, tier: Middle, priority: 5, ingress: [{}]}", `spec.tier: "Middle" is not Admin or Baseline`},
		{"{subject: {namespaces: {}}, tier: Admin, ingress: [{}]}", "spec.priority: is missing"},
		{"{subject: {namespaces: {}}, tier: Admin, priority: 1001, ingress: [{}]}", "spec.priority: 1001 is not between 0 and 1000"},
		{"{subject: {namespaces: {}}, tier: Admin, priority: 1.5, ingress: [{}]}", "spec.priority: 1.5 is not a whole number from 0 to 1000"},
		{"{subject: {namespaces: {}}, tier: Admin, priority: high, ingress: [{}]}", "spec.priority: is a string where a number belongs"},
		{"{" + head + "mode: audit, ingress: [{}]}", "spec.mode: is no field that this version knows"},
		{"{" + head + "ingress: {}}", "spec.ingress: is an object where a list belongs"},
		{"{" + head + "ingress: [{action: Drop, from: [{namespaces: {}}]}]}", `spec.ingress[0].action: "Drop" is not Accept, Deny or Pass`},
		{"{" + head + "ingress: [{action: Deny}]}", "spec.ingress[0].from: is empty; a rule has at least one peer"},
		{"{" + head + "ingress: [{action: Deny, to: []}]}", "spec.ingress[0].to: is no field that this version knows"},
		{"{" + head + "ingress: [{action: Deny, from: [{namespaces: {}, pods: {podSelector: {}}}]}]}", "spec.ingress[0].from[0]: wants one of namespaces, pods, not namespaces and pods"},
		{"{" + head + "ingress: [{action: Deny, from: [{pods: {}}]}]}", "spec.ingress[0].from[0].pods.podSelector: is missing"},
		{"{" + head + "ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabel: {}}}}]}]}", "spec.ingress[0].from[0].pods.podSelector.matchLabel: is no field that this version knows"},
		{"{" + head + "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {a: 1}}}]}]}", "spec.ingress[0].from[0].namespaces.matchLabels.a: is a number where a string belongs"},
		{"{" + head + "ingress: [{action: Deny, from: [{namespaces: {matchExpressions: [{key: a, operator: In}]}}]}]}", "spec.ingress[0].from[0].namespaces: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty"},
		{rule("protocols: []"), "spec.ingress[0].protocols: is empty; leave it out for all protocols"},
		{rule("protocols: [{}]"), "spec.ingress[0].protocols[0]: wants one of tcp, udp, sctp and destinationNamedPort"},
		{rule("protocols: [{icmp: {}}]"), "spec.ingress[0].protocols[0].icmp: is no field that this version knows"},
		{rule("protocols: [{tcp: {}}]"), "spec.ingress[0].protocols[0].tcp.destinationPort: is missing"},
		{rule("protocols: [{tcp: {destinationPort: {number: 0}}}]"), "spec.ingress[0].protocols[0].tcp.destinationPort.number: 0 is not between 1 and 65535"},
		{rule("protocols: [{tcp: {destinationPort: {number: 1, range: {}}}}]"), "spec.ingress[0].protocols[0].tcp.destinationPort: wants one of number and range"},
		{rule("protocols: [{tcp: {destinationPort: {range: {start: 9, end: 9}}}}]"), "spec.ingress[0].protocols[0].tcp.destinationPort.range: 9 is not below 9"},
		{rule("protocols: [{destinationNamedPort: '80'}]"), `spec.ingress[0].protocols[0].destinationNamedPort: "80" is no port's name: must contain at least one letter (a-z)`},
	} {
		got := clusterPolicyOf(t, test.spec)
		if got.GetRefused() != test.want || got.GetSubject() == nil || len(got.GetIngress()) != 1 || len(got.GetEgress()) != 0 {
			t.Errorf("%s: got %v\nwant it refused: %s", test.spec, got, test.want)
		}
	}
	for _, test := range []struct{ spec, want string }{
		{"{tier: Admin, priority: 5, egress: [{}]}", "spec.subject: is missing"},
		{"{tier: Admin, priority: 5, subject: {}, egress: [{}]}", "spec.subject: wants one of namespaces and pods"},
		{"{tier: Admin, priority: 5, subject: {pods: {podSelector: {}}, namespaces: {}}, egress: [{}]}", "spec.subject: wants one of namespaces and pods"},
		{"{tier: Admin, priority: 5, subject: {nodes: {}}, egress: [{}]}", "spec.subject.nodes: is no field that this version knows"},
		{"Admin", "spec.subject: is missing"},
	} {
		got := clusterPolicyOf(t, test.spec)
		if got.GetRefused() != test.want || got.GetSubject() != nil {
			t.Errorf("%s: got %v\nwant it refused, with an unknown subject: %s", test.spec, got, test.want)
		}
	}
}

func TestAnotherKindWithoutAGoTypeIsNone(t *testing.T) {
	other := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": map[string]any{"name": "p"},
	}}
	if fact, err := Fact(other); err == nil || !strings.Contains(err.Error(), "is no kind that deltaplane watches") {
		t.Errorf("got %v, %v", fact, err)
	}
}
