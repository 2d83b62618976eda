// SPDX-License-Identifier: Apache-2.0

package kernel

import "testing"

// The words of these specs that come up again and again.
const (
	everyPod  = "podSelector: {}"
	podA      = "podSelector: {matchLabels: {pod: a}}"
	bothWays  = "policyTypes: [Ingress, Egress]"
	inward    = "policyTypes: [Ingress]"
	outward   = "policyTypes: [Egress]"
	toDNSOnly = "egress: [{ports: [{protocol: UDP, port: 53}]}]"
)

var ingressSituations = []situation{
	{"no one reaches a namespace that denies ingress", policy("x", "deny", everyPod+", "+inward), outlook{"no * → x/*"}},
	{"an empty list of rules is no rule", policy("x", "deny", everyPod+", "+inward+", ingress: []"), outlook{"no * → x/*"}},
	{"an empty rule allows everyone", policy("x", "allow", everyPod+", ingress: [{}]"), nil},
	{"an empty from allows everyone", policy("x", "allow", everyPod+", ingress: [{from: []}]"), nil},
	{
		"an empty pod selector as peer is the policy's own namespace", policy("x", "own", everyPod+", ingress: [{from: [{podSelector: {}}]}]"),
		outlook{"no * → x/*", "yes x/* → x/*"},
	},
	{
		"an empty namespace selector as peer is every pod", policy("x", "all", everyPod+", ingress: [{from: [{namespaceSelector: {}}]}]"),
		nil,
	},
	{
		"pods of the own namespace by label", policy("x", "b", podA+", ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]"),
		outlook{"no * → x/a", "yes x/b → x/a"},
	},
	{
		"another namespace by label", policy("x", "w", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]"),
		outlook{"no * → x/a", "yes w/* → x/a"},
	},
	{
		"a namespace by the name that it always has as a label",
		policy("x", "named", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]"),
		outlook{"no * → x/a", "yes z/* → x/a"},
	},
	{
		"pods by expressions", policy("x", "in", podA+", ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]}]"),
		outlook{"no * → x/a", "yes x/b → x/a"},
	},
	{
		"namespaces by expressions", policy("x", "in", podA+", ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [w]}]}}]}]"),
		outlook{"no * → x/a", "yes w/* → x/a"},
	},
	{
		"NotIn fits who has no such label", policy("x", "notin", podA+", ingress: [{from: [{podSelector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}}]}]"),
		outlook{"no * → x/a", "yes x/* → x/a"},
	},
	{
		"DoesNotExist fits who has no such label, Exists doesn't",
		policy("x", "exists", podA+", ingress: [{from: [{podSelector: {matchExpressions: [{key: team, operator: Exists}]}}, {podSelector: {matchExpressions: [{key: team, operator: DoesNotExist}, {key: pod, operator: In, values: [c]}]}}]}]"),
		outlook{"no * → x/a", "yes x/c → x/a"},
	},
	{
		"a value that is empty needs the label", policy("x", "empty", podA+`, ingress: [{from: [{podSelector: {matchLabels: {team: ""}}}]}]`),
		outlook{"no * → x/a"},
	},
	{
		"all namespaces but one, by the name that it always has as a label",
		policy("x", "others", podA+", ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x, w]}]}}]}]"),
		outlook{"no * → x/a", "yes z/* → x/a"},
	},
	{
		"either of two pod selectors", policy("x", "either", podA+", ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}]}]"),
		outlook{"no * → x/a", "yes x/b → x/a", "yes x/c → x/a"},
	},
	{
		"either of two peers", policy("x", "either", podA+", ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {ns: w}}}]}]"),
		outlook{"no * → x/a", "yes x/b → x/a", "yes w/* → x/a"},
	},
	{
		"both selectors of one peer", policy("x", "both", podA+", ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: w}}}]}]"),
		outlook{"no * → x/a", "yes w/b → x/a"},
	},
	{
		"several peers of both selectors",
		policy("x", "many", podA+", ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}, namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}]}]"),
		outlook{"no * → x/a", "yes w/b → x/a", "yes w/c → x/a", "yes z/b → x/a", "yes z/c → x/a"},
	},
	{
		"one port", policy("x", "port", podA+", ingress: [{ports: [{port: 81}]}]"),
		outlook{"no * → x/a", "yes * → x/a:81/tcp"},
	},
	{
		"one port from one namespace", policy("x", "port", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 81, protocol: TCP}]}]"),
		outlook{"no * → x/a", "yes w/* → x/a:81/tcp"},
	},
	{
		"policies add up",
		policy("x", "one", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 81}]}]") +
			policy("x", "two", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 80}]}]"),
		outlook{"no * → x/a", "yes w/* → x/a:*/tcp"},
	},
	{
		"policies whose selectors overlap",
		policy("x", "one", "podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]") +
			policy("x", "two", "podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}, ingress: [{ports: [{port: 80}]}]"),
		outlook{"no * → x/*", "yes w/* → x/a", "yes w/* → x/b", "yes * → x/b:80/tcp", "yes * → x/c:80/tcp"},
	},
	{
		"rules of one policy add up",
		policy("x", "two", podA+", ingress: [{ports: [{port: 80}]}, {from: [{podSelector: {matchLabels: {pod: c}}}], ports: [{port: 81, protocol: UDP}]}]"),
		outlook{"no * → x/a", "yes * → x/a:80/tcp", "yes x/c → x/a:81/udp"},
	},
	{
		"an allowing policy beside a denying one", policy("x", "deny", everyPod+", "+inward) + policy("x", "allow", everyPod+", ingress: [{}]"),
		nil,
	},
	{
		"a port by name", policy("x", "name", podA+", ingress: [{ports: [{port: serve-81-tcp}]}]"),
		outlook{"no * → x/a", "yes * → x/a:81/tcp"},
	},
	{
		"a port by name, for one namespace", policy("x", "name", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: serve-81-tcp}]}]"),
		outlook{"no * → x/a", "yes w/* → x/a:81/tcp"},
	},
	{
		"a port's name is of its protocol", policy("x", "name", podA+", ingress: [{ports: [{port: serve-81-tcp, protocol: UDP}]}]"),
		outlook{"no * → x/a"},
	},
	{
		"a name that no port has allows nothing", policy("x", "name", podA+", ingress: [{ports: [{port: serve-99}]}]"),
		outlook{"no * → x/a"},
	},
	{
		"a range of ports", policy("x", "range", podA+", ingress: [{ports: [{port: 81, endPort: 65535}, {port: 1, endPort: 80, protocol: UDP}]}]"),
		outlook{"no * → x/a", "yes * → x/a:81/tcp", "yes * → x/a:80/udp"},
	},
	{
		"a rule for SCTP opens no TCP or UDP", policy("x", "sctp", podA+", ingress: [{ports: [{port: 80, protocol: SCTP}]}]"),
		outlook{"no * → x/a", "yes * → x/a:80/sctp"},
	},
	{
		"a range of SCTP ports", policy("x", "sctp", podA+", ingress: [{ports: [{port: 1, endPort: 80, protocol: SCTP}]}]"),
		outlook{"no * → x/a", "yes * → x/a:80/sctp"},
	},
	{
		"UDP alone", policy("x", "udp", podA+", ingress: [{ports: [{protocol: UDP}]}]"),
		outlook{"no * → x/a", "yes * → x/a:*/udp"},
	},
}

var egressSituations = []situation{
	{"a namespace that reaches no one", policy("x", "deny", everyPod+", "+outward), outlook{"no x/* → *"}},
	{"no one in or out", policy("x", "deny", everyPod+", "+bothWays), outlook{"no x/* → *", "no * → x/*"}},
	{"egress rules alone make Egress a type", policy("x", "dns", everyPod+", "+toDNSOnly), outlook{"no x/* → *", "no * → x/*"}},
	{"egress of one type leaves ingress open", policy("x", "dns", everyPod+", "+outward+", "+toDNSOnly), outlook{"no x/* → *"}},
	{"an empty egress rule allows everyone", policy("x", "open", everyPod+", "+outward+", egress: [{}]"), nil},
	{
		"one pod to a namespace", policy("x", "out", podA+", "+outward+", egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]"),
		outlook{"no x/a → *", "yes x/a → w/*"},
	},
	{
		"one pod to one pod elsewhere", policy("x", "out", podA+", "+outward+", egress: [{to: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: w}}}]}]"),
		outlook{"no x/a → *", "yes x/a → w/b"},
	},
	{
		"to a port", policy("x", "out", podA+", "+outward+", egress: [{ports: [{port: 80}]}]"),
		outlook{"no x/a → *", "yes x/a → *:80/tcp"},
	},
	{
		"to a port by the name that the peer gives it", policy("x", "out", podA+", "+outward+", egress: [{ports: [{port: serve-80-udp, protocol: UDP}]}]"),
		outlook{"no x/a → *", "yes x/a → *:80/udp"},
	},
	{
		"policies add up",
		policy("x", "one", podA+", "+outward+", egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]") +
			policy("x", "two", podA+", "+outward+", egress: [{ports: [{port: 81}]}]"),
		outlook{"no x/a → *", "yes x/a → w/*", "yes x/a → *:81/tcp"},
	},
	{
		"an allowing egress policy beside a denying one", policy("x", "deny", everyPod+", "+outward) + policy("x", "allow", everyPod+", "+outward+", egress: [{}]"),
		nil,
	},
	{
		"to a range of ports of one namespace",
		policy("x", "out", podA+", "+outward+", egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 80, endPort: 81, protocol: UDP}, {port: 81, endPort: 90, protocol: SCTP}]}]"),
		outlook{"no x/a → *", "yes x/a → w/*:*/udp", "no x/a → w/*:0/*", "yes x/a → w/*:81/sctp"},
	},
	{
		"what the server allows the client's policy still denies",
		policy("x", "out", podA+", "+outward) + policy("w", "in", everyPod+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}}]}]"),
		outlook{"no * → w/*", "yes x/* → w/*", "no x/a → *"},
	},
	{
		"both ends have a say",
		policy("x", "out", podA+", "+outward+", egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]") +
			policy("w", "in", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]"),
		outlook{"no x/a → *", "yes x/a → w/*", "no * → w/a", "yes z/* → w/a"},
	},
	{
		"ingress and egress of one policy",
		policy("x", "both", podA+", "+bothWays+", ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: [{to: [{podSelector: {matchLabels: {pod: c}}}]}]"),
		outlook{"no x/a → *", "yes x/a → x/c", "no * → x/a", "yes x/b → x/a"},
	},
}

var blockSituations = []situation{
	{
		"to one address, at one port", policy("x", "block", podA+", "+outward+", egress: [{to: [{ipBlock: {cidr: IP4[w/b]/32}}], ports: [{port: 80}]}]"),
		outlook{"no x/a → *", "yes x/a → w/b:80/tcp 4"},
	},
	{
		"an address's ports have no names", policy("x", "block", podA+", "+outward+", egress: [{to: [{ipBlock: {cidr: IP4[w/b]/32}}], ports: [{port: serve-80-tcp}]}]"),
		outlook{"no x/a → *"},
	},
	{
		"to one address", policy("x", "block", podA+", "+outward+", egress: [{to: [{ipBlock: {cidr: IP4[w/b]/32}}, {ipBlock: {cidr: IP6[w/c]/128}}]}]"),
		outlook{"no x/a → *", "yes x/a → w/b:*/* 4", "yes x/a → w/c:*/* 6"},
	},
	{
		"all of IPv4 is no IPv6", policy("x", "block", podA+", "+outward+", egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]"),
		outlook{"no x/a → *:*/* 6"},
	},
	{
		"all but one", policy("x", "block", podA+", "+outward+`, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [IP4[w/b]/32]}}, {ipBlock: {cidr: "::/0", except: ["IP6[w/c]/128"]}}]}]`),
		outlook{"no x/a → w/b:*/* 4", "no x/a → w/c:*/* 6"},
	},
	{
		"what one policy excepts another may allow",
		policy("x", "but", podA+", "+outward+", egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [IP4[w/b]/32]}}]}]") +
			policy("x", "and", podA+", "+outward+", egress: [{to: [{ipBlock: {cidr: IP4[w/b]/32}}]}]"),
		outlook{"no x/a → *:*/* 6"},
	},
	{
		"from one address", policy("x", "block", podA+", ingress: [{from: [{ipBlock: {cidr: IP4[z/c]/32}}]}]"),
		outlook{"no * → x/a", "yes z/c → x/a:*/* 4"},
	},
	{
		"blocks within blocks, with a port each",
		policy("x", "block", podA+", ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 80}]}, {from: [{ipBlock: {cidr: IP4[z/c]/32}}], ports: [{port: 81}]}]"),
		outlook{"no * → x/a", "yes * → x/a:80/tcp 4", "yes z/c → x/a:81/tcp 4"},
	},
	{
		"a block and a selector that both fit", policy("x", "block", podA+", ingress: [{from: [{ipBlock: {cidr: IP4[x/b]/32}}], ports: [{port: 80}]}, {from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 81}]}]"),
		outlook{"no * → x/a", "yes x/b → x/a:80/tcp 4", "yes x/b → x/a:81/tcp"},
	},
}

// Policy row 1: NetworkPolicies with selectors, ports, ranges and names isolate and allow as their specification says, each
// seen by all pods of a town.
// Policy row 2: blocks match pods of any node, with what they except, in one family alone.
// Policy row 10: a range of ports is as long as it says.
// Trap 44: missing and empty lists differ, isolation is by direction, and blocks see backends.
func TestNetworkPoliciesInATown(t *testing.T) {
	t.Parallel()
	s := newScene(t, "town", townYAML())
	s.sees(t, nil, townCalls())
	s.shows(t, townCalls(), ingressSituations...)
	s.shows(t, townCalls(), egressSituations...)
	s.shows(t, townCalls(), blockSituations...)
	s.become(t, "")
	s.sees(t, nil, townCalls())
}
