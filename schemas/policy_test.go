// SPDX-License-Identifier: Apache-2.0

package schemas

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

var (
	selector = &Selector{Terms: []*SelectorTerm{
		{Key: "app", Operator: SelectorOperator_SELECTOR_OPERATOR_IN, Values: []string{"cart", "till"}},
		{Key: "lab", Operator: SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST},
	}}
	policyRules = []*PolicyRule{
		{
			Name: "web", Action: RuleAction_RULE_ACTION_ACCEPT,
			Peers: []*PolicyPeer{
				{Peer: &PolicyPeer_Pods{Pods: &PodPeer{Namespaces: selector, Pods: &Selector{}}}},
				{Peer: &PolicyPeer_Block{Block: &BlockPeer{Cidr: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}}},
				{Peer: &PolicyPeer_Nodes{Nodes: selector}},
				{Peer: &PolicyPeer_Unknown{Unknown: "domainNames"}},
			},
			Ports: []*PolicyPort{
				{Protocol: Protocol_PROTOCOL_TCP, Port: 8000, EndPort: 8999}, {Protocol: Protocol_PROTOCOL_UDP, Name: "dns"},
			},
		},
		{Action: RuleAction_RULE_ACTION_PASS, AnyPeer: true, AnyPort: true},
	}
	verdictKey  = &VerdictKey{RuleSet: 1 << 63, Identity: 7}
	portKey     = &PortKey{Ports: 1 << 62, Protocol: Protocol_PROTOCOL_TCP, Port: 8000, Bits: 13}
	policyBlock = &Prefix{Address: []byte{10, 0, 0, 0}, Bits: 8}
)

// Messages of policy, as golden has those of the rest.
var goldenPolicy = map[string]proto.Message{
	"fact_network_policy": &Fact{Object: object, State: &Fact_NetworkPolicy{NetworkPolicy: &NetworkPolicy{
		Pods: selector, IsolatesIngress: true, IsolatesEgress: true, Ingress: policyRules, Egress: policyRules[1:],
		Refused: "spec.ingress[0].ports[0].endPort: 80 is below port 443",
	}}},
	"fact_cluster_network_policy": &Fact{Object: object, State: &Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: &ClusterNetworkPolicy{
		Tier: PolicyTier_POLICY_TIER_BASELINE, Priority: 1000, Subject: &PodPeer{Namespaces: selector, Pods: selector},
		Ingress: policyRules, Egress: policyRules[1:], Refused: "spec.tier: Middle is unknown here",
	}}},
	"fact_node_labels": &Fact{Object: object, State: &Fact_Node{Node: &Node{Labels: map[string]string{"role": "edge"}}}},
	"snapshot_policy": &Snapshot{Epoch: 2, Layer: "node.node-a", Revision: 9, Chunks: 1, Rows: &Rows{
		Endpoints: []*Endpoint{{Address: v4, Pod: "shop/cart-0", Incarnation: 1 << 31, Ingress: 1 << 63, Egress: 5}},
		Selves:    []*Self{{Policed: true}},
		RuleSets:  []*RuleSet{{Id: 1 << 63, Direction: Direction_DIRECTION_INGRESS, Policies: "NetworkPolicy shop/cart"}},
		Rules: []*Rule{{
			Id: 9, Kind: PolicyKind_POLICY_KIND_NETWORK_POLICY, Namespace: "shop", Policy: "cart", Name: "web",
			Direction: Direction_DIRECTION_EGRESS, Index: 65535, Action: Action_ACTION_ALLOW,
		}},
		Verdicts:     []*Verdict{{Key: verdictKey, Ports: 1 << 62, Action: Action_ACTION_ISOLATE, Rule: 9}},
		PortVerdicts: []*PortVerdict{{Key: portKey, Action: Action_ACTION_DENY, Rule: 9}},
		Peers:        []*Peers{{Identity: 7, Addresses: [][]byte{v4, v6}}},
		Blocks:       []*Block{{Prefix: policyBlock, Identity: 8}},
	}},
	"delta_policy": &Delta{Epoch: 2, Layer: "node.node-a", From: 8, To: 9, Remove: &Keys{
		RuleSets: []uint64{1 << 63}, Rules: []uint64{9}, Verdicts: []*VerdictKey{verdictKey}, PortVerdicts: []*PortKey{portKey},
		Peers: [][]byte{v4, v6}, Blocks: []*Prefix{policyBlock},
	}},
	"event_policy_drop": &Event{Kind: "drop", Drop: &Drop{
		Reason: "policy_denied", Direction: Direction_DIRECTION_INGRESS, RuleSet: 1 << 63,
		Policies: "ClusterNetworkPolicy no-lab", Rule: "ClusterNetworkPolicy no-lab ingress[0]",
		SourcePod: "lab/probe", DestinationPod: "shop/cart-0", Revision: 9,
	}},
	"flows_request": &FlowsRequest{Pod: "shop/cart-0", OnlyDrops: true, Limit: 10},
	"flows_reply": &FlowsReply{
		Connections: []*Connection{{
			Pod: "shop/cart-0", PeerPod: "lab/probe", PodAddress: v4, PeerAddress: v6, PodPort: 8080, PeerPort: 40000, IpProtocol: 6,
			Direction: Direction_DIRECTION_INGRESS, Service: "shop/cart:80", Rule: "NetworkPolicy shop/cart ingress[0]", RuleSet: 1 << 63,
			Policies: "NetworkPolicy shop/cart", Idle: durationpb.New(1), Answered: true, Closing: true, Outdated: true,
		}},
		Drops: []*RecentDrop{{Drop: &Drop{Reason: "policy_denied", IpProtocol: 132}, Count: 3, First: noon, Latest: noon}},
		Last:  true, Sequence: 1, Refused: "no", ConnectionsTotal: 2,
	},
	"services_understood": &FlowsReply{OnlyServices: true, Uncounted: 7},
	"services_request":    &FlowsRequest{OnlyServices: true},
	"services_reply": &FlowsReply{
		Services: []*ServiceCount{
			{Service: "shop/cart:80", Reason: "source_range", Count: 1 << 40}, {Service: "shop/cart:80", Forwarding: "tunnel", Count: 3},
		},
		Last: true, Uncounted: 7,
	},
}
