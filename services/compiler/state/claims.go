// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/deltaplane/deltaplane/internal/model"
)

// A claim is something that one Service at most can have, as a key of the index byClaim. Which of several claimants
// has it is for compile to say; here it is known who must be asked again when a claim comes or goes.
//
//	kind (1) | address (16) | port (2) | protocol (1)
//
// A cluster address is claimed whole, so its key ends after the address.
type claimKind byte

const (
	claimCluster  claimKind = 'c'
	claimExternal claimKind = 'e'
	claimBalancer claimKind = 'l'
	claimNodePort claimKind = 'n'
	claimHealth   claimKind = 'h'
	claimHost     claimKind = 'p' // a hostPort with a hostIP, of a Pod
)

func claimAddress(kind claimKind, addr netip.Addr) string {
	a := addr.As16()
	return string(kind) + string(a[:])
}

func claimKey(kind claimKind, key model.FrontendKey) string {
	b := binary.BigEndian.AppendUint16([]byte(claimAddress(kind, key.Addr)), key.Port)
	return string(append(b, byte(key.Protocol)))
}

// NodePortKey is the key of the frontend for a NodePort in one family.
func NodePortKey(family model.Family, port Port) model.FrontendKey {
	return model.FrontendKey{Addr: Unspecified(family), Port: port.NodePort, Protocol: port.Protocol, Match: model.MatchNodePort}
}

// Unspecified is the address that stands for all addresses of a node.
func Unspecified(family model.Family) netip.Addr {
	if family == model.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// Foreign says that other software serves the Service, so that it has no rows and claims nothing.
func (s *Service) Foreign() bool { return s.ProxyName != "" || s.Type == "ExternalName" }

// Families returns the families that the Service has: those of its cluster addresses, IPv4 first.
func (s *Service) Families() (families []model.Family) {
	for _, family := range []model.Family{model.IPv4, model.IPv6} {
		if slices.ContainsFunc(s.ClusterIPs, func(a netip.Addr) bool { return model.FamilyOf(a) == family }) {
			families = append(families, family)
		}
	}
	return families
}

// HealthCheck returns the port on which nodes say whether they have local backends (as NeedsHealthCheck of
// Kubernetes); 0 is none.
func (s *Service) HealthCheck() uint16 {
	if s.Type == "LoadBalancer" && s.ExternalLocal {
		return s.HealthCheckNodePort
	}
	return 0
}

// claims returns the keys of all that the Service claims, sorted.
func (s *Service) claims() []string {
	if s.Foreign() {
		return nil
	}
	var keys []string
	for _, addr := range s.ClusterIPs {
		keys = append(keys, claimAddress(claimCluster, addr))
	}
	if port := s.HealthCheck(); port != 0 {
		keys = append(keys, claimKey(claimHealth, healthKey(port)))
	}
	families := s.Families()
	for _, port := range s.Ports {
		keys = append(keys, claimsTo(claimExternal, s.ExternalIPs, families, port)...)
		keys = append(keys, claimsTo(claimBalancer, s.LoadBalancerIPs, families, port)...)
		for _, family := range families {
			if port.NodePort != 0 {
				keys = append(keys, claimKey(claimNodePort, NodePortKey(family, port)))
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func claimsTo(kind claimKind, addrs []netip.Addr, families []model.Family, port Port) (keys []string) {
	for _, addr := range addrs {
		if slices.Contains(families, model.FamilyOf(addr)) {
			keys = append(keys, claimKey(kind, model.FrontendKey{Addr: addr, Port: port.Number, Protocol: port.Protocol}))
		}
	}
	return keys
}

func healthKey(port uint16) model.FrontendKey {
	return model.FrontendKey{Addr: netip.IPv4Unspecified(), Port: port, Protocol: model.TCP}
}

// claims returns the keys of the hostPorts of a Pod that stand for one address.
func (p *Pod) claims() (keys []string) {
	if p.Node == "" || len(p.Attached()) == 0 {
		return nil
	}
	for _, h := range p.HostPorts {
		if h.HostIP.IsValid() && !h.HostIP.IsUnspecified() {
			keys = append(keys, claimKey(claimHost, h.Key(h.HostIP)))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// rivals returns what has to be compiled again when a Service changes: itself, and whatever claims what it has begun
// or ceased to claim. If its age changed, that is all that it claims.
func rivals(txn *memdb.Txn, n Name, old, now *Service) (touch Touch) {
	touch.Services = []Name{n}
	for _, key := range changedClaims(old, now) {
		touch.rivals(txn, key)
	}
	slices.SortFunc(touch.Services, Name.Compare)
	touch.Services = slices.Compact(touch.Services)
	slices.Sort(touch.Nodes)
	touch.Nodes = slices.Compact(touch.Nodes)
	return touch
}

func changedClaims(old, now *Service) []string {
	var before, after []string
	if old != nil {
		before = old.claims()
	}
	if now != nil {
		after = now.claims()
	}
	if old != nil && now != nil && !old.Created.Equal(now.Created) {
		return slices.Concat(before, after)
	}
	in := func(keys []string) func(string) bool {
		return func(key string) bool { _, found := slices.BinarySearch(keys, key); return found }
	}
	return slices.Concat(slices.DeleteFunc(slices.Clone(before), in(after)), slices.DeleteFunc(after, in(before)))
}

// rivals adds those who claim the same. A cluster address beats claims to any of its ports.
func (t *Touch) rivals(txn *memdb.Txn, key string) {
	kind, rest := claimKind(key[0]), key[1:]
	switch kind {
	case claimCluster:
		t.services(services.by(txn, byClaim, key))
		t.services(services.byPrefix(txn, byClaim, string(claimExternal)+rest))
		t.services(services.byPrefix(txn, byClaim, string(claimBalancer)+rest))
		t.hosts(pods.byPrefix(txn, byClaim, string(claimHost)+rest))
	case claimExternal, claimBalancer:
		t.services(services.by(txn, byClaim, string(claimExternal)+rest))
		t.services(services.by(txn, byClaim, string(claimBalancer)+rest))
		t.hosts(pods.by(txn, byClaim, string(claimHost)+rest))
	default:
		t.services(services.by(txn, byClaim, key))
	}
}

func (t *Touch) services(of iter.Seq[*Service]) {
	for s := range of {
		t.Services = append(t.Services, s.Name)
	}
}

func (t *Touch) hosts(of iter.Seq[*Pod]) {
	for p := range of {
		t.Nodes = append(t.Nodes, p.Node)
	}
}

// Claims iterates over the Services that have addr among their cluster addresses.
func (s *Snapshot) Claims(addr netip.Addr) iter.Seq[*Service] {
	return services.by(s.txn, byClaim, claimAddress(claimCluster, addr))
}

// ExternalClaims iterates over the Services that have the key's address among their external addresses, with its
// port and protocol.
func (s *Snapshot) ExternalClaims(key model.FrontendKey) iter.Seq[*Service] {
	return services.by(s.txn, byClaim, claimKey(claimExternal, key))
}

// BalancerClaims iterates over the Services that have the key's address among those of their load balancers, with its
// port and protocol.
func (s *Snapshot) BalancerClaims(key model.FrontendKey) iter.Seq[*Service] {
	return services.by(s.txn, byClaim, claimKey(claimBalancer, key))
}

// NodePortClaims iterates over the Services with a NodePort.
func (s *Snapshot) NodePortClaims(key model.FrontendKey) iter.Seq[*Service] {
	return services.by(s.txn, byClaim, claimKey(claimNodePort, key))
}

// HealthCheckClaims iterates over the Services whose health nodes tell on a port.
func (s *Snapshot) HealthCheckClaims(port uint16) iter.Seq[*Service] {
	return services.by(s.txn, byClaim, claimKey(claimHealth, healthKey(port)))
}
