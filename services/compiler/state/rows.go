// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/hashicorp/go-memdb"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Service is what of a Kubernetes Service decides about packets.
type Service struct {
	Name
	ClusterIPs []netip.Addr // none for a headless Service
	Ports      []Port       // no two with the same name, none with the same number and protocol
	ProxyName  string       // another proxy handles the Service
	Type       string
	Created    time.Time
}

// Port is a named port, of a Service or of the endpoints of a slice.
type Port struct {
	Name     string
	Protocol model.Protocol
	Number   uint16 // host byte order; 0 in a slice is a port without a number
}

// Pod is what of a Kubernetes Pod decides about packets.
type Pod struct {
	Name
	Node        string // empty until it is scheduled
	Addresses   []netip.Addr
	HostNetwork bool
	Finished    bool
	Labels      Labels
}

// Node is what of a Kubernetes Node decides about packets.
type Node struct {
	Name
	Addresses []netip.Addr
	PodCIDRs  []string
	Zone      string
}

// Namespace is a Kubernetes Namespace.
type Namespace struct {
	Name
	Labels Labels
}

// Policy is a Kubernetes NetworkPolicy.
type Policy struct {
	Name
	SpecJSON string
}

// Labels are an object's labels as one interned string: most pods of a workload have the same.
type Labels struct{ packed unique.Handle[string] }

func packLabels(labels map[string]string) Labels {
	var b strings.Builder
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteString(k)
		b.WriteByte(0)
		b.WriteString(labels[k])
		b.WriteByte(0)
	}
	return Labels{unique.Make(b.String())}
}

// Map returns the labels as a new map.
func (l Labels) Map() map[string]string {
	m := map[string]string{}
	if l == (Labels{}) {
		return m
	}
	parts := strings.Split(l.packed.Value(), "\x00")
	for i := 0; i+1 < len(parts); i += 2 {
		m[parts[i]] = parts[i+1]
	}
	return m
}

// claim is the key under which a Service is found by one of its addresses.
func claim(addr netip.Addr) string {
	a := addr.As16()
	return string(a[:])
}

func name[R interface{ key() string }](row R) string { return row.key() }

const (
	byClaim   = "claim"   // services by cluster address
	byService = "service" // slices by their Service
	byNode    = "node"    // pods by node
)

var (
	services = &table[*Service]{"services", name[*Service], map[string]func(*Service) []string{
		byClaim: func(s *Service) []string {
			keys := make([]string, len(s.ClusterIPs))
			for i, addr := range s.ClusterIPs {
				keys[i] = claim(addr)
			}
			return keys
		},
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
		byNode: func(p *Pod) []string {
			if p.Node == "" {
				return nil
			}
			return []string{p.Node}
		},
	}}
	nodes      = &table[*Node]{name: "nodes", key: name[*Node]}
	namespaces = &table[*Namespace]{name: "namespaces", key: name[*Namespace]}
	policies   = &table[*Policy]{name: "policies", key: name[*Policy]}
	clusters   = &table[*Cluster]{name: "clusters", key: name[*Cluster]}
	completes  = &table[*Complete]{name: "completes", key: name[*Complete]}
	setAside   = &table[*SetAside]{name: "set_aside", key: name[*SetAside]}
)

var schema = &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
	services.name: services.schema(), endpointSlices.name: endpointSlices.schema(), pods.name: pods.schema(),
	nodes.name: nodes.schema(), namespaces.name: namespaces.schema(), policies.name: policies.schema(),
	clusters.name: clusters.schema(), completes.name: completes.schema(), setAside.name: setAside.schema(),
}}
