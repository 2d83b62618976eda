// SPDX-License-Identifier: Apache-2.0

// Package model has the words of the data plane as types: what a node's tables hold (frontends, backend
// sets, members, backends, endpoints), who a row is for (layers), how far a node has come (positions and
// digests), why something changed (causes) and why a packet was dropped (reasons).
//
// It promises to be pure: no input or output, no clock, no dependency outside the standard library, so that
// the compiler, the programmer, the reference model and the tests all speak of the same things. Values are
// never changed once shared. Before changing a row's fields read digest.go: the bytes that are hashed are
// part of what nodes and compiler must agree on.
package model

import (
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

// ScopeAll is every usable backend in the cluster. Zone and node scopes come with traffic distribution.
const ScopeAll Scope = 1

// FrontendKind says what kind of address a client dials.
type FrontendKind uint8

// FrontendClusterIP is an address out of the service CIDR, reachable from pods and nodes.
const FrontendClusterIP FrontendKind = 1

// BackendState says whether a backend takes new connections.
type BackendState uint8

// A backend is Active while ready, Terminating while it only finishes what it has.
const (
	BackendActive      BackendState = 1
	BackendTerminating BackendState = 2
)

// FrontendKey is what a client dials.
type FrontendKey struct {
	Addr     netip.Addr // never IPv4-mapped
	Port     uint16     // host byte order, never 0
	Protocol Protocol
}

// String returns "address:port/PROTOCOL".
func (k FrontendKey) String() string {
	return netip.AddrPortFrom(k.Addr, k.Port).String() + "/" + k.Protocol.String()
}

// Frontend sends what arrives at its key to a backend of Set.
type Frontend struct {
	FrontendKey
	Set  SetID
	Kind FrontendKind
}

// SetKey is the meaning of a SetID.
type SetKey struct {
	Service ServicePort
	Family  Family
	Scope   Scope
}

// BackendSet is the backends of one ServicePort in one family and scope. A set without members refuses
// connections: that is how a Service without endpoints answers.
type BackendSet struct {
	ID SetID
	SetKey
}

// Member puts one backend into one set. The order of members has no meaning.
type Member struct {
	Set     SetID
	Backend BackendID
}

// BackendKey is the meaning of a BackendID. Set is the ServicePort's ScopeAll set of the address's family:
// a backend belongs to one ServicePort, so a backend that is gone is gone for all who chose it.
type BackendKey struct {
	Set  SetID
	Addr netip.Addr // never IPv4-mapped
	Port uint16     // host byte order, never 0
}

// Backend is an address and port that serve a ServicePort.
type Backend struct {
	ID BackendID
	BackendKey
	State BackendState
}

// Endpoint is a local attachment: one address of one pod of the node whose layer holds the row. The
// programmer finds the pod's interface by routing to the address.
type Endpoint struct {
	Addr netip.Addr // never IPv4-mapped
	Pod  string     // "namespace/name", at most 317 bytes
}
