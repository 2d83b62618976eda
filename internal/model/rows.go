// SPDX-License-Identifier: Apache-2.0

// Package model has the words of the data plane as types: what a node's tables hold (frontends, backend
// sets, views, members, backends, endpoints and a few more), who a row is for (layers), how far a node has come (positions and
// digests), why something changed (causes) and why a packet was dropped (reasons).
//
// It promises to be pure: no input or output, no clock, no dependency outside the standard library, so that
// the compiler, the programmer, the reference model and the tests all speak of the same things. Values are
// never changed once shared. Before changing a row's fields read digest.go: the bytes that are hashed are
// part of what nodes and compiler must agree on.
package model

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// SetID numbers a BackendSet. Zero is no set. The compiler allocates ids; see services/compiler/ids.
type SetID uint32

// BackendID numbers a Backend. Zero is no backend.
type BackendID uint32

// ServicePort names one port of one Service: the unit that clients dial and that backends serve.
type ServicePort struct {
	Namespace string
	Name      string
	Port      uint16 // the Service's port, host byte order, never 0
	Protocol  Protocol
}

// String returns "namespace/name:port".
func (p ServicePort) String() string { return fmt.Sprintf("%s/%s:%d", p.Namespace, p.Name, p.Port) }

// Scope says which of a ServicePort's backends a set holds.
type Scope uint8

// The scopes. A ServicePort has one ScopeAll set a family: the root of its other sets, which Views lead to.
const (
	// ScopeAll is every usable backend in the cluster.
	ScopeAll Scope = 1
	// ScopeZone is those that topology hints give to one zone.
	ScopeZone Scope = 2
	// ScopeNode is those that topology hints give to one node; in that node's layer.
	ScopeNode Scope = 3
	// ScopeLocal is those on one node, for traffic policy Local; in that node's layer.
	ScopeLocal Scope = 4
	// ScopeHostPort is the one pod behind a hostPort; a root, in the layer of the pod's node.
	ScopeHostPort Scope = 5
)

// Place is a zone or a node as a number: the first 8 bytes of the SHA-256 of its name, big endian. Zero is
// everywhere.
type Place uint64

// PlaceOf returns the number of a zone's or node's name; an empty name has none.
func PlaceOf(name string) Place {
	if name == "" {
		return 0
	}
	hash := sha256.Sum256([]byte(name))
	return Place(binary.BigEndian.Uint64(hash[:]))
}

// NodeID is a node as a number that packets between nodes carry. Zero is no node.
type NodeID uint32

// NodeIDOf returns the number of a node's name: the low 32 bits of its Place, 1 instead of 0. Two nodes may have one
// number; neither has a Node row then.
func NodeIDOf(name string) NodeID {
	if name == "" {
		return 0
	}
	return max(1, NodeID(uint32(PlaceOf(name))))
}

// FrontendKind says what kind of address a client dials.
type FrontendKind uint8

// The kinds of frontends.
const (
	// FrontendClusterIP is an address out of the service CIDR, reachable from pods and nodes.
	FrontendClusterIP FrontendKind = 1
	// FrontendNodePort is a port of each node.
	FrontendNodePort FrontendKind = 2
	// FrontendExternalIP is an address of spec.externalIPs.
	FrontendExternalIP FrontendKind = 3
	// FrontendLoadBalancer is an address of status.loadBalancer.
	FrontendLoadBalancer FrontendKind = 4
	// FrontendHostPort is a hostPort of a pod of the node whose layer holds the row.
	FrontendHostPort FrontendKind = 5
	// FrontendRefused is a ClusterIP's row for all ports that it doesn't serve: port and protocol 0, no set.
	// Clients are refused at once.
	FrontendRefused FrontendKind = 6
)

// FrontendFlags are properties of a frontend.
type FrontendFlags uint16

// The flags.
const (
	// InternalLocal sends pods and node processes to backends of their own node alone (internalTrafficPolicy).
	InternalLocal FrontendFlags = 1 << iota
	// ExternalLocal sends clients from outside to backends of the node that they reach alone
	// (externalTrafficPolicy), with their own address. Pods and node processes still get all backends.
	ExternalLocal
	// SourceRanges drops clients whose address is in none of the root set's SourceRanges.
	SourceRanges
	// ForwardTunnel keeps the address of a client from outside when its backend is on another node: packets go there
	// wrapped, and answers come back the same way. Without it and ForwardDSR the node that was reached masquerades.
	ForwardTunnel
	// ForwardDSR is ForwardTunnel, but that the backend's node answers the client itself (direct server return).
	ForwardDSR
)

// BackendState says whether a backend takes new connections.
type BackendState uint8

// A backend is Active while ready, Terminating while it only finishes what it has.
const (
	BackendActive      BackendState = 1
	BackendTerminating BackendState = 2
)

// Match says which addresses a FrontendKey stands for.
type Match uint8

// The matches. Those of a node's own addresses have the unspecified address of their family in the key.
const (
	// MatchAddress is exactly the address.
	MatchAddress Match = 0
	// MatchNodePort is each of the node's addresses that serves NodePorts.
	MatchNodePort Match = 1
	// MatchHostPort is each of the node's addresses.
	MatchHostPort Match = 2
)

// FrontendKey is what a client dials.
type FrontendKey struct {
	Addr     netip.Addr // never IPv4-mapped
	Port     uint16     // host byte order; 0 only for FrontendRefused
	Protocol Protocol   // 0 only for FrontendRefused
	Match    Match
}

// String returns "address:port/PROTOCOL"; a node's own address is "node".
func (k FrontendKey) String() string {
	switch {
	case k.Port == 0:
		return k.Addr.String() + " (other ports)"
	case k.Match != MatchAddress:
		family := "4"
		if k.Addr.Is6() {
			family = "6"
		}
		return fmt.Sprintf("node%s:%d/%s", family, k.Port, k.Protocol)
	}
	return netip.AddrPortFrom(k.Addr, k.Port).String() + "/" + k.Protocol.String()
}

// Frontend sends what arrives at its key to a backend of Set, or of one of its Views.
type Frontend struct {
	FrontendKey
	Set   SetID // a root; 0 only for FrontendRefused
	Kind  FrontendKind
	Flags FrontendFlags
}

// SetKey is the meaning of a SetID.
type SetKey struct {
	Service ServicePort // for ScopeHostPort the pod's name and the hostPort
	Family  Family
	Scope   Scope
	Place   Place // the zone or node of the scope; 0 for ScopeAll
}

// SetFlags are properties of a set.
type SetFlags uint8

// The flags. The first two are a root's: all its ready backends have hints of that sort, so that the View of a
// client's node or zone counts, if there is one (kube-proxy's topologyModeFromHints).
const (
	NodeHints SetFlags = 1 << iota
	ZoneHints
	// Fallback says that no backend of the set is ready: its members terminate, and still serve.
	Fallback
	// External says that clients from outside get to the set, under externalTrafficPolicy Cluster: which member serves
	// one is worked out the same way on every node. A root's, and its zones'.
	External
)

// BackendSet is the backends of one ServicePort in one family and scope. A root without members refuses
// connections: that is how a Service without endpoints answers.
type BackendSet struct {
	ID SetID
	SetKey
	Root  SetID // the set of ScopeAll or ScopeHostPort that this one is a part of; its own id if it is one
	Flags SetFlags
	// Affinity is how long a client that dials again gets the same backend, in seconds up to 86,400; 0 is not.
	Affinity uint32
}

// ViewKey names a part of a root set.
type ViewKey struct {
	Set   SetID // the root
	Scope Scope // ScopeZone, ScopeNode or ScopeLocal
	Place Place // the zone for ScopeZone; 0 else, since the row is in the node's layer
}

// View leads from a root set to one of its parts. Where there is no View of ScopeZone or ScopeNode the root is
// used; where there is none of ScopeLocal no backend is on the node.
type View struct {
	ViewKey
	Target SetID // in the layer of the View, with its members and, in a node's layer, its backends
}

// Member puts one backend into one set. The order of members has no meaning.
type Member struct {
	Set     SetID
	Backend BackendID
}

// BackendKey is the meaning of a BackendID. Set is the root: a backend belongs to one ServicePort, so a backend
// that is gone is gone for all who chose it. Layers are closed in themselves, so a node's layer has rows of its own,
// with Place, for backends that are in sets of that layer; see Backend.Twin.
type BackendKey struct {
	Set   SetID
	Addr  netip.Addr // never IPv4-mapped
	Port  uint16     // host byte order, never 0
	Place Place      // the node in a node's layer, else 0
}

// Backend is an address and port that serve a ServicePort.
type Backend struct {
	ID BackendID
	BackendKey
	State BackendState
	// Twin is the same backend in the cluster layer, for one in a node's layer; 0 in the cluster layer, and for
	// ScopeHostPort, which has none. Flows, sockets and affinities remember the twin, so that a Service may lose
	// its sets in nodes' layers (traffic policy Local, hints for nodes) and they stay. It may be missing where one
	// layer is ahead of the other: then they remember the row itself.
	Twin BackendID
	// Node is where the backend is; 0 is not known.
	Node NodeID
	// Weight is the backend's share of clients from outside against that of others of its set: 2 to 100; 0 is 1, as
	// nearly all have it. See Share.
	Weight uint16
}

// MaxWeight is the greatest weight of a backend.
const MaxWeight = 100

// Share returns the backend's weight as a number to reckon with, 1 to MaxWeight.
func (r Backend) Share() uint16 { return max(1, r.Weight) }

// SourceRange is a prefix that a root set's frontends with flag SourceRanges take clients from.
type SourceRange struct {
	Set    SetID
	Prefix netip.Prefix // masked, never IPv4-mapped
}

// NetworkKind says whose addresses a prefix has.
type NetworkKind uint8

// The kinds of networks.
const (
	// NetworkPods is pods' addresses: who sends from there is inside the cluster.
	NetworkPods NetworkKind = 1
	// NetworkServices is ClusterIPs: what no frontend stands for is dropped, so that it never loops.
	NetworkServices NetworkKind = 2
)

// Network is a prefix of the cluster.
type Network struct {
	Prefix netip.Prefix // masked, never IPv4-mapped
	Kind   NetworkKind
}

// HealthCheck is a healthCheckNodePort: each node answers there whether it has local backends of a Service.
type HealthCheck struct {
	Port      uint16
	Namespace string
	Name      string
}

// Node is how the other nodes reach one: its addresses in the network that joins them (status.addresses of type
// InternalIP, the first of each family). One of them may be missing, not both.
type Node struct {
	ID     NodeID
	V4, V6 netip.Addr // the zero Addr is none
}

// Text writes the node's addresses.
func (n Node) Text() string {
	switch {
	case !n.V6.IsValid():
		return n.V4.String()
	case !n.V4.IsValid():
		return n.V6.String()
	}
	return n.V4.String() + " and " + n.V6.String()
}

// Self is what a node must know of itself: one row, in the node's layer.
type Self struct {
	Zone     string // topology.kubernetes.io/zone, at most 63 bytes; may be empty
	Draining bool   // about to be deleted: load balancers should send nothing new
	// Policed says that there are policies in the cluster: the connections of pods are tracked and judged, and a pod
	// that has no Endpoint yet passes nothing.
	Policed bool
}

// Endpoint is a local attachment: one address of one pod of the node whose layer holds the row. The
// programmer finds the pod's interface by routing to the address.
type Endpoint struct {
	Addr netip.Addr // never IPv4-mapped
	Pod  string     // "namespace/name", at most 317 bytes
	// Incarnation differs between pods that have one address or name after each other: the first 4 bytes of the
	// SHA-256 of the pod's uid, big endian. What was judged for another says nothing about this one.
	Incarnation uint32
	// Ingress and Egress judge what comes to the pod and what it sends; 0 is no policy: all passes.
	Ingress, Egress RuleSetID
}
