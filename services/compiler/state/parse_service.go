// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/schemas"
)

// Bounds of a Service.
const (
	// MaxAffinity is the longest session affinity, in seconds: a day, as the Kubernetes API allows.
	MaxAffinity = 86_400
	// MaxSourceRanges bounds loadBalancerSourceRanges.
	MaxSourceRanges = 1024
	// MaxExternalAddresses bounds externalIPs, and the addresses of load balancers.
	MaxExternalAddresses = 256
)

// parseService reads a Service. Of external addresses and source ranges what can't be used is named, and the rest is
// used; a Service that had source ranges keeps others out even if none of them can be used.
func parseService(n Name, m *schemas.Service) (*Service, error) {
	s := &Service{
		Name: n, ProxyName: m.GetProxyName(), Type: m.GetType(), Created: m.GetCreated().AsTime(),
		InternalLocal: m.GetInternalLocal(), ExternalLocal: m.GetExternalLocal(),
		HealthCheckNodePort: uint16(m.GetHealthCheckNodePort()), AffinitySeconds: m.GetAffinitySeconds(),
		Restricted: len(m.GetSourceRanges()) > 0,
	}
	var err error
	if s.ClusterIPs, err = addresses("clusterIPs", m.GetClusterIps(), 2); err != nil {
		return nil, err
	}
	if s.Ports, err = parsePorts(m.GetPorts()); err != nil {
		return nil, err
	}
	if err := checkService(m); err != nil {
		return nil, err
	}
	var notExternal, notBalancer, notRanges, notForwarding error
	s.Forwarding, notForwarding = forwardingOf(m.GetForwarding())
	s.ExternalIPs, notExternal = usable("externalIPs", m.GetExternalIps())
	s.LoadBalancerIPs, notBalancer = usable("status.loadBalancer", m.GetLoadBalancerIps())
	s.SourceRanges, notRanges = prefixes("loadBalancerSourceRanges", m.GetSourceRanges())
	if notRanges != nil && len(s.SourceRanges) == 0 {
		notRanges = fmt.Errorf("%w; no range is left, so its load balancer's addresses take no client", notRanges)
	}
	return s, together(notExternal, notBalancer, notRanges, notForwarding)
}

// ParseForwarding reads the name of a way to forward.
func ParseForwarding(text string) (Forwarding, error) {
	switch text {
	case "tunnel":
		return ForwardTunnel, nil
	case "dsr":
		return ForwardDSR, nil
	case "snat":
		return ForwardSNAT, nil
	}
	return ForwardDefault, fmt.Errorf("%.64q is none of tunnel, dsr and snat", text)
}

// forwardingOf reads an annotation. One that can't be read is the same as none.
func forwardingOf(annotation string) (Forwarding, error) {
	if annotation == "" {
		return ForwardDefault, nil
	}
	f, err := ParseForwarding(annotation)
	if err != nil {
		return f, fmt.Errorf("annotation deltaplane.io/forwarding: %w; it is forwarded as the cluster's default is", err)
	}
	return f, nil
}

func checkService(m *schemas.Service) error {
	switch {
	case m.GetAffinitySeconds() > MaxAffinity:
		return fmt.Errorf("session affinity of %d s: Kubernetes allows %d", m.GetAffinitySeconds(), MaxAffinity)
	case m.GetHealthCheckNodePort() > 65535:
		return fmt.Errorf("healthCheckNodePort %d: want 1 to 65535", m.GetHealthCheckNodePort())
	case len(m.GetSourceRanges()) > MaxSourceRanges:
		return fmt.Errorf("it has %d loadBalancerSourceRanges: the bound is %d, join some", len(m.GetSourceRanges()), MaxSourceRanges)
	case len(m.GetExternalIps()) > MaxExternalAddresses || len(m.GetLoadBalancerIps()) > MaxExternalAddresses:
		return fmt.Errorf("it has more than %d externalIPs or addresses of a load balancer", MaxExternalAddresses)
	}
	return nil
}

func parsePorts(raw []*schemas.ServicePort) ([]Port, error) {
	if len(raw) > MaxPorts {
		return nil, fmt.Errorf("it has %d ports: the bound is %d", len(raw), MaxPorts)
	}
	var list []Port
	for i, p := range raw {
		port, err := parsePort(p.GetName(), p.GetProtocol(), p.GetPort())
		if err == nil && port.Number == 0 {
			err = errors.New("0 is no port")
		}
		if err == nil && p.GetNodePort() > 65535 {
			err = fmt.Errorf("nodePort %d: want 1 to 65535", p.GetNodePort())
		}
		port.NodePort = uint16(p.GetNodePort())
		if err == nil {
			err = rival(list, port)
		}
		if err != nil {
			return nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		list = append(list, port)
	}
	return list, nil
}

// rival refuses a port that can't stand beside the others of its Service.
func rival(ports []Port, port Port) error {
	for _, other := range ports {
		switch {
		case other.Name == port.Name:
			return fmt.Errorf("a second port with the name %q", port.Name)
		case other.Number == port.Number && other.Protocol == port.Protocol:
			return fmt.Errorf("a second port %d/%s", port.Number, port.Protocol)
		case other.NodePort != 0 && other.NodePort == port.NodePort && other.Protocol == port.Protocol:
			return fmt.Errorf("a second nodePort %d/%s", port.NodePort, port.Protocol)
		}
	}
	return nil
}

// usable returns the addresses that clients can dial from elsewhere, once each, and what is wrong with the others
// (ValidateNonSpecialIP of Kubernetes).
func usable(field string, raw [][]byte) (addrs []netip.Addr, wrong error) {
	var errs []error
	for i, b := range raw {
		addr, err := address(b)
		if err == nil && (addr.IsLoopback() || addr.IsLinkLocalUnicast()) {
			err = fmt.Errorf("address %s means another host on every node", addr)
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s[%d] is not used: %w", field, i, err))
		case !slices.Contains(addrs, addr):
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, together(errs...)
}

func sameService(a, b *Service) bool {
	return slices.Equal(a.ClusterIPs, b.ClusterIPs) && slices.Equal(a.Ports, b.Ports) &&
		a.ProxyName == b.ProxyName && a.Type == b.Type && a.Created.Equal(b.Created) &&
		slices.Equal(a.ExternalIPs, b.ExternalIPs) && slices.Equal(a.LoadBalancerIPs, b.LoadBalancerIPs) &&
		a.InternalLocal == b.InternalLocal && a.ExternalLocal == b.ExternalLocal &&
		a.Forwarding == b.Forwarding && a.HealthCheckNodePort == b.HealthCheckNodePort && a.AffinitySeconds == b.AffinitySeconds &&
		a.Restricted == b.Restricted && slices.Equal(a.SourceRanges, b.SourceRanges)
}
