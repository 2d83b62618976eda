// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// putRemote makes the first Service a load balancer's, whose clients keep their address, and its backend another node's.
func putRemote(t testing.TB, d *Dataplane, service, backend string) {
	t.Helper()
	putForwarded(t, d, service, backend, 2, model.ForwardTunnel)
}

// putForwarded does so with a way to forward, and a node of the backend's; there are nodes 1 and 2.
func putForwarded(t testing.TB, d *Dataplane, service, backend string, node uint32, flags model.FrontendFlags) {
	t.Helper()
	s, b := netip.MustParseAddrPort(service), netip.MustParseAddrPort(backend)
	check(t, d.SetLocals(map[netip.Addr]uint8{netip.MustParseAddr("192.0.2.1"): 0}))
	for id, addr := range map[uint32]string{1: "192.0.2.1", 2: "192.0.2.2"} {
		check(t, d.Map(abi.Nodes).Put(abi.Encode(id), abi.Encode(abi.Node{V4: netip.MustParseAddr(addr).As16()})))
	}
	check(t, d.Map(abi.Backends).Put(abi.Encode(uint32(1)), abi.Encode(abi.Backend{
		Addr: b.Addr().As16(), Port: abi.Port(b.Port()), Set: 1, Node: node, Weight: 1, State: uint8(model.BackendActive),
	})))
	key := model.FrontendKey{Addr: s.Addr(), Port: s.Port(), Protocol: model.TCP}
	check(t, d.Map(abi.Frontends).Put(abi.Encode(abi.KeyOfFrontend(key)), abi.Encode(abi.Frontend{
		Set: 1, Kind: uint8(model.FrontendLoadBalancer), Flags: uint16(flags),
	})))
}

// TestMapOperationsOfWrappedPackets holds what programs/uplinks.c promises about packets for other nodes.
func TestMapOperationsOfWrappedPackets(t *testing.T) {
	const outside, service, backend = "198.51.100.7:4000", "10.96.0.1:80", "10.1.0.1:8080"
	inOneSecond(t, Options{Capacities: small, Flows: 1024, Node: 1, Tunnel: Tunnel{VNI: 7}}, func(d *Dataplane) []operation {
		putRemote(t, d, service, backend)
		check(t, d.TellTunnel(9))
		return []operation{
			{"a new connection", d.RunFromUplink, frame(t, model.TCP, outside, service, "S", 0), counted{17, 2}},
			{"a known connection", d.RunFromUplink, frame(t, model.TCP, outside, service, "A", 9), counted{3, 0}},
			{"amid an unknown connection", d.RunFromUplink, frame(t, model.TCP, "198.51.100.7:4001", service, "A", 9), counted{17, 1}},
		}
	})
}
