// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"testing"
)

// tier is a ClusterNetworkPolicy in one line of YAML.
func tier(name, tier string, priority int, spec string) string {
	return fmt.Sprintf("{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: %s}, spec: {tier: %s, priority: %d, %s}}\n---\n",
		name, tier, priority, spec)
}

// The words of these specs that come up again and again.
const (
	inX     = "subject: {namespaces: {matchLabels: {ns: x}}}"
	xA      = "subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}}"
	everyNS = "[{namespaces: {}}]"
	fromW   = "[{namespaces: {matchLabels: {ns: w}}}]"
	fromZ   = "[{namespaces: {matchLabels: {ns: z}}}]"
	tcp80   = "protocols: [{tcp: {destinationPort: {number: 80}}}]"
	udp81   = "protocols: [{udp: {destinationPort: {number: 81}}}]"
)

// portByPort are rules that deny w port 80 of each protocol, and accept port 81 of z and nothing else of it.
func portByPort(peers string) string {
	at := func(port int) string {
		return fmt.Sprintf("protocols: [{tcp: {destinationPort: {number: %[1]d}}}, {udp: {destinationPort: {number: %[1]d}}}, {sctp: {destinationPort: {number: %[1]d}}}]", port)
	}
	return fmt.Sprintf("{action: Deny, %[1]s: %[2]s, %[4]s}, {action: Pass, %[1]s: %[2]s, %[4]s}, {action: Accept, %[1]s: %[3]s, %[5]s}, {action: Deny, %[1]s: %[3]s}",
		peers, fromW, fromZ, at(80), at(81))
}

// bothTiers shows the same in the Admin and in the Baseline tier.
func bothTiers(name, spec string, seen outlook) []situation {
	return []situation{
		{name + ", Admin", tier("t", "Admin", 10, spec), seen},
		{name + ", Baseline", tier("t", "Baseline", 10, spec), seen},
	}
}

func tierSituations() (all []situation) {
	for _, group := range [][]situation{
		bothTiers("ingress: the first rule that matches counts",
			inX+", ingress: [{action: Accept, from: "+fromW+"}, {action: Deny, from: "+fromW+"}, {action: Deny, from: "+fromZ+"}, {action: Accept, from: "+fromZ+"}]",
			outlook{"no z/* → x/*"}),
		bothTiers("egress: the first rule that matches counts",
			inX+", egress: [{action: Accept, to: "+fromW+"}, {action: Deny, to: "+fromW+"}, {action: Deny, to: "+fromZ+"}, {action: Accept, to: "+fromZ+"}]",
			outlook{"no x/* → z/*"}),
		bothTiers("a subject of pods alone", xA+", ingress: [{action: Deny, from: "+everyNS+"}]", outlook{"no * → x/a"}),
		bothTiers("one TCP port is accepted, all others denied",
			inX+", ingress: [{action: Accept, from: "+fromW+", "+tcp80+"}, {action: Deny, from: "+fromW+"}]",
			outlook{"no w/* → x/*", "yes w/* → x/*:80/tcp"}),
		bothTiers("one UDP port is denied",
			inX+", egress: [{action: Deny, to: "+fromW+", "+udp81+"}]", outlook{"no x/* → w/*:81/udp"}),
		bothTiers("a rule for SCTP touches nothing else",
			inX+", ingress: [{action: Deny, from: "+everyNS+", protocols: [{sctp: {destinationPort: {number: 80}}}]}]",
			outlook{"no * → x/*:80/sctp"}),
		bothTiers("some ports of one are denied, others passed, and of another some accepted",
			inX+", ingress: ["+portByPort("from")+"], egress: ["+portByPort("to")+"]",
			outlook{
				"no w/* → x/*:80/*", "no x/* → w/*:80/*", "no z/* → x/*", "no x/* → z/*",
				"yes z/* → x/*:81/*", "yes x/* → z/*:81/*",
			}),
		bothTiers("what a name means differs from pod to pod",
			"subject: {namespaces: {}}, ingress: [{action: Deny, from: "+fromW+", protocols: [{destinationNamedPort: serve-81-udp}, {sctp: {destinationPort: {number: 81}}}]}]",
			outlook{"no w/* → */*:81/udp", "no w/* → */*:81/sctp"}),
		bothTiers("networks with a port",
			xA+", egress: [{action: Deny, to: [{networks: [IP4[w/b]/32]}], "+tcp80+"}]", outlook{"no x/a → w/b:80/tcp 4"}),
		bothTiers("all of a protocol",
			inX+", ingress: [{action: Deny, from: "+everyNS+", protocols: [{udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]",
			outlook{"no * → x/*:*/udp"}),
		bothTiers("a range of ports",
			inX+", ingress: [{action: Deny, from: "+fromW+", protocols: [{tcp: {destinationPort: {range: {start: 81, end: 90}}}}]}]",
			outlook{"no w/* → x/*:81/tcp"}),
		bothTiers("a port by name",
			inX+", ingress: [{action: Deny, from: "+fromW+", protocols: [{destinationNamedPort: serve-80-udp}]}], egress: [{action: Deny, to: "+fromZ+", protocols: [{destinationNamedPort: serve-81-tcp}]}]",
			outlook{"no w/* → x/*:80/udp", "no x/* → z/*:81/tcp"}),
		bothTiers("networks are denied but for one that is accepted before",
			inX+`, egress: [{action: Accept, to: [{networks: [IP4[w/a]/32, "IP6[w/a]/128"]}]}, {action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}]`,
			outlook{"no x/* → *", "yes x/* → w/a"}),
		bothTiers("pods of some namespaces as peers",
			xA+", ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}}]}, {action: Deny, from: "+everyNS+"}]",
			outlook{"no * → x/a", "yes w/b → x/a"}),
		bothTiers("who passes is denied by no later rule of the tier",
			inX+", ingress: [{action: Pass, from: "+fromW+"}, {action: Deny, from: "+everyNS+"}]", outlook{"no * → x/*", "yes w/* → x/*"}),
	} {
		all = append(all, group...)
	}
	return append(all, betweenTiers...)
}

// betweenTiers are situations in which policies of several tiers have a say.
var betweenTiers = []situation{
	{
		"the lower priority number is asked first",
		tier("late", "Admin", 20, inX+", ingress: [{action: Deny, from: "+everyNS+"}]") +
			tier("early", "Admin", 10, inX+", ingress: [{action: Accept, from: "+fromW+"}]"),
		outlook{"no * → x/*", "yes w/* → x/*"},
	},
	{
		"of one priority the first by name is asked first",
		tier("b", "Admin", 10, inX+", ingress: [{action: Deny, from: "+everyNS+"}]") +
			tier("a", "Admin", 10, inX+", ingress: [{action: Accept, from: "+fromZ+"}]"),
		outlook{"no * → x/*", "yes z/* → x/*"},
	},
	{
		"a priority that is lowered lets the other policy decide",
		tier("b", "Admin", 9, inX+", ingress: [{action: Deny, from: "+everyNS+"}]") +
			tier("a", "Admin", 10, inX+", ingress: [{action: Accept, from: "+fromZ+"}]"),
		outlook{"no * → x/*"},
	},
	{
		"a passing policy in front of a denying one of the same tier leaves the tier",
		tier("pass", "Admin", 40, inX+", ingress: [{action: Pass, from: "+fromW+"}], egress: [{action: Pass, to: "+fromW+"}]") +
			tier("deny", "Admin", 50, inX+", ingress: [{action: Deny, from: "+fromW+"}], egress: [{action: Deny, to: "+fromW+"}]") +
			tier("default", "Baseline", 10, inX+", ingress: [{action: Accept, from: "+fromW+"}, {action: Deny, from: "+everyNS+"}]"),
		outlook{"no * → x/*", "yes w/* → x/*"},
	},
	{
		"what Admin accepts no NetworkPolicy denies",
		tier("admin", "Admin", 10, inX+", ingress: [{action: Accept, from: "+fromW+"}]") + policy("x", "deny", everyPod+", "+inward),
		outlook{"no * → x/*", "yes w/* → x/*"},
	},
	{
		"what Admin denies no NetworkPolicy allows",
		tier("admin", "Admin", 10, inX+", ingress: [{action: Deny, from: "+fromW+"}]") + policy("x", "allow", everyPod+", ingress: [{}]"),
		outlook{"no w/* → x/*"},
	},
	{
		"what Admin passes the NetworkPolicy decides, and the baseline no more",
		tier("admin", "Admin", 10, inX+", ingress: [{action: Pass, from: "+everyNS+"}]") +
			policy("x", "some", everyPod+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]") +
			tier("default", "Baseline", 10, inX+", ingress: [{action: Deny, from: "+everyNS+"}]"),
		outlook{"no * → x/*", "yes w/* → x/*"},
	},
	{
		"the baseline is for pods that no NetworkPolicy selects",
		policy("x", "some", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]") +
			tier("default", "Baseline", 10, inX+", ingress: [{action: Deny, from: "+fromW+"}]"),
		outlook{"no * → x/a", "no w/* → x/*", "yes w/* → x/a"},
	},
	{
		"what Admin passes and no NetworkPolicy selects is the baseline's",
		tier("admin", "Admin", 10, inX+", ingress: [{action: Pass, from: "+everyNS+"}]") +
			tier("default", "Baseline", 10, inX+", ingress: [{action: Deny, from: "+fromZ+"}]"),
		outlook{"no z/* → x/*"},
	},
	{
		"a NetworkPolicy of one direction leaves the other to the baseline",
		policy("x", "in", everyPod+", ingress: [{}]") +
			tier("default", "Baseline", 10, inX+", ingress: [{action: Deny, from: "+everyNS+"}], egress: [{action: Deny, to: "+fromZ+"}]"),
		outlook{"no x/* → z/*"},
	},
}

// Policy row 5: ClusterNetworkPolicies accept, deny and pass by tier, priority and order, with NetworkPolicies between the
// tiers, as the situations of their conformance suite ask.
func TestClusterNetworkPoliciesInATown(t *testing.T) {
	t.Parallel()
	s := newScene(t, "tiers", townYAML())
	s.shows(t, townCalls(), tierSituations()...)
	s.become(t, "")
	s.sees(t, nil, townCalls())
}
