// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// End is one pod's view of a connection, between the exchanges of addresses (docs/adr/0013): the pod, whom it has it
// with, and the ports of both. Of an ICMP echo both ports are its identifier; what has no ports has zeros.
type End struct {
	Protocol  model.Protocol
	Pod, Peer netip.AddrPort
}

// Ruling is what policies say about a connection at a pod's interface.
type Ruling struct {
	Reason    model.DropReason // ReasonNone lets it pass
	Direction model.Direction
	RuleSet   model.RuleSetID // that was asked; 0 if none was
	Rule      model.RuleID    // that decided; 0 if none did
}

// Policed says whether there is a policy in the cluster. Without any nothing is judged.
func (n *Node) Policed() bool {
	self, _ := first(n, func(l *Layer) (model.Self, bool) { s, has := l.tables.Selves[model.SelfKey{}]; return s, has })
	return self.Policed
}

// Judge says whether a connection may begin in a direction of one of its ends.
//
//  1. Without policies in the cluster all may.
//  2. A pod reaches itself (Kubernetes' NetworkPolicy page, "the two sorts of pod isolation": "a pod cannot block access
//     to itself").
//  3. What has no Endpoint isn't judged, unless it has the address of a pod: such a pod isn't known yet, and passes
//     nothing until it is (the same page, "pod lifecycle": isolated before its containers are started). Nothing that a
//     pod sends is the node's own (RFC 1812 5.3.8), since others let their own node in.
//  4. A pod that no policy selects in the direction lets all begin (the page: "non-isolated").
//  5. Its own node reaches a pod (the page: "traffic to and from the node where a Pod is running is always allowed",
//     of which this is what kubelet's probes need).
//  6. The rule set decides: see Layer.action.
func (n *Node) Judge(d model.Direction, e End) Ruling {
	r := Ruling{Direction: d}
	if !n.Policed() || e.Pod.Addr() == e.Peer.Addr() {
		return r
	}
	pod, known := n.Endpoint(e.Pod.Addr())
	if !known {
		_, ownNode := n.Locals[e.Pod.Addr()]
		if n.network(e.Pod.Addr()) == model.NetworkPods || d == model.Egress && ownNode {
			r.Reason = model.ReasonUnknownPod
		}
		return r
	}
	set, port := pod.Egress, e.Peer.Port()
	if d == model.Ingress {
		set, port = pod.Ingress, e.Pod.Port()
	}
	_, ownNode := n.Locals[e.Peer.Addr()]
	if set == 0 || d == model.Ingress && ownNode {
		return r
	}
	action, rule := n.action(set, n.Identity(e.Peer.Addr()), e.Protocol, port)
	r.RuleSet, r.Rule, r.Reason = set, rule, reasons[action]
	return r
}

// reasons are why what an action says is dropped.
var reasons = map[model.Action]model.DropReason{
	model.ActionAllow:   model.ReasonNone,
	model.ActionDeny:    model.ReasonDenied,
	model.ActionIsolate: model.ReasonIsolated,
	model.ActionClosed:  model.ReasonPolicyClosed,
}

// Identity is what the node's rule sets know an address by: its own row's, else that of the longest block that has it,
// else 0. Blocks of one family have no address of the other.
func (n *Node) Identity(peer netip.Addr) model.IdentityID {
	own, has := first(n, func(l *Layer) (model.Peer, bool) { p, has := l.tables.Peers.Get(peer); return p, has })
	if has {
		return own.Identity
	}
	longest := -1
	var id model.IdentityID
	for _, l := range n.layers {
		for prefix, block := range l.tables.Blocks {
			if prefix.Contains(peer) && prefix.Bits() > longest {
				longest, id = prefix.Bits(), block.Identity
			}
		}
	}
	return id
}

// action is a rule set's word about an identity: its row's, else that of identity 0. The row's exceptions come first, of
// which the one with the longest prefix of the port counts; what has no ports has no exceptions. A rule set without rows
// is one that isn't in force, and lets nothing pass.
func (n *Node) action(set model.RuleSetID, id model.IdentityID, protocol model.Protocol, port uint16) (model.Action, model.RuleID) {
	verdict := func(id model.IdentityID) (model.Verdict, bool) {
		key := model.VerdictKey{RuleSet: set, Identity: id}
		return first(n, func(l *Layer) (model.Verdict, bool) { v, has := l.tables.Verdicts[key]; return v, has })
	}
	v, has := verdict(id)
	if !has {
		v, has = verdict(0)
	}
	if !has {
		return model.ActionClosed, 0
	}
	for bits := 16; bits >= 0 && v.Ports != 0 && carriesServices(protocol); bits-- {
		key := model.PortKey{Ports: v.Ports, Protocol: protocol, Port: port &^ (0xffff >> bits), Bits: uint8(bits)}
		p, has := first(n, func(l *Layer) (model.PortVerdict, bool) { p, has := l.tables.PortVerdicts[key]; return p, has })
		if has {
			return p.Action, p.Rule
		}
	}
	return v.Action, v.Rule
}
