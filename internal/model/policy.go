// SPDX-License-Identifier: Apache-2.0

package model

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The rows of policy are in nodes' layers: a node has those that the rule sets of its own pods refer to.
//
//	Endpoint ─ingress, egress─► RuleSet ─┐
//	                                     ├─► Verdict ─ports─► PortVerdict
//	address ─► Peer, else Block, else 0 ─┘
//
// An edit of a policy makes another RuleSet beside the old one, and then turns the endpoints' pointers.

// Direction says which of a pod's connections a rule judges: by who begins them.
type Direction uint8

// The directions.
const (
	Ingress Direction = 1 // that others begin
	Egress  Direction = 2 // that the pod begins
)

// String returns "ingress" or "egress".
func (d Direction) String() string {
	switch d {
	case Ingress:
		return "ingress"
	case Egress:
		return "egress"
	}
	return fmt.Sprintf("direction %d", uint8(d))
}

// IdentityID numbers a set of addresses that no rule of the policies in force tells apart. Zero is everyone whom no
// rule names. The compiler allocates ids.
type IdentityID uint32

// RuleSetID names a RuleSet by what it means: the first 8 bytes of a SHA-256, big endian, never 0. So it never means
// two things, and no one has to remember it. Zero is no rule set.
type RuleSetID uint64

// PortsID names a table of PortVerdicts by all that is in it, in the same way. Zero is no table.
type PortsID uint64

// RuleID names a Rule by its policy, direction and place there, in the same way. Zero is no rule.
type RuleID uint64

// Action is what a verdict says.
type Action uint8

// The actions.
const (
	// ActionAllow lets the connection begin.
	ActionAllow Action = 1
	// ActionDeny drops it: a rule of a ClusterNetworkPolicy says so.
	ActionDeny Action = 2
	// ActionIsolate drops it: NetworkPolicies select the pod and none of their rules allows it.
	ActionIsolate Action = 3
	// ActionClosed drops it: a policy that selects the pod could not be compiled, so nobody knows what is allowed.
	ActionClosed Action = 4
)

// String returns the action's word.
func (a Action) String() string {
	switch a {
	case ActionAllow:
		return "allow"
	case ActionDeny:
		return "deny"
	case ActionIsolate:
		return "isolate"
	case ActionClosed:
		return "closed"
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// PolicyKind says in which order policies are asked: the admin tier first, by priority; then NetworkPolicies, if any
// selects the pod; then the baseline tier.
type PolicyKind uint8

// The kinds of policies.
const (
	AdminPolicy    PolicyKind = 1 // ClusterNetworkPolicy, tier Admin
	NetworkPolicy  PolicyKind = 2
	BaselinePolicy PolicyKind = 3 // ClusterNetworkPolicy, tier Baseline
)

// PolicyName names a policy.
type PolicyName struct {
	Kind      PolicyKind
	Namespace string // empty for a ClusterNetworkPolicy
	Name      string
}

// String returns "NetworkPolicy namespace/name" or "ClusterNetworkPolicy name".
func (p PolicyName) String() string {
	if p.Kind == NetworkPolicy {
		return "NetworkPolicy " + p.Namespace + "/" + p.Name
	}
	return "ClusterNetworkPolicy " + p.Name
}

// RuleSet is what judges one direction of all endpoints that the same policies select.
type RuleSet struct {
	ID        RuleSetID
	Direction Direction
	// Policies are those that select the endpoints in this direction, in the order in which they are asked, each as
	// PolicyName.String writes it, joined by ", "; at most 255 bytes, of more the last says how many.
	Policies string
}

// Rule is one rule of one policy, so that verdicts, counters and drops can name it.
type Rule struct {
	ID        RuleID
	Policy    PolicyName
	Direction Direction
	Index     uint16 // in the policy's list for the direction, from 0
	Name      string // that the rule was given, at most 100 bytes; may be empty
	Action    Action // ActionAllow or ActionDeny
}

// String returns "NetworkPolicy namespace/name ingress[0]", with the rule's name if it has one.
func (r Rule) String() string {
	text := fmt.Sprintf("%s %s[%d]", r.Policy, r.Direction, r.Index)
	if r.Name != "" {
		text += " " + r.Name
	}
	return text
}

// VerdictKey asks what a rule set says about an identity. Of identities without a row the row of identity 0 says it;
// where there is none either, nothing passes.
type VerdictKey struct {
	RuleSet  RuleSetID
	Identity IdentityID
}

// Verdict is what a rule set says about an identity.
type Verdict struct {
	VerdictKey
	// Ports has exceptions for protocols and ports; 0 is none.
	Ports  PortsID
	Action Action // of what Ports has no exception for
	Rule   RuleID // that decided; 0 if none did
}

// PortKey is a range of ports that is a power of two long and begins at a multiple of its length, so that the longest
// prefix finds it.
type PortKey struct {
	Ports    PortsID
	Protocol Protocol
	Port     uint16 // the first, host byte order; bits after the prefix are 0
	Bits     uint8  // of Port that count, 0 to 16; 0 is all ports of the protocol
}

// PortVerdict is an exception of some Verdicts. Of several the one with most bits counts.
type PortVerdict struct {
	PortKey
	Action Action
	Rule   RuleID // that decided; 0 if none did
}

// Peer is an address of a pod or node that rules name otherwise than by its number alone: it is found before Blocks.
type Peer struct {
	Addr     netip.Addr // never IPv4-mapped
	Identity IdentityID // never 0
}

// Block is a prefix with the identity of addresses in it that no longer Block has.
type Block struct {
	Prefix   netip.Prefix // masked, never IPv4-mapped
	Identity IdentityID   // may be 0: what is excepted from a broader one
}

// IncarnationOf returns the Incarnation of a pod's Endpoints; see there.
func IncarnationOf(uid string) uint32 {
	hash := sha256.Sum256([]byte(uid))
	return binary.BigEndian.Uint32(hash[:])
}
