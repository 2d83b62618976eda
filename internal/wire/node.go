// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func networkFromProto(m *schemas.Network) (model.Network, error) {
	prefix, err := prefixFromProto(m.GetPrefix())
	var errKind error
	if k := m.GetKind(); k != schemas.NetworkKind_NETWORK_KIND_PODS && k != schemas.NetworkKind_NETWORK_KIND_SERVICES {
		errKind = fmt.Errorf("kind %d is unknown here", k)
	}
	return model.Network{Prefix: prefix, Kind: model.NetworkKind(m.GetKind())}, first(err, errKind)
}

func healthCheckFromProto(m *schemas.HealthCheck) (model.HealthCheck, error) {
	port, err := PortFromProto(m.GetPort())
	return model.HealthCheck{Port: port, Namespace: m.GetNamespace(), Name: m.GetService()},
		first(err, Name("namespace", m.GetNamespace()), Name("service", m.GetService()))
}

func nodeID(id uint32) (model.NodeID, error) {
	if id == 0 {
		return 0, fmt.Errorf("number 0 is no node")
	}
	return model.NodeID(id), nil
}

func nodeToProto(n model.Node) *schemas.NodeAddress {
	return &schemas.NodeAddress{Node: uint32(n.ID), V4: n.V4.AsSlice(), V6: n.V6.AsSlice()}
}

func nodeFromProto(m *schemas.NodeAddress) (model.Node, error) {
	id, errID := nodeID(m.GetNode())
	v4, errV4 := nodeAddr(m.GetV4(), model.IPv4)
	v6, errV6 := nodeAddr(m.GetV6(), model.IPv6)
	var errNone error
	if !v4.IsValid() && !v6.IsValid() {
		errNone = fmt.Errorf("node %#x has no address", m.GetNode())
	}
	return model.Node{ID: id, V4: v4, V6: v6}, first(errID, errV4, errV6, errNone)
}

// nodeAddr reads an address that packets can be sent to, or none.
func nodeAddr(b []byte, family model.Family) (netip.Addr, error) {
	if len(b) == 0 {
		return netip.Addr{}, nil
	}
	addr, err := AddrFromProto(b)
	switch {
	case err != nil:
		return addr, err
	case len(b) != addr.BitLen()/8 || model.FamilyOf(addr) != family || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback():
		return addr, fmt.Errorf("address %s of %d bytes is no other host's of IPv%d", addr, len(b), family)
	}
	return addr, nil
}

func selfFromProto(m *schemas.Self) (model.Self, error) {
	return model.Self{Zone: m.GetZone(), Draining: m.GetDraining(), Policed: m.GetPoliced()}, text("zone", m.GetZone(), MaxZone)
}
