// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

type facts = []*schemas.Fact

const (
	toBack  = "10.0.1.1 > 10.0.1.2:9090/TCP"
	toBack6 = "fd00:1::1 > [fd00:1::2]:9090/TCP"
	fromWeb = "10.0.2.1 > 10.0.1.2:9090/TCP"
	outside = "192.0.2.7 > 10.0.1.2:9090/TCP"
)

// words is what a judgement says in short: "allow", or where it ends and why.
func words(j Judgement) string {
	switch {
	case !j.Egress.Allowed():
		return "egress " + j.Egress.Action.String()
	case !j.Ingress.Allowed():
		return "ingress " + j.Ingress.Action.String()
	}
	return "allow"
}

// Policy row 1: selectors, blocks, ports and isolation of NetworkPolicies.
// Policy row 2: a block matches any address.
// Policy row 4: the pod's own node and the pod itself always pass.
// Policy row 6: a pod of hostNetwork is no pod to policies.
// Trap 43: names of ports resolve at each pod by itself.
// Trap 44: isolation is per direction, and an empty list of peers is everyone.
func TestNetworkPolicies(t *testing.T) {
	for _, test := range []struct {
		name     string
		policies facts
		conn     string
		want     string
	}{
		{"no policy", nil, toBack, "allow"},
		{"a policy without rules isolates", facts{ingress()}, toBack, "ingress isolate"},
		{"isolation is per direction: what the pod sends passes", facts{ingress()}, "10.0.1.2 > 10.0.1.1:80/TCP", "allow"},
		{"and what comes to one that is isolated for egress", facts{egress()}, "10.0.1.2 > 10.0.1.1:80/TCP", "allow"},
		{"egress isolates", facts{egress()}, toBack, "egress isolate"},
		{"pods that aren't selected aren't isolated", facts{ingress()}, "10.0.1.2 > 10.0.2.2:80/TCP", "allow"},
		{"no rule, an empty selector: all pods of the namespace", facts{np("all", "", &schemas.NetworkPolicy{IsolatesIngress: true})}, "10.0.2.1 > 10.0.1.1:80/TCP", "ingress isolate"},
		{"and of no other", facts{np("all", "", &schemas.NetworkPolicy{IsolatesIngress: true})}, "10.0.1.1 > 10.0.2.1:80/TCP", "allow"},
		{"missing or empty from: everyone", facts{ingress(everyone)}, outside, "allow"},
		{"a list of ports, missing from", facts{ingress(at(everyone, "9090/TCP"))}, outside, "allow"},
		{"of other ports", facts{ingress(at(everyone, "80/TCP"))}, outside, "ingress isolate"},
		{"both ends must allow", facts{egress(everyone), ingress()}, toBack, "ingress isolate"},
		{"union: one policy that allows is enough", facts{ingress(), np("more", "has:tier", &schemas.NetworkPolicy{IsolatesIngress: true, Ingress: []*schemas.PolicyRule{everyone}})}, toBack, "allow"},

		{"podSelector alone is the own namespace", facts{ingress(rule(podsOf("app=front")))}, toBack, "allow"},
		{"and not the same labels elsewhere", facts{ingress(rule(podsOf("app=gate")))}, fromWeb, "ingress isolate"},
		{"an empty podSelector is all pods of the own namespace", facts{ingress(rule(podsOf("")))}, toBack, "allow"},
		{"but not of others", facts{ingress(rule(podsOf("")))}, fromWeb, "ingress isolate"},
		{"namespaceSelector alone is all pods there", facts{ingress(rule(podsIn("kubernetes.io/metadata.name=web", "")))}, fromWeb, "allow"},
		{"both must match", facts{ingress(rule(podsIn("kubernetes.io/metadata.name=web", "app=back")))}, fromWeb, "ingress isolate"},
		{"two peers: either", facts{ingress(rule(podsIn("kubernetes.io/metadata.name=shop", ""), podsIn("", "app=gate")))}, fromWeb, "allow"},
		{"an empty namespaceSelector is every namespace", facts{ingress(rule(podsIn("", "")))}, fromWeb, "allow"},
		{"a namespace that isn't known has its name as label, and no other", facts{ingress(rule(podsIn("no:team", "")))}, fromWeb, "allow"},
		{"selectors never match addresses outside", facts{ingress(rule(podsIn("", "")))}, outside, "ingress isolate"},
		{"nor nodes", facts{ingress(rule(podsIn("", "")))}, "172.20.0.2 > 10.0.1.2:80/TCP", "ingress isolate"},
		{"a pod in the network of node a is no peer", facts{egress(rule(podsOf("app=back")))}, "10.0.1.1 > 172.20.0.1:80/TCP", "egress isolate"},
		{"and no subject", facts{np("all", "", &schemas.NetworkPolicy{IsolatesEgress: true})}, "172.20.0.1 > 10.0.2.1:80/TCP", "allow"},
		{"a pod that has finished is no peer", facts{egress(rule(podsOf("app=back")))}, "10.0.1.1 > 10.0.1.9:80/TCP", "egress isolate"},

		{"NotIn matches pods without the key", facts{ingress(rule(podsOf("tier!=x|y")))}, toBack, "allow"},
		{"NotIn and its value", facts{ingress(rule(podsOf("app!=x|front")))}, toBack, "ingress isolate"},
		{"DoesNotExist matches pods without the key", facts{ingress(rule(podsOf("no:tier")))}, toBack, "allow"},
		{"matchLabels with an empty value needs the key", facts{ingress(rule(podsOf("tier=")))}, toBack, "ingress isolate"},
		{"and matches it", facts{egress(rule(podsOf("tier=")))}, toBack, "allow"},
		{"an empty value of a namespace", facts{egress(rule(podsIn("empty=", "")))}, "10.0.1.1 > 10.0.2.1:80/TCP", "egress isolate"},
		{"Exists", facts{ingress(rule(podsOf("has:app")))}, toBack, "allow"},

		{"a block matches pods", facts{ingress(rule(block("10.0.0.0/8")))}, toBack, "allow"},
		{"and nodes", facts{ingress(rule(block("172.20.0.0/16")))}, "172.20.0.2 > 10.0.1.2:80/TCP", "allow"},
		{"and what is outside", facts{ingress(rule(block("192.0.2.0/24")))}, outside, "allow"},
		{"except carves out", facts{ingress(rule(block("10.0.0.0/8", "10.0.1.0/24")))}, toBack, "ingress isolate"},
		{"of that block alone", facts{ingress(rule(block("10.0.0.0/8", "10.0.1.0/24"), block("10.0.1.1/32")))}, toBack, "allow"},
		{"0.0.0.0/0 is IPv4", facts{ingress(rule(block("0.0.0.0/0")))}, toBack6, "ingress isolate"},
		{"::/0 is IPv6", facts{ingress(rule(block("::/0")))}, toBack6, "allow"},
		{"and not IPv4", facts{ingress(rule(block("::/0")))}, toBack, "ingress isolate"},
		{"no block, no selector: no one", facts{ingress(rule())}, toBack, "ingress isolate"},

		{"a port", facts{ingress(at(everyone, "9090/TCP"))}, toBack, "allow"},
		{"of another protocol", facts{ingress(at(everyone, "9090/UDP"))}, toBack, "ingress isolate"},
		{"endPort is inclusive", facts{ingress(at(everyone, "9000-9090/TCP"))}, toBack, "allow"},
		{"and the end", facts{ingress(at(everyone, "9000-9089/TCP"))}, toBack, "ingress isolate"},
		{"the first of a range", facts{ingress(at(everyone, "9090-65535/TCP"))}, toBack, "allow"},
		{"a protocol alone is all its ports", facts{ingress(at(everyone, "/TCP"))}, toBack, "allow"},
		{"SCTP isolates and opens no TCP", facts{ingress(at(everyone, "/SCTP"))}, toBack, "ingress isolate"},
		{"but SCTP", facts{ingress(at(everyone, "/SCTP"))}, "10.0.1.1 > 10.0.1.2:9090/SCTP", "allow"},
		{"ICMP by a rule without ports", facts{ingress(everyone)}, "10.0.1.1 > 10.0.1.2:0/ICMP", "allow"},
		{"not by one with ports", facts{ingress(at(everyone, "/TCP", "/UDP", "/SCTP"))}, "10.0.1.1 > 10.0.1.2:0/ICMP", "ingress isolate"},
		{"peer and port of one rule", facts{ingress(at(rule(podsOf("app=gate")), "9090/TCP"), at(rule(podsOf("app=front")), "80/TCP"))}, toBack, "ingress isolate"},

		{"a named port is the pod's own", facts{ingress(at(everyone, "http/TCP"))}, toBack, "allow"},
		{"and no other number", facts{ingress(at(everyone, "http/TCP"))}, "10.0.1.1 > 10.0.1.2:8080/TCP", "ingress isolate"},
		{"by protocol", facts{ingress(at(everyone, "http/UDP"))}, "10.0.1.1 > 10.0.1.2:9091/UDP", "allow"},
		{"and of no other protocol", facts{ingress(at(everyone, "dns/TCP"))}, "10.0.1.1 > 10.0.1.2:53/TCP", "ingress isolate"},
		{"of two of its ports with a name and a protocol the first is meant", facts{ingress(at(everyone, "dns/UDP"))}, "10.0.1.1 > 10.0.1.2:54/UDP", "ingress isolate"},
		{"and no other one", facts{ingress(at(everyone, "dns/UDP"))}, "10.0.1.1 > 10.0.1.2:53/UDP", "allow"},
		{"a name that no pod has allows nothing", facts{ingress(at(everyone, "none/TCP"))}, toBack, "ingress isolate"},
		{"ingress: the own name holds for blocks, too", facts{ingress(at(rule(block("192.0.2.0/24")), "http/TCP"))}, outside, "allow"},
		{"egress: each peer's own number", facts{egress(at(rule(podsIn("", "app=back")), "http/TCP"))}, toBack, "allow"},
		{"of another pod", facts{egress(at(rule(podsIn("", "app=back")), "http/TCP"))}, "10.0.1.1 > 10.0.2.2:80/TCP", "allow"},
		{"not that of the other", facts{egress(at(rule(podsIn("", "app=back")), "http/TCP"))}, "10.0.1.1 > 10.0.2.2:9090/TCP", "egress isolate"},
		{"egress to everyone at a name: pods that have it", facts{egress(at(everyone, "http/TCP"))}, toBack, "allow"},
		{"and no one else", facts{egress(at(everyone, "http/TCP"))}, "10.0.1.1 > 192.0.2.7:9090/TCP", "egress isolate"},
		{"blocks have no names of ports", facts{egress(at(rule(block("10.0.0.0/8")), "http/TCP"))}, toBack, "egress isolate"},

		{"a pod reaches itself", facts{np("all", "", &schemas.NetworkPolicy{IsolatesIngress: true, IsolatesEgress: true})}, "10.0.1.1 > 10.0.1.1:80/TCP", "allow"},
		{"its own node reaches it", facts{ingress()}, "172.20.0.1 > 10.0.1.2:80/TCP", "allow"},
		{"by any of its addresses", facts{ingress()}, "fd00:20::1 > [fd00:1::2]:80/TCP", "allow"},
		{"another node doesn't", facts{ingress()}, "172.20.0.2 > 10.0.1.2:80/TCP", "ingress isolate"},
		{"nor does it reach its node", facts{egress()}, "10.0.1.1 > 172.20.0.1:80/TCP", "egress isolate"},
		{"but by a block", facts{egress(rule(block("172.20.0.1/32")))}, "10.0.1.1 > 172.20.0.1:80/TCP", "allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := words(cluster(test.policies...).Judge(connect(test.conn))); got != test.want {
				t.Errorf("%s: %s, want %s", test.conn, got, test.want)
			}
		})
	}
}

// Policy row 5: tiers, priorities and the three actions.
func TestTiers(t *testing.T) {
	front := podsIn("kubernetes.io/metadata.name=shop", "app=front")
	for _, test := range []struct {
		name     string
		policies facts
		conn     string
		want     string
	}{
		{"Deny", facts{cnp("x", 1, act(deny, rule(front)))}, toBack, "ingress deny"},
		{"of others not", facts{cnp("x", 1, act(deny, rule(front)))}, fromWeb, "allow"},
		{"a policy without rules for a direction has no say there", facts{cnp("x", 1)}, toBack, "allow"},
		{"a subject in any namespace", facts{cnp("x", 1, act(deny, rule(front)))}, "10.0.1.1 > 10.0.2.2:80/TCP", "ingress deny"},
		{"Accept comes before isolation", facts{cnp("x", 1, act(accept, rule(front))), ingress()}, toBack, "allow"},
		{"Deny comes before a NetworkPolicy that allows", facts{cnp("x", 1, act(deny, rule(front))), ingress(everyone)}, toBack, "ingress deny"},
		{"Pass leaves it to NetworkPolicies", facts{cnp("x", 1, act(pass, rule(front)), act(accept, everyone)), ingress()}, toBack, "ingress isolate"},
		{"also those of later policies of the tier", facts{cnp("x", 1, act(pass, rule(front))), cnp("y", 2, act(deny, everyone))}, toBack, "allow"},
		{"Pass, and no NetworkPolicy: the baseline", facts{cnp("x", 1, act(pass, rule(front))), baseline(cnp("base", 0, act(deny, everyone)))}, toBack, "ingress deny"},
		{"the first rule that matches", facts{cnp("x", 1, act(accept, rule(front)), act(deny, everyone))}, toBack, "allow"},
		{"the lower priority first", facts{cnp("a", 2, act(deny, everyone)), cnp("z", 1, act(accept, everyone))}, toBack, "allow"},
		{"of the same priority by name", facts{cnp("z", 1, act(deny, everyone)), cnp("a", 1, act(accept, everyone))}, toBack, "allow"},
		{"the baseline is of pods that no NetworkPolicy selects", facts{baseline(cnp("base", 0, act(deny, everyone))), ingress(everyone)}, toBack, "allow"},
		{"the baseline allows nothing that is isolated", facts{baseline(cnp("base", 0, act(accept, everyone))), ingress()}, toBack, "ingress isolate"},
		{"a NetworkPolicy of the other direction leaves the baseline", facts{baseline(cnp("base", 0, act(deny, everyone))), np("out", "app=back", &schemas.NetworkPolicy{IsolatesEgress: true})}, toBack, "ingress deny"},
		{"Pass in the baseline allows", facts{baseline(cnp("base", 0, act(pass, everyone))), baseline(cnp("last", 9, act(deny, everyone)))}, toBack, "allow"},
		{"without protocols every protocol", facts{cnp("x", 1, act(deny, rule(front)))}, "10.0.1.1 > 10.0.1.2:0/ICMP", "ingress deny"},
		{"with protocols no other", facts{cnp("x", 1, at(act(deny, rule(front)), "/TCP"))}, "10.0.1.1 > 10.0.1.2:0/ICMP", "allow"},
		{"a named port without a protocol is any of the name", facts{cnp("x", 1, at(act(deny, rule(front)), "http/"))}, "10.0.1.1 > 10.0.1.2:9091/UDP", "ingress deny"},
		{"and its own protocol", facts{cnp("x", 1, at(act(deny, rule(front)), "http/"))}, "10.0.1.1 > 10.0.1.2:9091/TCP", "allow"},
		{"the own node passes even so", facts{cnp("x", 1, act(deny, everyone))}, "172.20.0.1 > 10.0.1.2:80/TCP", "allow"},
		{"an unknown peer accepts no one", facts{cnp("x", 1, act(accept, rule(unknown("domainNames")))), ingress()}, toBack, "ingress isolate"},
		{"the peers beside it count", facts{cnp("x", 1, act(accept, rule(unknown("domainNames"), front))), ingress()}, toBack, "allow"},
		{"an unknown peer denies everyone", facts{cnp("x", 1, at(act(deny, rule(unknown("domainNames"))), "80/TCP"))}, toBack, "ingress deny"},
		{"instead of passing, too", facts{cnp("x", 1, act(pass, rule(unknown("domainNames"))))}, toBack, "ingress deny"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := words(cluster(test.policies...).Judge(connect(test.conn))); got != test.want {
				t.Errorf("%s: %s, want %s", test.conn, got, test.want)
			}
		})
	}
}

// Policy row 5: nodes and networks as peers of what pods send.
func TestClusterEgress(t *testing.T) {
	send := func(r ...*schemas.PolicyRule) *schemas.Fact {
		fact := cnp("x", 1)
		fact.GetClusterNetworkPolicy().Egress = r
		return fact
	}
	for _, test := range []struct {
		name   string
		policy *schemas.Fact
		conn   string
		want   string
	}{
		{"nodes by their labels", send(act(deny, rule(nodesWith("role=db")))), "10.0.1.2 > 172.20.0.2:80/TCP", "egress deny"},
		{"by each address", send(act(deny, rule(nodesWith("role=db")))), "fd00:1::2 > [fd00:20::2]:80/TCP", "egress deny"},
		{"not others", send(act(deny, rule(nodesWith("role=db")))), "10.0.1.2 > 172.20.0.1:80/TCP", "allow"},
		{"an empty selector is all nodes", send(act(deny, rule(nodesWith("")))), "10.0.1.2 > 172.20.0.1:80/TCP", "egress deny"},
		{"pods of a node are no node", send(act(deny, rule(nodesWith("")))), "10.0.1.2 > 10.0.2.1:80/TCP", "allow"},
		{"networks match pods", send(act(deny, rule(block("0.0.0.0/0")))), "10.0.1.2 > 10.0.2.1:80/TCP", "egress deny"},
		{"a named port of nodes is none", send(at(act(deny, rule(nodesWith(""))), "http/")), "10.0.1.2 > 172.20.0.1:8080/TCP", "allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := words(cluster(test.policy).Judge(connect(test.conn))); got != test.want {
				t.Errorf("%s: %s, want %s", test.conn, got, test.want)
			}
		})
	}
}

// Policy row 9: what can't be understood closes the pods that it selects, before all tiers, and no others.
func TestRefusedPoliciesClose(t *testing.T) {
	refused := func(fact *schemas.Fact) *schemas.Fact {
		if p := fact.GetNetworkPolicy(); p != nil {
			p.Refused = "it is too large"
		} else {
			fact.GetClusterNetworkPolicy().Refused = "it is too large"
		}
		return fact
	}
	broken := ingress(rule(block("10.0.0.0/33")))
	unreadable := ingress(everyone)
	unreadable.GetNetworkPolicy().Pods.Terms[0].Operator = 9
	for _, test := range []struct {
		name     string
		policies facts
		conn     string
		want     string
	}{
		{"what it isolates", facts{refused(ingress(everyone))}, toBack, "ingress closed"},
		{"not the other direction", facts{refused(ingress(everyone))}, "10.0.1.2 > 10.0.1.1:80/TCP", "allow"},
		{"not others", facts{refused(ingress(everyone))}, "10.0.2.1 > 10.0.1.1:80/TCP", "allow"},
		{"wins over an admin's Accept", facts{refused(ingress(everyone)), cnp("x", 1, act(accept, everyone))}, toBack, "ingress closed"},
		{"a ClusterNetworkPolicy closes where it has rules", facts{refused(cnp("x", 1, act(accept, everyone)))}, toBack, "ingress closed"},
		{"and nowhere else", facts{refused(cnp("x", 1, act(accept, everyone)))}, "10.0.1.2 > 10.0.1.1:80/TCP", "allow"},
		{"a baseline closes, too", facts{refused(baseline(cnp("x", 1, act(accept, everyone)))), ingress(everyone)}, toBack, "ingress closed"},
		{"the own node passes even so", facts{refused(ingress())}, "172.20.0.1 > 10.0.1.2:80/TCP", "allow"},
		{"what names no direction closes both", facts{refused(np("in", "app=back", &schemas.NetworkPolicy{}))}, toBack, "ingress closed"},
		{"what names no pods closes the namespace", facts{{Object: object("NetworkPolicy", "shop", "x"), State: &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{}}}}, toBack, "egress closed"},
		{"a CIDR that is none", facts{broken}, toBack, "ingress closed"},
		{"a selector that can't be read closes the namespace", facts{unreadable}, "10.0.2.1 > 10.0.1.1:80/TCP", "ingress closed"},
		{"and no other namespace", facts{unreadable}, "10.0.1.1 > 10.0.2.2:80/TCP", "allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := words(cluster(test.policies...).Judge(connect(test.conn))); got != test.want {
				t.Errorf("%s: %s, want %s", test.conn, got, test.want)
			}
		})
	}
	limited := New(facts{podFact("shop/back", "a", "10.0.1.2", "app=back"), ingress(everyone)},
		map[model.PolicyName]string{{Kind: model.NetworkPolicy, Namespace: "shop", Name: "in"}: "it has too many blocks"})
	if got := words(limited.Judge(connect(toBack))); got != "ingress closed" {
		t.Errorf("a policy that the compiler has no room for: %s, want ingress closed", got)
	}
}

// A verdict depends on the objects that there are, and not on the order in which they came.
func TestOrderOfFactsMeansNothing(t *testing.T) {
	all := facts{
		cnp("x", 1, act(pass, everyone)), baseline(cnp("y", 1, act(deny, everyone))), ingress(), egress(everyone),
		np("more", "", &schemas.NetworkPolicy{IsolatesIngress: true, Ingress: []*schemas.PolicyRule{rule(podsOf("app=front"))}}),
	}
	forwards := cluster(all...).Judge(connect(toBack))
	for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
		all[i], all[j] = all[j], all[i]
	}
	if backwards := cluster(all...).Judge(connect(toBack)); words(forwards) != words(backwards) || *forwards.Ingress.Rule != *backwards.Ingress.Rule {
		t.Errorf("forwards %s by %s, backwards %s by %s", words(forwards), forwards.Ingress.Rule, words(backwards), backwards.Ingress.Rule)
	}
}
