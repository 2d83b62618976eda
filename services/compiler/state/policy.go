// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Policy is a NetworkPolicy or ClusterNetworkPolicy. Both are the same here: what a NetworkPolicy leaves unsaid (its
// namespace, its action) is said.
type Policy struct {
	model.PolicyName
	Priority        uint16  // of a ClusterNetworkPolicy, 0 to 1,000: lower ones are asked first
	Subject         PodPeer // the pods that it selects
	Ingress, Egress Part
	// Refused says why its rules can't be understood; empty if they can. The pods that it selects pass nothing in the
	// directions that it judges. It has no rules.
	Refused string
}

// Part is what a Policy says about one direction.
type Part struct {
	// Judges says that the direction is the policy's concern: a NetworkPolicy isolates it, a ClusterNetworkPolicy has
	// rules for it.
	Judges bool
	Rules  []Rule
}

// Part returns what the policy says about a direction.
func (p *Policy) Part(d model.Direction) *Part {
	if d == model.Ingress {
		return &p.Ingress
	}
	return &p.Egress
}

// Rule matches if one of its peers does and one of its ports.
type Rule struct {
	Name   string // of a ClusterNetworkPolicy's; may be empty
	Action RuleAction
	// AnyPeer matches everyone; there are no peers then. Without it none matches no one.
	AnyPeer bool
	Peers   []Peer
	// AnyPort matches each protocol and port; there are no ports then. Without it there are some.
	AnyPort bool
	Ports   []PortRange
}

// RuleAction is what a Rule does with what it matches.
type RuleAction uint8

// The actions of rules.
const (
	Accept RuleAction = RuleAction(schemas.RuleAction_RULE_ACTION_ACCEPT)
	Deny   RuleAction = RuleAction(schemas.RuleAction_RULE_ACTION_DENY)
	Pass   RuleAction = RuleAction(schemas.RuleAction_RULE_ACTION_PASS) // leaves the tier
)

// PeerKind says what a Peer names its other ends by.
type PeerKind uint8

// The kinds of peers.
const (
	PeerPods PeerKind = 1 + iota
	PeerBlock
	PeerNodes
)

// Peer is some of the other ends that a Rule names. Only the field of its kind is set.
type Peer struct {
	Kind  PeerKind
	Pods  PodPeer
	Block Block
	Nodes Selector // by nodes' labels: the addresses of their status
}

// PodPeer is pods, never those of hostNetwork, nor finished ones. It is comparable: equal ones mean the same. A
// NetworkPolicy's own namespace is selected by NamespaceLabel.
type PodPeer struct {
	Namespaces, Pods Selector
}

// Block is the addresses of a prefix without those of some others.
type Block struct {
	Prefix netip.Prefix   // masked, never IPv4-mapped
	Except []netip.Prefix // likewise, sorted, each once, all overlapping Prefix
}

// PortRange is a range of ports of one protocol, or those of the name of a port.
type PortRange struct {
	Protocol    model.Protocol // 0 is that of the named port; only with a Name
	First, Last uint16         // First is at most Last; both 0 with a Name
	// Name is of a port of the pod that the connection is to; empty for a range of numbers.
	Name string
}

func (p *Policy) key() string { return p.Namespace + "/" + p.Name }

// Compare orders policies as they are asked: by tier, priority, namespace, name.
func (p *Policy) Compare(o *Policy) int {
	switch {
	case p.PolicyName.Kind != o.PolicyName.Kind:
		return int(p.PolicyName.Kind) - int(o.PolicyName.Kind)
	case p.Priority != o.Priority:
		return int(p.Priority) - int(o.Priority)
	}
	return strings.Compare(p.key(), o.key())
}

// Selects says whether a pod is a subject of the policy: by its labels and its namespace's.
func (p *Policy) Selects(s *Snapshot, pod *Pod) bool { return p.Subject.Matches(s, pod) }

// Matches says whether a pod is one of the peer's.
func (p PodPeer) Matches(s *Snapshot, pod *Pod) bool {
	return len(pod.Attached()) > 0 && p.Pods.Matches(pod.Labels) && p.Namespaces.Matches(s.NamespaceLabels(pod.Namespace))
}
