// SPDX-License-Identifier: Apache-2.0

package model

import "fmt"

// DropReason says why a packet or a connect went no further. The numbers are part of the kernel ABI and of
// metrics: bpf/include/reasons.h is generated from this file, and numbers are never reused.
type DropReason uint8

// The reasons, each with the situation that leads to it.
const (
	// ReasonNone is no drop.
	ReasonNone DropReason = 0
	// ReasonNoBackend is a frontend whose backend set is empty: refused at once.
	ReasonNoBackend DropReason = 1
	// ReasonMalformed is a packet to a frontend whose headers are cut short or contradict themselves.
	ReasonMalformed DropReason = 2
	// ReasonStaleTables is a frontend, slot or backend that points at a missing row. Changes are applied in phases, so it is expected
	// only of a packet that a node sent on which knows a Service or backend before this one does.
	ReasonStaleTables DropReason = 3
	// ReasonFlowsFull is a new flow that the conntrack table had no room for.
	ReasonFlowsFull DropReason = 4
	// ReasonRewrite is a packet whose headers the kernel refused to rewrite.
	ReasonRewrite DropReason = 5
	// ReasonUnsupported is a packet to a frontend of a kind that is not translated: more extension headers than anyone sends, a routing header with segments left, an encrypted one.
	ReasonUnsupported DropReason = 6
	// ReasonNoLocalBackend is a frontend with traffic policy Local on a node without backends of it, while others have some: dropped, so that clients try elsewhere.
	ReasonNoLocalBackend DropReason = 7
	// ReasonSourceRange is a client that is in none of the Service's loadBalancerSourceRanges: dropped.
	ReasonSourceRange DropReason = 8
	// ReasonWrongPort is a ClusterIP dialled at a port or protocol that it doesn't serve: refused at once.
	ReasonWrongPort DropReason = 9
	// ReasonUnallocated is an address of the service CIDR that no Service has: dropped, so that it never loops.
	ReasonUnallocated DropReason = 10
	// ReasonNoFlow is a TCP packet to a frontend, not a SYN, of a connection that is not known: refused by RST.
	ReasonNoFlow DropReason = 11
	// ReasonBackendGone is a TCP packet of a connection to a backend that is gone: refused by RST.
	ReasonBackendGone DropReason = 12
	// ReasonFragment is a fragment whose first one was never seen, or more of them than are held.
	ReasonFragment DropReason = 13
	// ReasonPortsExhausted is a connection to be masqueraded for which no port was free.
	ReasonPortsExhausted DropReason = 14
	// ReasonDenied is a connection that a rule of a ClusterNetworkPolicy denies.
	ReasonDenied DropReason = 15
	// ReasonIsolated is a connection of a pod that NetworkPolicies select, and that none of their rules allows.
	ReasonIsolated DropReason = 16
	// ReasonPolicyClosed is a connection of a pod that a policy selects which could not be compiled, or doesn't fit this node.
	ReasonPolicyClosed DropReason = 17
	// ReasonUnknownPod is a packet of a pod that isn't known yet, while there are policies in the cluster.
	ReasonUnknownPod DropReason = 18
	// ReasonSpoofed is a packet of a pod whose source isn't the pod's: the node's route to it is another interface's.
	ReasonSpoofed DropReason = 19
	// ReasonForeignTunnel is a packet that came by the tunnel device from an address that is no node's, in another network
	// of VXLAN, or that is of no flow that this node could have for another.
	ReasonForeignTunnel DropReason = 20
	// ReasonTooBig is a packet that would not fit on the way to another node once it is wrapped: its sender is told by ICMP.
	ReasonTooBig DropReason = 21
	// ReasonNoWay is a packet for a backend on another node that has no more hops left, or whose node has no address here, or
	// an answer that came back wrapped and whose client no route leads to.
	ReasonNoWay DropReason = 22
)

// DropReasons lists all reasons but ReasonNone, with the word that metrics, events and the C enum use.
var DropReasons = []struct {
	Reason DropReason
	Name   string
	Text   string
}{
	{ReasonNoBackend, "no_backend", "the Service has no backend that takes new connections; the client is refused at once"},
	{ReasonMalformed, "malformed", "the packet's headers are cut short or contradict themselves"},
	{ReasonStaleTables, "stale_tables", "an entry points at a missing one: a node ahead of this one sent it, else a bug"},
	{ReasonFlowsFull, "flows_full", "the connection table had no room for a new flow"},
	{ReasonRewrite, "rewrite", "the kernel refused to rewrite the packet's headers"},
	{ReasonUnsupported, "unsupported", "the packet's extension headers cannot be translated"},
	{ReasonNoLocalBackend, "no_local_backend", "the traffic policy is Local and no backend is on this node; other nodes have some"},
	{ReasonSourceRange, "source_range", "the client's address is in none of the Service's loadBalancerSourceRanges"},
	{ReasonWrongPort, "wrong_port", "the Service does not serve this port; the client is refused at once"},
	{ReasonUnallocated, "unallocated", "no Service has this address of the service CIDR"},
	{ReasonNoFlow, "no_flow", "the packet belongs to no known connection; the client is refused at once"},
	{ReasonBackendGone, "backend_gone", "the connection's backend is gone; the client is told by a reset"},
	{ReasonFragment, "fragment", "the datagram's first fragment was not seen, or too many fragments came before it"},
	{ReasonPortsExhausted, "ports_exhausted", "no port was free for a masqueraded connection"},
	{ReasonDenied, "policy_denied", "a rule of a ClusterNetworkPolicy denies it"},
	{ReasonIsolated, "policy_isolated", "NetworkPolicies select the pod and none of their rules allows it"},
	{ReasonPolicyClosed, "policy_closed", "a policy that selects the pod is not in force, so nothing passes; status names it"},
	{ReasonUnknownPod, "unknown_pod", "the pod is not known yet and there are policies; it passes nothing until it is"},
	{ReasonSpoofed, "spoofed", "its source is not the sending pod's own; see --policy-check-sources"},
	{ReasonForeignTunnel, "foreign_tunnel", "a wrapped packet came from who is no node of the cluster, or is not for this node"},
	{ReasonTooBig, "too_big", "the packet is too large to be wrapped; its sender is told by ICMP"},
	{ReasonNoWay, "no_way", "no way leads to the node or the client, or the packet has no hops left"},
}

// String returns the reason's word.
func (r DropReason) String() string {
	if r == ReasonNone {
		return "none"
	}
	for _, d := range DropReasons {
		if d.Reason == r {
			return d.Name
		}
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}
