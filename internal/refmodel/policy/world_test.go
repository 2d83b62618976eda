// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// The cluster of the tests: nodes a and b; pods shop/front, shop/back (a), web/gate, web/back (b), all in both families,
// and shop/agent in node a's own network.
func cluster(policies ...*schemas.Fact) *Cluster {
	facts := []*schemas.Fact{
		{Object: object("Namespace", "", "shop"), State: &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: pairs("team=shop,empty=")}}},
		{Object: object("Node", "", "a"), State: &schemas.Fact_Node{Node: &schemas.Node{Addresses: raw("172.20.0.1,fd00:20::1"), Labels: pairs("role=worker")}}},
		{Object: object("Node", "", "b"), State: &schemas.Fact_Node{Node: &schemas.Node{Addresses: raw("172.20.0.2,fd00:20::2"), Labels: pairs("role=db")}}},
		podFact("shop/front", "a", "10.0.1.1,fd00:1::1", "app=front", "http=8080/TCP"),
		podFact("shop/back", "a", "10.0.1.2,fd00:1::2", "app=back,tier=", "http=9090/TCP,http=9091/UDP,dns=53/UDP,dns=54/UDP"),
		podFact("web/gate", "b", "10.0.2.1,fd00:2::1", "app=gate"),
		podFact("web/back", "b", "10.0.2.2,fd00:2::2", "app=back", "http=80/TCP"),
		podFact("shop/agent", "a", "172.20.0.1", "app=back"),
		podFact("shop/done", "a", "10.0.1.9", "app=back"),
	}
	facts[len(facts)-2].GetPod().HostNetwork = true
	facts[len(facts)-1].GetPod().Finished = true
	return New(append(facts, policies...), nil)
}

func object(kind, namespace, name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: kind, Namespace: namespace, Name: name}
}

// podFact reads "namespace/name", addresses, labels "key=value,…" and ports "name=number/PROTOCOL,…".
func podFact(name, node, addrs, labels string, ports ...string) *schemas.Fact {
	namespace, bare, _ := strings.Cut(name, "/")
	p := &schemas.Pod{Node: node, Addresses: raw(addrs), Labels: pairs(labels)}
	for port := range strings.SplitSeq(strings.Join(ports, ","), ",") {
		if key, value, ok := strings.Cut(port, "="); ok {
			number, protocol, _ := strings.Cut(value, "/")
			p.Ports = append(p.Ports, &schemas.EndpointPort{Name: key, Port: number32(number), Protocol: protocolOf(protocol)})
		}
	}
	return &schemas.Fact{Object: object("Pod", namespace, bare), State: &schemas.Fact_Pod{Pod: p}}
}

func raw(addrs string) (all [][]byte) {
	for a := range strings.SplitSeq(addrs, ",") {
		all = append(all, netip.MustParseAddr(a).AsSlice())
	}
	return all
}

func pairs(text string) map[string]string {
	all := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			all[key] = value
		}
	}
	return all
}

func number32(text string) uint32 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

func protocolOf(text string) schemas.Protocol {
	p, err := model.ParseProtocol(text)
	if err != nil {
		panic(err)
	}
	return schemas.Protocol(p)
}

// selector reads "app=back tier!=x has:key no:key app=a|b": terms apart by spaces, values by |.
func selector(text string) *schemas.Selector {
	s := &schemas.Selector{}
	for word := range strings.FieldsSeq(text) {
		term := &schemas.SelectorTerm{Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_IN}
		key, values, _ := strings.Cut(word, "=")
		switch {
		case strings.HasPrefix(word, "has:"):
			term.Operator, key = schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS, word[4:]
		case strings.HasPrefix(word, "no:"):
			term.Operator, key = schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST, word[3:]
		case strings.HasSuffix(key, "!"):
			term.Operator, key = schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN, key[:len(key)-1]
			term.Values = strings.Split(values, "|")
		default:
			term.Values = strings.Split(values, "|")
		}
		term.Key = key
		s.Terms = append(s.Terms, term)
	}
	return s
}

// np is a NetworkPolicy that selects pods of shop.
func np(name, pods string, p *schemas.NetworkPolicy) *schemas.Fact {
	p.Pods = selector(pods)
	return &schemas.Fact{Object: object("NetworkPolicy", "shop", name), State: &schemas.Fact_NetworkPolicy{NetworkPolicy: p}}
}

// ingress is a NetworkPolicy for what comes to the pods app=back of shop.
func ingress(rules ...*schemas.PolicyRule) *schemas.Fact {
	return np("in", "app=back", &schemas.NetworkPolicy{IsolatesIngress: true, Ingress: rules})
}

// egress is one for what app=front of shop sends.
func egress(rules ...*schemas.PolicyRule) *schemas.Fact {
	return np("out", "app=front", &schemas.NetworkPolicy{IsolatesEgress: true, Egress: rules})
}

// cnp is a ClusterNetworkPolicy of the admin tier whose subject is app=back of any namespace.
func cnp(name string, priority uint32, ingress ...*schemas.PolicyRule) *schemas.Fact {
	return &schemas.Fact{Object: object("ClusterNetworkPolicy", "", name), State: &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: &schemas.ClusterNetworkPolicy{
		Tier: schemas.PolicyTier_POLICY_TIER_ADMIN, Priority: priority, Subject: &schemas.PodPeer{Pods: selector("app=back")}, Ingress: ingress,
	}}}
}

func baseline(fact *schemas.Fact) *schemas.Fact {
	fact.GetClusterNetworkPolicy().Tier = schemas.PolicyTier_POLICY_TIER_BASELINE
	return fact
}

// Parts of rules.
var (
	everyone = &schemas.PolicyRule{AnyPeer: true, AnyPort: true}
	accept   = schemas.RuleAction_RULE_ACTION_ACCEPT
	deny     = schemas.RuleAction_RULE_ACTION_DENY
	pass     = schemas.RuleAction_RULE_ACTION_PASS
)

// rule allows peers at any port.
func rule(peers ...*schemas.PolicyPeer) *schemas.PolicyRule {
	return &schemas.PolicyRule{AnyPort: true, Peers: peers}
}

func act(action schemas.RuleAction, r *schemas.PolicyRule) *schemas.PolicyRule {
	return &schemas.PolicyRule{Action: action, AnyPeer: r.GetAnyPeer(), Peers: r.GetPeers(), AnyPort: r.GetAnyPort(), Ports: r.GetPorts()}
}

// at restricts a rule to ports: "80/TCP", "80-90/TCP", "http/TCP", "/TCP" for all, "http/" for a name alone.
func at(r *schemas.PolicyRule, ports ...string) *schemas.PolicyRule {
	restricted := act(r.GetAction(), r)
	restricted.AnyPort = false
	for _, text := range ports {
		numbers, protocol, _ := strings.Cut(text, "/")
		port := &schemas.PolicyPort{}
		if protocol != "" {
			port.Protocol = protocolOf(protocol)
		}
		first, last, ranged := strings.Cut(numbers, "-")
		switch {
		case ranged:
			port.Port, port.EndPort = number32(first), number32(last)
		case numbers != "" && numbers[0] <= '9':
			port.Port = number32(numbers)
		default:
			port.Name = numbers
		}
		restricted.Ports = append(restricted.Ports, port)
	}
	return restricted
}

// podsOf is pods of the policy's own namespace.
func podsOf(pods string) *schemas.PolicyPeer {
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{Pods: selector(pods)}}}
}

// podsIn is pods of other namespaces.
func podsIn(namespaces, pods string) *schemas.PolicyPeer {
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{Namespaces: selector(namespaces), Pods: selector(pods)}}}
}

func block(cidr string, except ...string) *schemas.PolicyPeer {
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{Cidr: cidr, Except: except}}}
}

func nodesWith(text string) *schemas.PolicyPeer {
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Nodes{Nodes: selector(text)}}
}

func unknown(what string) *schemas.PolicyPeer {
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Unknown{Unknown: what}}
}

// connect reads "10.0.1.1 > 10.0.1.2:80/TCP".
func connect(text string) Connection {
	from, to, _ := strings.Cut(text, " > ")
	to, protocol, _ := strings.Cut(to, "/")
	end := netip.MustParseAddrPort(to)
	conn := Connection{From: netip.MustParseAddr(from), To: end.Addr(), Port: end.Port(), Protocol: 1}
	if protocol != "ICMP" {
		conn.Protocol = model.Protocol(protocolOf(protocol))
	}
	return conn
}
