// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Connection is what begins it, as pods' interfaces see it: its destination is a backend, never a Service (NP page:
// for egress "it is not defined whether [NAT] happens before or after NetworkPolicy processing"; here it is before),
// and its source is whom it came from when it reached the node of its destination.
type Connection struct {
	From, To netip.Addr
	Protocol model.Protocol // any of IANA's
	Port     uint16         // of To; it means nothing but of TCP, UDP and SCTP
}

// hasPorts says whether policies can name the protocol. (NP: protocol is "TCP, UDP, or SCTP".)
func (c Connection) hasPorts() bool {
	return c.Protocol == model.TCP || c.Protocol == model.UDP || c.Protocol == model.SCTP
}

// peer returns the other end, as the rules of a direction see it.
func (c Connection) peer(d model.Direction) netip.Addr {
	if d == model.Ingress {
		return c.From
	}
	return c.To
}

// matchesRule says whether a rule is about a connection: one of its peers and one of its ports must match. (NP: items
// of each list "are combined using a logical OR"; "If this field is empty or missing, this rule matches all sources"
// and "all ports". CNP: from and to "must contain at least one item".)
func (c *Cluster) matchesRule(p *policy, d model.Direction, rule *schemas.PolicyRule, conn Connection) bool {
	if action(p, rule) == schemas.RuleAction_RULE_ACTION_DENY && hasUnknown(rule) {
		return true
	}
	if rule.GetAnyPeer() {
		return c.matchesPorts(rule, conn, c.destination(conn))
	}
	return slices.ContainsFunc(rule.GetPeers(), func(peer *schemas.PolicyPeer) bool {
		return c.matchesPeer(p, d, rule, peer, conn)
	})
}

// hasUnknown says whether a rule names something that nobody here knows. (CNP: such a rule "should fail closed": one that
// accepts matches nothing by it, "Deny and Pass … treat the rule as a 'Deny all' rule".)
func hasUnknown(rule *schemas.PolicyRule) bool {
	return slices.ContainsFunc(rule.GetPeers(), func(peer *schemas.PolicyPeer) bool {
		_, unknown := peer.GetPeer().(*schemas.PolicyPeer_Unknown)
		return unknown
	})
}

// action is what a rule does with what it matches. A NetworkPolicy's allows; of others an unknown peer makes Pass a denial.
func action(p *policy, rule *schemas.PolicyRule) schemas.RuleAction {
	switch {
	case p.Kind == model.NetworkPolicy:
		return schemas.RuleAction_RULE_ACTION_ACCEPT
	case rule.GetAction() == schemas.RuleAction_RULE_ACTION_PASS && hasUnknown(rule):
		return schemas.RuleAction_RULE_ACTION_DENY
	}
	return rule.GetAction()
}

// matchesPeer says whether a rule's peer is the other end, at one of the rule's ports. Of what a rule names by number or
// as nodes the ports' names mean nothing. (CNP: a named port can't be used "in a rule that targets resources without
// named ports (e.g. Nodes or Networks)".)
func (c *Cluster) matchesPeer(p *policy, d model.Direction, rule *schemas.PolicyRule, peer *schemas.PolicyPeer, conn Connection) bool {
	other, named := conn.peer(d), c.destination(conn)
	switch peer := peer.GetPeer().(type) {
	case *schemas.PolicyPeer_Pods:
		return c.isPod(p, peer.Pods, other) && c.matchesPorts(rule, conn, named)
	case *schemas.PolicyPeer_Block:
		if d == model.Egress {
			named = nil
		}
		return inBlock(peer.Block, other) && c.matchesPorts(rule, conn, named)
	case *schemas.PolicyPeer_Nodes:
		if d == model.Egress {
			named = nil
		}
		return c.isNode(peer.Nodes, other) && c.matchesPorts(rule, conn, named)
	}
	return false
}

// isPod says whether a pod that the peer selects has the address: selectors never match others. (NP: podSelector and
// namespaceSelector of a peer "select pods"; without namespaceSelector "in the policy's own namespace".)
func (c *Cluster) isPod(p *policy, peer *schemas.PodPeer, address netip.Addr) bool {
	holder := c.holders[address]
	return holder != nil && c.inNamespaces(peer.GetNamespaces(), p.Namespace, holder) && matches(peer.GetPods(), holder.labels)
}

// inBlock says whether an address is in a block and in none of its exceptions. Pods' and nodes' addresses are addresses
// like others. (NP: "except is a slice of CIDRs that should not be included within an IPBlock". CNP: "cluster-internal
// traffic will be checked against the rule as well". A prefix has addresses of its own family alone.)
func inBlock(block *schemas.BlockPeer, address netip.Addr) bool {
	contains := func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Contains(address)
	}
	return contains(block.GetCidr()) && !slices.ContainsFunc(block.GetExcept(), contains)
}

// isNode says whether a selected node has the address. (CNP: nodes "selects the nodeIPs as the peer type by matching on
// the IPs present in the node.Status.Addresses".)
func (c *Cluster) isNode(selector *schemas.Selector, address netip.Addr) bool {
	for _, n := range c.nodes {
		if slices.Contains(n.addresses, address) && matches(selector, n.labels) {
			return true
		}
	}
	return false
}

// destination returns the pod that ports' names are looked up in: the one that the connection is to. (NP: port "can
// either be a numerical or named port on a pod".)
func (c *Cluster) destination(conn Connection) *pod { return c.holders[conn.To] }

func (c *Cluster) matchesPorts(rule *schemas.PolicyRule, conn Connection, named *pod) bool {
	return rule.GetAnyPort() || slices.ContainsFunc(rule.GetPorts(), func(port *schemas.PolicyPort) bool {
		return matchesPort(port, conn, named)
	})
}

// matchesPort says whether a connection is to a port. (NP: "If present, only traffic on the specified protocol AND port
// will be matched"; without port "this matches all port names and numbers" of the protocol; endPort, KEP-2079, is the
// last of a range, inclusive.)
func matchesPort(port *schemas.PolicyPort, conn Connection, named *pod) bool {
	switch {
	case !conn.hasPorts():
		return false
	case port.GetName() != "":
		return named != nil && slices.ContainsFunc(named.ports, func(own *schemas.EndpointPort) bool {
			return isNamed(port, own) && model.Protocol(own.GetProtocol()) == conn.Protocol && own.GetPort() == uint32(conn.Port)
		})
	case model.Protocol(port.GetProtocol()) != conn.Protocol:
		return false
	case port.GetPort() == 0:
		return true
	}
	last := max(port.GetPort(), port.GetEndPort())
	return port.GetPort() <= uint32(conn.Port) && uint32(conn.Port) <= last
}

// isNamed says whether a pod's port has the name and the protocol of a rule's; a ClusterNetworkPolicy names no protocol.
func isNamed(port *schemas.PolicyPort, own *schemas.EndpointPort) bool {
	return own.GetName() == port.GetName() &&
		(port.GetProtocol() == schemas.Protocol_PROTOCOL_UNSPECIFIED || port.GetProtocol() == own.GetProtocol())
}
