// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// policyFact draws a policy, or a namespace that policies may name. Labels and addresses are few, so that
// selectors meet, split and merge what others select.
func (d draw) policyFact() *schemas.Fact {
	name := d.pick("p", "q")
	switch d.number(1, 4) {
	case 1:
		f := &schemas.Fact{Object: &schemas.ObjectRef{Kind: "Namespace", Name: d.pick("shop", "lab")}}
		if !d.one(5) {
			f.State = &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: d.labels()}}
		}
		return f
	case 2:
		f := &schemas.Fact{Object: &schemas.ObjectRef{Kind: "ClusterNetworkPolicy", Name: name}}
		if !d.one(3) {
			f.State = &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: d.clusterNetworkPolicy()}
		}
		return f
	}
	f := &schemas.Fact{Object: &schemas.ObjectRef{Kind: "NetworkPolicy", Namespace: d.pick("shop", "lab"), Name: name}}
	if !d.one(4) {
		f.State = &schemas.Fact_NetworkPolicy{NetworkPolicy: d.networkPolicy()}
	}
	return f
}

func (d draw) labels() map[string]string {
	return rapid.MapOfN(rapid.SampledFrom([]string{"app", "team"}), rapid.SampledFrom([]string{"a", "b"}), 0, 2).Draw(d.T, "labels")
}

func (d draw) networkPolicy() *schemas.NetworkPolicy {
	m := &schemas.NetworkPolicy{Pods: d.selector(), IsolatesIngress: !d.one(3), IsolatesEgress: !d.one(3)}
	if d.one(8) {
		m.Refused = "it isn't understood"
		return m
	}
	actions := []schemas.RuleAction{schemas.RuleAction_RULE_ACTION_ACCEPT}
	m.Ingress, m.Egress = d.rules(model.NetworkPolicy, actions), d.rules(model.NetworkPolicy, actions)
	return m
}

func (d draw) clusterNetworkPolicy() *schemas.ClusterNetworkPolicy {
	m := &schemas.ClusterNetworkPolicy{
		Tier: schemas.PolicyTier(d.number(1, 2)), Priority: d.number(0, 2), Subject: d.podPeer(),
	}
	actions := []schemas.RuleAction{
		schemas.RuleAction_RULE_ACTION_ACCEPT, schemas.RuleAction_RULE_ACTION_DENY, schemas.RuleAction_RULE_ACTION_PASS,
	}
	m.Ingress, m.Egress = d.rules(model.AdminPolicy, actions), d.rules(model.AdminPolicy, actions)
	return m
}

func (d draw) selector() *schemas.Selector {
	s := &schemas.Selector{}
	for range d.number(0, 1) {
		term := &schemas.SelectorTerm{Key: d.pick("app", "team"), Operator: schemas.SelectorOperator(d.number(1, 4))}
		if term.Operator <= schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN {
			term.Values = []string{d.pick("a", "b")}
		}
		s.Terms = append(s.Terms, term)
	}
	return s
}

func (d draw) podPeer() *schemas.PodPeer {
	p := &schemas.PodPeer{Pods: d.selector()}
	if d.one(2) {
		p.Namespaces = d.selector()
	}
	return p
}

func (d draw) rules(kind model.PolicyKind, actions []schemas.RuleAction) (rules []*schemas.PolicyRule) {
	for range d.number(0, 2) {
		r := &schemas.PolicyRule{Action: rapid.SampledFrom(actions).Draw(d.T, "action"), AnyPeer: d.one(6), AnyPort: d.one(2)}
		for !r.GetAnyPeer() && len(r.GetPeers()) < 2 && (len(r.GetPeers()) == 0 || d.one(2)) {
			r.Peers = append(r.Peers, d.peer(kind))
		}
		for !r.GetAnyPort() && len(r.GetPorts()) < 2 && (len(r.GetPorts()) == 0 || d.one(2)) {
			r.Ports = append(r.Ports, d.policyPort())
		}
		rules = append(rules, r)
	}
	return rules
}

func (d draw) peer(kind model.PolicyKind) *schemas.PolicyPeer {
	switch which := d.number(1, 6); {
	case which <= 3:
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: d.podPeer()}}
	case which == 6 && kind != model.NetworkPolicy:
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Nodes{Nodes: d.selector()}}
	case which == 5:
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{Cidr: d.pick("fd00::/64", "::/0")}}}
	}
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{
		Cidr: d.pick("0.0.0.0/0", "10.1.0.0/16", "10.1.0.1/32"), Except: d.some(1, "10.1.0.0/24", "10.1.0.2/32"),
	}}}
}

func (d draw) policyPort() *schemas.PolicyPort {
	p := &schemas.PolicyPort{Protocol: schemas.Protocol(d.protocol())}
	switch d.number(1, 4) {
	case 1:
		p.Name = d.pick("http", "dns")
	case 2:
		p.Port, p.EndPort = d.number(80, 82), d.number(82, 90)
	case 3:
		p.Port = d.number(80, 82)
	}
	return p
}

// namedPorts are of a pod; two pods may mean different numbers by one name.
func (d draw) namedPorts() (ports []*schemas.EndpointPort) {
	for range d.number(0, 2) {
		ports = append(ports, &schemas.EndpointPort{Name: d.pick("http", "dns", ""), Protocol: schemas.Protocol(d.protocol()), Port: d.number(80, 82)})
	}
	return ports
}
