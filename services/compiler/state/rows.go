// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Service is what of a Kubernetes Service decides about packets.
type Service struct {
	Name
	ClusterIPs      []netip.Addr // none for a headless Service
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Ports           []Port // no two with the same name, none with the same number and protocol
	ProxyName       string // another proxy handles the Service
	Type            string
	Created         time.Time

	InternalLocal, ExternalLocal bool // traffic policies
	HealthCheckNodePort          uint16
	AffinitySeconds              uint32 // at most MaxAffinity; 0 is no affinity
	Forwarding                   Forwarding
	// Restricted says that the load balancer takes clients out of SourceRanges alone, even if none of those given
	// could be read.
	Restricted   bool
	SourceRanges []netip.Prefix // masked, sorted
}

// Forwarding says how a client from outside gets to a backend on another node than the one it reached.
type Forwarding uint8

// The ways to forward. A Service that names none has the cluster's.
const (
	ForwardDefault Forwarding = iota
	ForwardTunnel             // wrapped, with its own address; the answer comes back the same way
	ForwardDSR                // the same, but the backend's node answers the client itself
	ForwardSNAT               // with the address of the node that it reached
)

// String returns the name that ParseForwarding reads; none for the default.
func (f Forwarding) String() string {
	return [...]string{ForwardDefault: "", ForwardTunnel: "tunnel", ForwardDSR: "dsr", ForwardSNAT: "snat"}[f]
}

// UnmarshalText reads the name of a way to forward.
func (f *Forwarding) UnmarshalText(text []byte) (err error) {
	*f, err = ParseForwarding(string(text))
	return err
}

// Port is a named port, of a Service or of the endpoints of a slice.
type Port struct {
	Name     string
	Protocol model.Protocol
	Number   uint16 // host byte order; 0 in a slice is a port without a number
	NodePort uint16 // of a Service; 0 is none
}

// Pod is what of a Kubernetes Pod decides about packets.
type Pod struct {
	Name
	Node        string // empty until it is scheduled
	Addresses   []netip.Addr
	HostNetwork bool
	Finished    bool
	Labels      Labels
	Ports       []Port // named ones; no two with the same name and protocol
	HostPorts   []HostPort
	// Incarnation tells pods of one name apart; see model.Endpoint.
	Incarnation uint32
}

// HostPort is a port of a Pod's node that leads to the Pod.
type HostPort struct {
	Protocol  model.Protocol
	Port      uint16     // on the node
	Container uint16     // in the Pod
	HostIP    netip.Addr // invalid is each address of the node, unspecified each of that family (as CNI's portmap has it)
}

// Key returns what clients dial for it. Unspecified stands for all addresses of a node.
func (h HostPort) Key(addr netip.Addr) model.FrontendKey {
	key := model.FrontendKey{Addr: addr, Port: h.Port, Protocol: h.Protocol}
	if addr.IsUnspecified() {
		key.Match = model.MatchHostPort
	}
	return key
}

// Node is what of a Kubernetes Node decides about packets.
type Node struct {
	Name
	Addresses []netip.Addr
	Internal  []netip.Addr   // the InternalIPs, in the Node's order
	PodCIDRs  []netip.Prefix // masked
	Zone      string         // at most 63 bytes
	Draining  bool           // about to be deleted
	Lost      bool           // its Lease has expired; decides nothing about packets
	Labels    Labels
}

// Cluster is what the watcher found out about the cluster.
type Cluster struct {
	Name
	Fact                   *schemas.Cluster // not to be changed
	PodCIDRs, ServiceCIDRs []netip.Prefix   // masked
}

// Namespace is a Kubernetes Namespace.
type Namespace struct {
	Name
	Labels Labels // with NamespaceLabel
}

func name[R interface{ key() string }](row R) string { return row.key() }

const (
	byClaim   = "claim"   // services and pods by what one of them at most can have
	byService = "service" // slices by their Service
	byNode    = "node"    // pods by node
	byNetwork = "network" // nodes by pods' prefix
	byNumber  = "number"  // nodes by the number that packets carry
)

var (
	services = &table[*Service]{"services", name[*Service], map[string]func(*Service) []string{
		byClaim: (*Service).claims,
	}}
	endpointSlices = &table[*Slice]{"slices", name[*Slice], map[string]func(*Slice) []string{
		byService: func(s *Slice) []string {
			if s.Service == "" {
				return nil
			}
			return []string{s.ServiceName().key()}
		},
	}}
	pods = &table[*Pod]{"pods", name[*Pod], map[string]func(*Pod) []string{
		byClaim: (*Pod).claims,
		byNode: func(p *Pod) []string {
			if p.Node == "" {
				return nil
			}
			return []string{p.Node}
		},
	}}
	nodes = &table[*Node]{"nodes", name[*Node], map[string]func(*Node) []string{
		byNetwork: func(n *Node) []string {
			keys := make([]string, len(n.PodCIDRs))
			for i, prefix := range n.PodCIDRs {
				keys[i] = prefix.String()
			}
			return keys
		},
		byNumber: func(n *Node) []string { return []string{numberKey(n.Number())} },
	}}
	namespaces = &table[*Namespace]{name: "namespaces", key: name[*Namespace]}
	policies   = &table[*Policy]{name: "policies", key: (*Policy).key}
	clusters   = &table[*Cluster]{name: "clusters", key: name[*Cluster]}
	completes  = &table[*Complete]{name: "completes", key: name[*Complete]}
	setAside   = &table[*SetAside]{name: "set_aside", key: name[*SetAside]}
)

var schema = &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
	services.name: services.schema(), endpointSlices.name: endpointSlices.schema(), pods.name: pods.schema(),
	nodes.name: nodes.schema(), namespaces.name: namespaces.schema(), policies.name: policies.schema(),
	clusters.name: clusters.schema(), completes.name: completes.schema(), setAside.name: setAside.schema(),
}}
