// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// draw draws random objects: few names, labels and addresses, so that they meet.
type draw struct{ *rapid.T }

func (d draw) pick(values ...string) string { return rapid.SampledFrom(values).Draw(d.T, "one of") }

func (d draw) below(n int) int { return rapid.IntRange(0, n-1).Draw(d.T, "number") }

func (d draw) one(in int) bool { return d.below(in) == 0 }

// world returns the fact of a pod, namespace or node.
func (d draw) world() *schemas.Fact {
	switch d.below(8) {
	case 0:
		name := d.pick("n1", "n2", "n3")
		if d.one(4) {
			return fact(state.KindNode, "", name, nil)
		}
		addrs := [][]byte{bytes(fmt.Sprintf("10.0.0.%d", 240+d.below(4)))}
		return fact(state.KindNode, "", name, &schemas.Fact_Node{Node: &schemas.Node{Labels: d.labels(), Addresses: addrs}})
	case 1, 2:
		if d.one(4) {
			return fact(state.KindNamespace, "", d.namespace(), nil)
		}
		return fact(state.KindNamespace, "", d.namespace(), &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: d.labels()}})
	}
	name := d.pick("a", "b", "c")
	if d.one(5) {
		return fact(state.KindPod, d.namespace(), name, nil)
	}
	return d.pod(name)
}

func (d draw) pod(name string) *schemas.Fact {
	pod := &schemas.Pod{Node: d.pick("n1", "n1", "n2", "n3", ""), Labels: d.labels(), HostNetwork: d.one(12), Finished: d.one(12)}
	for range 1 + d.below(2) {
		pod.Addresses = append(pod.Addresses, bytes(d.pick("10.0.0.", "10.0.1.")+d.pick("1", "2", "3", "4", "5")))
	}
	if d.one(3) {
		pod.Addresses = append(pod.Addresses, bytes("2001:db8::"+d.pick("1", "2", "3")))
	}
	for range d.below(3) {
		pod.Ports = append(pod.Ports, &schemas.EndpointPort{
			Name: d.pick("http", "dns"), Protocol: d.protocol(), Port: uint32(rapid.SampledFrom([]int{80, 81, 53}).Draw(d.T, "port")),
		})
	}
	f := fact(state.KindPod, d.namespace(), name, &schemas.Fact_Pod{Pod: pod})
	f.Object.Uid = d.pick("u1", "u1", "u1", "u2")
	return f
}

func (d draw) namespace() string { return d.pick("x", "x", "y") }

func (d draw) labels() map[string]string {
	labels := map[string]string{}
	for range d.below(3) {
		labels[d.pick("app", "env")] = d.pick("a", "b", "")
	}
	return labels
}

func (d draw) protocol() schemas.Protocol {
	return rapid.SampledFrom([]schemas.Protocol{6, 6, 17, 132}).Draw(d.T, "protocol")
}

// policy returns the fact of a policy.
func (d draw) policy() *schemas.Fact {
	if d.one(3) {
		return d.clusterPolicy()
	}
	name := d.pick("p", "q", "r")
	if d.one(4) {
		return fact(state.KindNetworkPolicy, d.namespace(), name, nil)
	}
	p := &schemas.NetworkPolicy{
		Pods: d.selector(), IsolatesIngress: !d.one(3), IsolatesEgress: d.one(2), Ingress: d.rules(false), Egress: d.rules(false),
	}
	if d.one(10) {
		p.Refused = "a test"
	}
	return fact(state.KindNetworkPolicy, d.namespace(), name, &schemas.Fact_NetworkPolicy{NetworkPolicy: p})
}

func (d draw) clusterPolicy() *schemas.Fact {
	name := d.pick("s", "t")
	if d.one(4) {
		return fact(state.KindClusterNetworkPolicy, "", name, nil)
	}
	p := &schemas.ClusterNetworkPolicy{
		Tier: schemas.PolicyTier(1 + d.below(2)), Priority: uint32(d.below(3)), Subject: d.peer(),
		Ingress: d.rules(true), Egress: d.rules(true),
	}
	return fact(state.KindClusterNetworkPolicy, "", name, &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: p})
}

func (d draw) rules(cluster bool) (rules []*schemas.PolicyRule) {
	for range d.below(4) {
		r := &schemas.PolicyRule{Action: 1, AnyPeer: d.one(4), AnyPort: d.one(3)}
		if cluster {
			r.Action = schemas.RuleAction(1 + d.below(3))
		}
		for i := 0; !r.AnyPeer && i < d.below(4); i++ {
			r.Peers = append(r.Peers, d.someone(cluster))
		}
		for i := 0; !r.AnyPort && i < 1+d.below(3); i++ {
			r.Ports = append(r.Ports, d.ports(cluster))
		}
		rules = append(rules, r)
	}
	return rules
}

func (d draw) someone(cluster bool) *schemas.PolicyPeer {
	switch d.below(5) {
	case 0:
		if cluster {
			return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Nodes{Nodes: d.selector()}}
		}
		fallthrough
	case 1:
		b := &schemas.BlockPeer{Cidr: d.prefix()}
		for range d.below(3) {
			b.Except = append(b.Except, d.prefix())
		}
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: b}}
	}
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: d.peer()}}
}

func (d draw) prefix() string {
	return d.pick("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.2/32", "10.0.1.0/29", "192.0.2.0/24", "::/0", "::/1", "2001:db8::/64", "2001:db8::2/128")
}

func (d draw) peer() *schemas.PodPeer {
	var p schemas.PodPeer
	if d.one(2) {
		p.Namespaces = d.selector()
	}
	if d.one(2) {
		p.Pods = d.selector()
	}
	return &p
}

func (d draw) selector() *schemas.Selector {
	s := &schemas.Selector{}
	for range d.below(3) {
		t := &schemas.SelectorTerm{Key: d.pick("app", "env", "app", state.NamespaceLabel), Operator: schemas.SelectorOperator(1 + d.below(4))}
		if t.Operator <= 2 {
			t.Values = []string{d.pick("a", "b", "x", "")}
			if d.one(2) {
				t.Values = append(t.Values, d.pick("a", "b", "y"))
			}
		}
		s.Terms = append(s.Terms, t)
	}
	return s
}

func (d draw) ports(cluster bool) *schemas.PolicyPort {
	p := &schemas.PolicyPort{Protocol: d.protocol()}
	switch d.below(4) {
	case 0:
	case 1:
		p.Name = d.pick("http", "dns", "none")
		if cluster && d.one(2) {
			p.Protocol = 0
		}
	case 2:
		p.Port = uint32(rapid.SampledFrom([]int{1, 53, 80, 81}).Draw(d.T, "port"))
	case 3:
		p.Port, p.EndPort = uint32(1+d.below(90)), uint32(rapid.SampledFrom([]int{90, 100, 65535}).Draw(d.T, "end"))
	}
	return p
}

func fact(kind, namespace, name string, of any) *schemas.Fact {
	f := &schemas.Fact{Object: &schemas.ObjectRef{Kind: kind, Namespace: namespace, Name: name}}
	switch of := of.(type) {
	case *schemas.Fact_Pod:
		f.State = of
	case *schemas.Fact_Node:
		f.State = of
	case *schemas.Fact_Namespace:
		f.State = of
	case *schemas.Fact_NetworkPolicy:
		f.State = of
	case *schemas.Fact_ClusterNetworkPolicy:
		f.State = of
	}
	return f
}

func bytes(addr string) []byte { return netip.MustParseAddr(addr).AsSlice() }
