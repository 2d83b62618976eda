// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// A drawing draws a random cluster whose policies often meet: few labels, few ports, few addresses.
type drawing struct {
	*rapid.T
	nodes, pods int
}

// of draws one of several.
func of[E any](d drawing, what string, choices ...E) E {
	return rapid.SampledFrom(choices).Draw(d.T, what)
}

// often draws true in so many of ten.
func (d drawing) often(what string, tenths int) bool {
	return rapid.IntRange(1, 10).Draw(d.T, what) <= tenths
}

func (d drawing) some(what string, most int) int { return rapid.IntRange(0, most).Draw(d.T, what) }

var (
	someNamespaces = []string{"shop", "web", "ops"}
	somePorts      = []uint32{53, 80, 81, 443, 8080, 65535}
	someProtocols  = []schemas.Protocol{schemas.Protocol_PROTOCOL_TCP, schemas.Protocol_PROTOCOL_TCP, schemas.Protocol_PROTOCOL_UDP, schemas.Protocol_PROTOCOL_SCTP}
	someOutside    = []string{"192.0.2.7", "192.0.2.200", "10.9.9.9", "2001:db8::7", "fd00:9::9"}
	someBlocks     = []string{
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.2/32", "10.0.2.0/23", "192.0.2.0/24", "192.0.2.128/25", "172.20.0.0/16",
		"172.20.0.1/32", "fd00::/16", "fd00:1::/64", "fd00:1::2/128", "2001:db8::/32", "0.0.0.0/1", "::/1", "::/0", "::/1",
	}
)

// cluster draws objects in no particular order.
func (d drawing) cluster() (facts []*schemas.Fact) {
	for _, name := range someNamespaces {
		if d.often("known "+name, 7) {
			facts = append(facts, &schemas.Fact{Object: ref("Namespace", "", name), State: &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: d.labels("namespace")}}})
		}
	}
	for i := range d.nodes {
		fact := nodeFact(fmt.Sprintf("n%d", i), fmt.Sprintf("172.20.0.%d", i+1), fmt.Sprintf("fd00:20::%d", i+1))
		fact.GetNode().Labels = d.labels("node")
		facts = append(facts, fact)
	}
	for i := range d.pods {
		facts = append(facts, d.pod(i, facts))
	}
	for i := range d.some("network policies", 6) {
		facts = append(facts, d.networkPolicy(i))
	}
	for i := range d.some("cluster policies", 4) {
		facts = append(facts, d.clusterPolicy(i))
	}
	return rapid.Permutation(facts).Draw(d.T, "order")
}

func (d drawing) labels(of string) map[string]string {
	all := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if d.often(of+" has "+key, 7) {
			all[key] = rapid.SampledFrom([]string{"a", "b", ""}).Draw(d.T, key)
		}
	}
	return all
}

// pod draws a pod; now and then it says that it has another one's addresses, as one does that was made just now and
// whose predecessor hasn't been seen to end.
func (d drawing) pod(i int, before []*schemas.Fact) *schemas.Fact {
	node := d.some("node", d.nodes-1)
	var addrs []string
	families := of(d, "families", 4, 6, 46, 46)
	if families != 6 {
		addrs = append(addrs, fmt.Sprintf("10.0.%d.%d", node+1, i+1))
	}
	if families != 4 {
		addrs = append(addrs, fmt.Sprintf("fd00:%d::%d", node+1, i+1))
	}
	fact := podFact(of(d, "namespace", someNamespaces...), fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", node), addrs...)
	pod := fact.GetPod()
	pod.Labels, pod.Ports = d.labels("pod"), nil
	for range d.some("ports", 3) {
		pod.Ports = append(pod.Ports, &schemas.EndpointPort{Name: of(d, "port's name", "http", "dns"), Protocol: of(d, "port's protocol", someProtocols...), Port: of(d, "port's number", somePorts...)})
	}
	switch d.some("sort of pod", 14) {
	case 2, 3:
		if other := of(d, "other", before...).GetPod(); other != nil {
			pod.Addresses, pod.Node, pod.HostNetwork = other.GetAddresses(), other.GetNode(), other.GetHostNetwork()
		}
	case 0:
		pod.HostNetwork, pod.Addresses = true, raw([]string{fmt.Sprintf("172.20.0.%d", node+1)})
	case 1:
		pod.Finished = true
	}
	return fact
}

func (d drawing) networkPolicy(i int) *schemas.Fact {
	p := &schemas.NetworkPolicy{Pods: d.selector("subject"), IsolatesIngress: d.often("ingress", 6), IsolatesEgress: d.often("egress", 5)}
	if p.IsolatesIngress {
		p.Ingress = d.rules(false, true)
	}
	if p.IsolatesEgress {
		p.Egress = d.rules(false, false)
	}
	if d.some("refused", 29) == 0 {
		p.Refused = "nobody understands it"
	}
	return &schemas.Fact{Object: ref("NetworkPolicy", of(d, "namespace", someNamespaces...), fmt.Sprintf("np%d", i)), State: &schemas.Fact_NetworkPolicy{NetworkPolicy: p}}
}

func (d drawing) clusterPolicy(i int) *schemas.Fact {
	p := &schemas.ClusterNetworkPolicy{
		Tier:     of(d, "tier", schemas.PolicyTier_POLICY_TIER_ADMIN, schemas.PolicyTier_POLICY_TIER_BASELINE),
		Priority: uint32(d.some("priority", 2)), Subject: d.podPeer("subject", true),
		Ingress: d.rules(true, true), Egress: d.rules(true, false),
	}
	if d.some("refused", 29) == 0 {
		p.Refused = "nobody understands it"
	}
	return &schemas.Fact{Object: ref("ClusterNetworkPolicy", "", fmt.Sprintf("cnp%d", i)), State: &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: p}}
}

func (d drawing) rules(cluster, ingress bool) (rules []*schemas.PolicyRule) {
	for range d.some("rules", 3) {
		r := &schemas.PolicyRule{Action: schemas.RuleAction_RULE_ACTION_ACCEPT, AnyPeer: !cluster && d.often("any peer", 2), AnyPort: d.often("any port", 4)}
		if cluster {
			r.Action = schemas.RuleAction(1 + d.some("action", 2))
		}
		for range d.some("peers", 3) {
			if !r.AnyPeer {
				r.Peers = append(r.Peers, d.peer(cluster, ingress))
			}
		}
		for !r.AnyPort && (len(r.Ports) == 0 || d.often("another port", 4)) {
			r.Ports = append(r.Ports, d.port(cluster))
		}
		rules = append(rules, r)
	}
	return rules
}

func (d drawing) peer(cluster, ingress bool) *schemas.PolicyPeer {
	switch kind := d.some("kind of peer", 9); {
	case kind == 0 && cluster:
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Unknown{Unknown: "domainNames"}}
	case kind <= 2 && cluster && !ingress:
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Nodes{Nodes: d.selector("nodes")}}
	case kind <= 5 && !(cluster && ingress):
		b := &schemas.BlockPeer{Cidr: of(d, "block", someBlocks...)}
		for range d.some("exceptions", 2) {
			if except := of(d, "except", someBlocks...); !cluster && inside(except, b.GetCidr()) {
				b.Except = append(b.Except, except)
			}
		}
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: b}}
	}
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: d.podPeer("peer", cluster)}}
}

// inside says whether a prefix is a part of another, and not all of it.
func inside(prefix, of string) bool {
	p, o := netip.MustParsePrefix(prefix), netip.MustParsePrefix(of)
	return o.Overlaps(p) && p.Bits() > o.Bits()
}

func (d drawing) podPeer(what string, cluster bool) *schemas.PodPeer {
	p := &schemas.PodPeer{}
	if cluster || d.often(what+" has namespaces", 5) {
		p.Namespaces = d.selector(what + " namespaces")
		if d.often(what+" by name", 3) {
			p.Namespaces = having("kubernetes.io/metadata.name", of(d, "name", someNamespaces...))
		}
	}
	if d.often(what+" has pods", 7) {
		p.Pods = d.selector(what + " pods")
	}
	return p
}

func (d drawing) selector(what string) *schemas.Selector {
	s := &schemas.Selector{}
	for range d.some(what+" terms", 2) {
		t := &schemas.SelectorTerm{Key: of(d, "key", "app", "tier", "app"), Operator: schemas.SelectorOperator(1 + d.some("operator", 3))}
		if t.GetOperator() <= schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN {
			t.Values = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", ""}), 1, 2, rapid.ID[string]).Draw(d.T, "values")
		}
		s.Terms = append(s.Terms, t)
	}
	return s
}

func (d drawing) port(cluster bool) *schemas.PolicyPort {
	p := &schemas.PolicyPort{Protocol: of(d, "protocol", someProtocols...)}
	switch d.some("sort of port", 5) {
	case 0:
	case 1:
		p.Name = of(d, "name", "http", "dns", "none")
		if cluster {
			p.Protocol = schemas.Protocol_PROTOCOL_UNSPECIFIED
		}
	case 2, 3:
		p.Port = of[uint32](d, "first", 1, 52, 79, 80, 443, 1024)
		p.EndPort = of(d, "last", p.GetPort(), p.GetPort()+1, 8080, 65535)
		p.EndPort = max(p.GetEndPort(), p.GetPort())
	default:
		p.Port = of(d, "port", somePorts...)
	}
	return p
}

// ends returns all addresses that connections may have, each with the node whose pod it is.
func everyAddress(facts []*schemas.Fact) (all []netip.Addr) {
	for _, fact := range facts {
		all = append(all, addresses(fact.GetPod().GetAddresses())...)
		all = append(all, addresses(fact.GetNode().GetAddresses())...)
	}
	for _, a := range someOutside {
		all = append(all, netip.MustParseAddr(a))
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// connectTo returns what may be asked of a pair of addresses: each protocol at ports around those that rules name.
func connectTo(from, to netip.Addr) (all []end) {
	for _, protocol := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		for _, port := range []uint16{53, 80, 81, 443, 1000, 8080, 65535} {
			all = append(all, end{source: netip.AddrPortFrom(from, clientPort), target: netip.AddrPortFrom(to, port), protocol: protocol})
		}
	}
	return all
}
