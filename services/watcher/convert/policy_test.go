// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
)

func networkPolicyOf(t *testing.T, spec string) *schemas.NetworkPolicy {
	t.Helper()
	fact, err := Fact(read[networkingv1.NetworkPolicy](t, "{metadata: {name: p, namespace: shop}, spec: "+spec+"}"))
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return fact.GetNetworkPolicy()
}

// text reads a message in the text format.
func text[M proto.Message](t *testing.T, m M, text string) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return m
}

// Policy row 1: what is left out means everyone, every port, TCP; directions are isolated each by itself.
// Trap 44: an empty `from` and a missing one are the same, and the isolated directions follow from the rules.
// Trap 43: a named port has no number yet, and a range is kept as one.
func TestNetworkPoliciesSayWhatTheyLeaveOut(t *testing.T) {
	const all = "pods: {} isolates_ingress: true "
	rule := func(text string) string { return all + "ingress: { action: RULE_ACTION_ACCEPT " + text + "}" }
	for spec, want := range map[string]string{
		"{podSelector: {}}":                                   all,
		"{}":                                                  all,
		"{podSelector: {}, policyTypes: []}":                  all,
		"{podSelector: {}, egress: []}":                       all,
		"{podSelector: {}, policyTypes: [Egress]}":            "pods: {} isolates_egress: true",
		"{podSelector: {}, policyTypes: [Egress, Ingress]}":   all + "isolates_egress: true",
		"{podSelector: {}, egress: [{}]}":                     all + "isolates_egress: true egress: { action: RULE_ACTION_ACCEPT any_peer: true any_port: true }",
		"{podSelector: {}, ingress: [{}]}":                    rule("any_peer: true any_port: true"),
		"{podSelector: {}, ingress: [{from: [], ports: []}]}": rule("any_peer: true any_port: true"),
		"{podSelector: {}, ingress: [{ports: [{}]}]}":         rule("any_peer: true ports: { protocol: PROTOCOL_TCP }"),
		"{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80, endPort: 90}, {protocol: UDP, port: dns}]}]}": rule(
			"any_peer: true ports: { protocol: PROTOCOL_SCTP port: 80 end_port: 90 } ports: { protocol: PROTOCOL_UDP name: 'dns' }"),
		"{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}":       rule("any_port: true peers: { pods: { pods: {} } }"),
		"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}": rule("any_port: true peers: { pods: { namespaces: {} } }"),
		"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {b: '', a: x}}, namespaceSelector: {}}]}]}": rule(
			`any_port: true peers: { pods: { namespaces: {} pods: {
			  terms: { key: 'a' operator: SELECTOR_OPERATOR_IN values: 'x' } terms: { key: 'b' operator: SELECTOR_OPERATOR_IN values: '' } } } }`),
		"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.9.8.7/8, except: [10.1.0.0/16, 10.2.3.4/32]}}]}]}": rule(
			"any_port: true peers: { block: { cidr: '10.0.0.0/8' except: '10.1.0.0/16' except: '10.2.3.4/32' } }"),
		"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.008.0.0/16}}, {ipBlock: {cidr: '::ffff:10.8.0.0/112'}}]}]}": rule(
			"any_port: true peers: { block: { cidr: '10.8.0.0/16' } } peers: { block: { cidr: '10.8.0.0/16' } }"),
		`{podSelector: {matchExpressions: [{key: a, operator: In, values: [x, z]}, {key: b, operator: NotIn, values: [x]},
		  {key: c, operator: Exists}, {key: d, operator: DoesNotExist}]}}`: `isolates_ingress: true pods: {
		  terms: { key: 'a' operator: SELECTOR_OPERATOR_IN values: ['x', 'z'] } terms: { key: 'b' operator: SELECTOR_OPERATOR_NOT_IN values: 'x' }
		  terms: { key: 'c' operator: SELECTOR_OPERATOR_EXISTS } terms: { key: 'd' operator: SELECTOR_OPERATOR_DOES_NOT_EXIST } }`,
	} {
		if diff := cmp.Diff(text(t, &schemas.NetworkPolicy{}, want), networkPolicyOf(t, spec), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spec, diff)
		}
	}
}

// Policy row 9: what can't be used is refused as a whole and named, and still selects.
func TestARefusedNetworkPolicyStillSelects(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{`{podSelector: {matchExpressions: [{key: a, operator: Like}]}}`, `spec.podSelector: "Like" is not a valid label selector operator`},
		{`{podSelector: {}, policyTypes: [Forward]}`, `spec.policyTypes[0]: "Forward" is not Ingress or Egress`},
		{`{podSelector: {}, ingress: [{}, {from: [{podSelector: {}}, {}]}]}`, "spec.ingress[1].from[1]: names no ipBlock, podSelector or namespaceSelector"},
		{`{podSelector: {}, egress: [{to: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}`, "spec.egress[0].to[0].ipBlock: stands beside a selector; a peer is one or the other"},
		{`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10/8}}]}]}`, `spec.ingress[0].from[0].ipBlock.cidr: "10/8" is no prefix such as 10.0.0.0/16 or fd00::/64`},
		{`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::ffff:0:0/90"}}]}]}`, `spec.ingress[0].from[0].ipBlock.cidr: "::ffff:0:0/90" is an IPv4-mapped prefix that is not all IPv4; write it as IPv4`},
		{`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}`, "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 is not inside 10.0.0.0/8"},
		{`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}`, "spec.ingress[0].from[0].ipBlock.except[0]: 10.0.0.0/8 is not inside 10.0.0.0/8"},
		{`{podSelector: {}, ingress: [{ports: [{port: 0}]}]}`, "spec.ingress[0].ports[0].port: 0 is not between 1 and 65535"},
		{`{podSelector: {}, ingress: [{ports: [{port: -x}]}]}`, `spec.ingress[0].ports[0].port: "-x" is no port's name: must not begin or end with a hyphen`},
		{`{podSelector: {}, ingress: [{ports: [{protocol: X}]}]}`, `spec.ingress[0].ports[0].protocol: "X" is not TCP, UDP or SCTP`},
		{`{podSelector: {}, ingress: [{ports: [{protocol: ""}]}]}`, `spec.ingress[0].ports[0].protocol: "" is not TCP, UDP or SCTP`},
		{`{podSelector: {}, ingress: [{ports: [{port: 9, endPort: 8}]}]}`, "spec.ingress[0].ports[0].endPort: 8 is below port 9"},
		{`{podSelector: {}, ingress: [{ports: [{port: 9, endPort: 70000}]}]}`, "spec.ingress[0].ports[0].endPort: 70000 is not between 1 and 65535"},
		{`{podSelector: {}, ingress: [{ports: [{endPort: 8}]}]}`, "spec.ingress[0].ports[0].endPort: has no port to start at"},
		{`{podSelector: {}, ingress: [{ports: [{port: http, endPort: 8}]}]}`, `spec.ingress[0].ports[0].endPort: can't end a range that starts at the named port "http"`},
	} {
		got := networkPolicyOf(t, test.spec)
		want := &schemas.NetworkPolicy{
			Pods: &schemas.Selector{}, IsolatesIngress: true, Refused: test.want,
			IsolatesEgress: strings.Contains(test.spec, "egress") || strings.Contains(test.spec, "policyTypes"),
		}
		if strings.Contains(test.spec, "Like") {
			want.Pods = nil // nobody knows which: it closes its namespace
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.spec, diff)
		}
	}
}

// A policy that the bus can't carry is as one that can't be understood.
func TestAPolicyThatIsTooLargeIsRefused(t *testing.T) {
	many := networkingv1.NetworkPolicyIngressRule{}
	for i := range 100_000 {
		block := &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255)}
		many.From = append(many.From, networkingv1.NetworkPolicyPeer{IPBlock: block})
	}
	long := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{many}}}
	long.Name = "p"
	fact, err := Fact(long)
	want := "what a data plane needs of it is 2000715 bytes, more than the 1040384 that it may take; make several policies of it"
	if p := fact.GetNetworkPolicy(); err != nil || p.GetRefused() != want || p.GetPods() == nil || p.GetIngress() != nil || !p.GetIsolatesIngress() {
		t.Errorf("%v, %v, want it refused: %s", p, err, want)
	}
	big := &networkingv1.NetworkPolicy{}
	big.Name, big.Spec.PodSelector.MatchLabels = "p", map[string]string{}
	for i := range 100_000 {
		big.Spec.PodSelector.MatchLabels[fmt.Sprint("label-", i)] = "x"
	}
	fact, err = Fact(big)
	if p := fact.GetNetworkPolicy(); err != nil || p.GetRefused() == "" || p.GetPods() != nil {
		t.Errorf("%v, %v", p, err)
	}
}
