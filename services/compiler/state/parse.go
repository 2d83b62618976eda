// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Bounds of what is compiled. They are those of the Kubernetes API where it has one.
const (
	// MaxEndpoints bounds the endpoints of one EndpointSlice (discovery.k8s.io/v1: 1,000).
	MaxEndpoints = 1000
	// MaxPorts bounds the ports of one object.
	MaxPorts = 1024
	// MaxAddresses bounds the addresses of one Pod or Node.
	MaxAddresses = 64
	// MaxHints bounds the zones, and the nodes, that one endpoint has hints for (discovery.k8s.io/v1: 8).
	MaxHints = 8
	// maxLabel is the longest namespace or Service name (RFC 1123 label), maxName the longest other name.
	maxLabel, maxName = 63, 253
)

func checkName(kind string, n Name) error {
	longest := maxName
	if kind == KindService {
		longest = maxLabel
	}
	switch {
	case n.Name == "":
		return errors.New("it has no name")
	case len(n.Name) > longest:
		return fmt.Errorf("its name has %d bytes: Kubernetes allows %d", len(n.Name), longest)
	case len(n.Namespace) > maxLabel:
		return fmt.Errorf("its namespace has %d bytes: Kubernetes allows %d", len(n.Namespace), maxLabel)
	case n.Namespace == "" && !unspaced(kind):
		return errors.New("it has no namespace")
	case n.Namespace != "" && unspaced(kind):
		return fmt.Errorf("it has the namespace %.64q, and a %s has none", n.Namespace, kind)
	case strings.ContainsFunc(n.Name+n.Namespace, forbidden) || !utf8.ValidString(n.Name+n.Namespace):
		return fmt.Errorf("the name %q is none that Kubernetes allows", n.String())
	}
	return nil
}

// unspaced says that objects of a kind are in no namespace.
func unspaced(kind string) bool {
	return kind == KindNode || kind == KindNamespace || kind == KindClusterNetworkPolicy
}

// forbidden says that a character is in no name: it would make keys ambiguous, or messages that nodes refuse.
func forbidden(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }

func parseSlice(n Name, m *schemas.EndpointSlice) (*Slice, error) {
	s := &Slice{Name: n, Service: m.GetService(), Family: model.Family(m.GetFamily()), Weight: 1}
	if m.GetFamily() == schemas.IPFamily_IP_FAMILY_UNSPECIFIED && len(m.GetEndpoints()) == 0 {
		return s, nil // of host names, or none for this proxy
	}
	if s.Family != model.IPv4 && s.Family != model.IPv6 {
		return nil, fmt.Errorf("address family %d: want IPv4 or IPv6", m.GetFamily())
	}
	if got := len(m.GetEndpoints()); got > MaxEndpoints {
		return nil, fmt.Errorf("it has %d endpoints: Kubernetes allows %d in one EndpointSlice, use more slices",
			got, MaxEndpoints)
	}
	if len(m.GetPorts()) > MaxPorts {
		return nil, fmt.Errorf("it has %d ports: the bound is %d", len(m.GetPorts()), MaxPorts)
	}
	for i, p := range m.GetPorts() {
		port, err := parsePort(p.GetName(), p.GetProtocol(), p.GetPort())
		if err != nil {
			return nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		s.Ports = append(s.Ports, port)
	}
	pack := newPacker(len(m.GetEndpoints()), s.Family)
	for i, e := range m.GetEndpoints() {
		addr, err := parseEndpoint(e, s.Family)
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d]: %w", i, err)
		}
		pack.add(Endpoint{
			Addr: addr, Ready: e.GetReady(), Serving: e.GetServing(), Terminating: e.GetTerminating(),
			Node: e.GetNode(), Zone: e.GetZone(),
			Hints: &Hints{Zones: hintsOf(e.GetZoneHints()), Nodes: hintsOf(e.GetNodeHints())},
		})
	}
	s.packed, s.names, s.hints = string(pack.packed), slices.Clone(pack.names), slices.Clone(pack.hints)
	var notWeight error
	s.Weight, notWeight = weightOf(m.GetWeight())
	return s, notWeight
}

// weightOf reads an annotation. One that can't be read is the same as none.
func weightOf(annotation string) (uint16, error) {
	if annotation == "" {
		return 1, nil
	}
	n, err := strconv.ParseUint(annotation, 10, 16)
	if err != nil || n < 1 || n > model.MaxWeight {
		return 1, fmt.Errorf("annotation deltaplane.io/weight: %.64q is no number from 1 to %d; its endpoints have weight 1", annotation, model.MaxWeight)
	}
	return uint16(n), nil
}

// parseEndpoint refuses what Kubernetes does (ValidateEndpointIP) and what isn't of the slice's family.
func parseEndpoint(e *schemas.SliceEndpoint, family model.Family) (netip.Addr, error) {
	addr, err := address(e.GetAddress())
	if err != nil {
		return addr, err
	}
	if model.FamilyOf(addr) != family {
		return addr, fmt.Errorf("address %s is not IPv%d, the family of the slice", addr, family)
	}
	if addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return addr, fmt.Errorf("address %s means another host on every node", addr)
	}
	if err := checkNode(e.GetNode()); err != nil {
		return addr, err
	}
	if len(e.GetZone()) > maxName {
		return addr, fmt.Errorf("the name of its zone has more than %d bytes", maxName)
	}
	return addr, checkHints(e)
}

// checkHints refuses what Kubernetes does: too many hints, and names that can't be.
func checkHints(e *schemas.SliceEndpoint) error {
	if len(e.GetZoneHints()) > MaxHints || len(e.GetNodeHints()) > MaxHints {
		return fmt.Errorf("it has hints for more than %d zones or nodes", MaxHints)
	}
	for _, zone := range e.GetZoneHints() {
		if len(zone) > maxLabel || strings.ContainsFunc(zone, forbidden) || !utf8.ValidString(zone) {
			return fmt.Errorf("its hint %.64q names no zone", zone)
		}
	}
	for _, node := range e.GetNodeHints() {
		if node == "" {
			continue
		}
		if err := checkName(KindNode, Name{Name: node}); err != nil {
			return fmt.Errorf("its hint: %w", err)
		}
	}
	return nil
}

// hintsOf returns names in order, once each, without the empty one.
func hintsOf(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	slices.Sort(names)
	return slices.Compact(names)
}

func checkNode(node string) error {
	if node == "" {
		return nil
	}
	if err := checkName(KindNode, Name{Name: node}); err != nil {
		return fmt.Errorf("its node: %w", err)
	}
	return nil
}

func parsePort(name string, protocol schemas.Protocol, number uint32) (Port, error) {
	p := Port{Name: name, Protocol: model.Protocol(protocol), Number: uint16(number)}
	switch p.Protocol {
	case model.TCP, model.UDP, model.SCTP:
	default:
		return p, fmt.Errorf("protocol %d: want TCP (6), UDP (17) or SCTP (132)", protocol)
	}
	if schemas.Protocol(p.Protocol) != protocol {
		return p, fmt.Errorf("protocol %d: want TCP (6), UDP (17) or SCTP (132)", protocol)
	}
	if number > 65535 {
		return p, fmt.Errorf("port %d: want 1 to 65535", number)
	}
	return p, nil
}

func addresses(field string, raw [][]byte, bound int) ([]netip.Addr, error) {
	if len(raw) > bound {
		return nil, fmt.Errorf("%s: there are %d, the bound is %d", field, len(raw), bound)
	}
	var addrs []netip.Addr
	for i, b := range raw {
		addr, err := address(b)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func address(b []byte) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return addr, fmt.Errorf("an address of %d bytes: want 4 or 16", len(b))
	}
	addr = addr.Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() {
		return addr, fmt.Errorf("address %s names no single host", addr)
	}
	return addr, nil
}
