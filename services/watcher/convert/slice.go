// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// MaxSliceEndpoints bounds the endpoints of one EndpointSlice as Kubernetes does (k8s.io/kubernetes
// pkg/apis/discovery/validation, maxEndpoints). The compiler takes no more: refused here, a slice that grew too large
// keeps the endpoints that it had.
const MaxSliceEndpoints = 1000

// endpointSlice converts a slice. One that no proxy uses, of type FQDN, of a headless Service or for another proxy, has
// no family and no endpoints.
func endpointSlice(s *discoveryv1.EndpointSlice) (*schemas.EndpointSlice, error) {
	out := &schemas.EndpointSlice{Service: s.Labels[discoveryv1.LabelServiceName]}
	if leftAlone(s.Labels) || s.Labels[labelProxyName] != "" {
		return out, nil
	}
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4:
		out.Family = schemas.IPFamily_IP_FAMILY_IPV4
	case discoveryv1.AddressTypeIPv6:
		out.Family = schemas.IPFamily_IP_FAMILY_IPV6
	case discoveryv1.AddressTypeFQDN:
		return out, nil
	default:
		return nil, fmt.Errorf("addressType: %q is not IPv4, IPv6 or FQDN", s.AddressType)
	}
	if n := len(s.Endpoints); n > MaxSliceEndpoints {
		return nil, fmt.Errorf("endpoints: %d are more than %d; spread them over several slices", n, MaxSliceEndpoints)
	}
	var err error
	if out.Ports, err = slicePorts(s.Ports); err != nil {
		return nil, err
	}
	out.Weight = annotation(s.Annotations, AnnotationWeight)
	out.Endpoints, err = sliceEndpoints(s.Endpoints, model.Family(out.Family))
	return out, err
}

func slicePorts(ports []discoveryv1.EndpointPort) ([]*schemas.EndpointPort, error) {
	names := map[string]bool{}
	var out []*schemas.EndpointPort
	for i, p := range ports {
		field := fmt.Sprintf("ports[%d]", i)
		converted := &schemas.EndpointPort{Name: value(p.Name)}
		var err error
		if converted.Protocol, err = protocolOf(value(p.Protocol)); err != nil {
			return nil, fmt.Errorf("%s.protocol: %w", field, err)
		}
		if p.Port != nil {
			if converted.Port, err = portOf(*p.Port); err != nil {
				return nil, fmt.Errorf("%s.port: %w", field, err)
			}
		}
		if names[converted.Name] {
			return nil, fmt.Errorf("%s.name: %q is taken by an earlier port", field, converted.Name)
		}
		names[converted.Name] = true
		out = append(out, converted)
	}
	return out, nil
}

func sliceEndpoints(endpoints []discoveryv1.Endpoint, family model.Family) ([]*schemas.SliceEndpoint, error) {
	var out []*schemas.SliceEndpoint
	for i, e := range endpoints {
		if len(e.Addresses) == 0 {
			return nil, fmt.Errorf("endpoints[%d].addresses: is empty; an endpoint has at least one address", i)
		}
		addr, err := endpointAddress(e.Addresses[0], family)
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d].addresses[0]: %w", i, err)
		}
		// What is left out means ready, serving, and not terminating (discovery/v1 EndpointConditions).
		ready := e.Conditions.Ready == nil || *e.Conditions.Ready
		serving := e.Conditions.Serving == nil || *e.Conditions.Serving
		zones, nodes, err := hints(e.Hints)
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d].hints.%w", i, err)
		}
		out = append(out, &schemas.SliceEndpoint{
			Address: addr.AsSlice(), Ready: ready, Serving: serving, Terminating: value(e.Conditions.Terminating),
			Node: value(e.NodeName), Zone: value(e.Zone), ZoneHints: zones, NodeHints: nodes,
		})
	}
	return out, nil
}

// hints returns the zones and nodes whose clients should use an endpoint, each in order and once.
func hints(h *discoveryv1.EndpointHints) (zones, nodes []string, err error) {
	if h == nil {
		return nil, nil, nil
	}
	for i, zone := range h.ForZones {
		if zone.Name == "" {
			return nil, nil, fmt.Errorf("forZones[%d].name: is empty", i)
		}
		zones = append(zones, zone.Name)
	}
	for i, node := range h.ForNodes {
		if node.Name == "" {
			return nil, nil, fmt.Errorf("forNodes[%d].name: is empty", i)
		}
		nodes = append(nodes, node.Name)
	}
	slices.Sort(zones)
	slices.Sort(nodes)
	return slices.Compact(zones), slices.Compact(nodes), nil
}

// endpointAddress follows ValidateEndpointIP of k8s.io/kubernetes pkg/apis/core/validation: an endpoint is a machine's
// own address, never one that only means something on the machine that looks at it.
func endpointAddress(text string, family model.Family) (netip.Addr, error) {
	addr, err := unicast(text)
	if err != nil {
		return netip.Addr{}, err
	}
	if model.FamilyOf(addr) != family {
		return netip.Addr{}, fmt.Errorf("%s is no IPv%d address, which addressType asks for", addr, family)
	}
	if addr.IsLinkLocalUnicast() {
		return netip.Addr{}, fmt.Errorf("%s is a link-local address, which other nodes can't reach", addr)
	}
	return addr, nil
}

// value returns what p points at, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func protocolOf(p corev1.Protocol) (schemas.Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "": // the API's default
		return schemas.Protocol_PROTOCOL_TCP, nil
	case corev1.ProtocolUDP:
		return schemas.Protocol_PROTOCOL_UDP, nil
	case corev1.ProtocolSCTP:
		return schemas.Protocol_PROTOCOL_SCTP, nil
	}
	return 0, fmt.Errorf("%q is not TCP, UDP or SCTP", p)
}

func portOf(port int32) (uint32, error) {
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("%d is not between 1 and 65535", port)
	}
	return uint32(port), nil
}

// address reads an address without zone; one that is IPv4-mapped is refused, as the API does for new objects
// (KEP-4858): two spellings of one address would be two frontends.
func address(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is no IP address", text)
	case addr.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone, which means something on one machine only", text)
	case addr.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is an IPv4-mapped address; write %s", text, addr.Unmap())
	}
	return addr, nil
}

// unicast reads an address that one can send to from another machine.
func unicast(text string) (netip.Addr, error) {
	addr, err := address(text)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case addr.IsUnspecified():
		return netip.Addr{}, fmt.Errorf("%s is the unspecified address", addr)
	case addr.IsLoopback():
		return netip.Addr{}, fmt.Errorf("%s is a loopback address", addr)
	case addr.IsMulticast():
		return netip.Addr{}, fmt.Errorf("%s is a multicast address", addr)
	}
	return addr, nil
}
