// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// BenchmarkWire measures what is done for another node, or against a client, with a socket buffer (tc) and without (XDP),
// against the least that XDP can do; and what is done with what another node has wrapped, against the least that tc can. A
// packet is another one afterwards, so each is run alone, which costs both sides the same some 100 ns more; of what passes
// many are run. Those that were wrapped get their wrapping by a program in front, on both sides.
//
//	go test ./bpf -run '^$' -bench Wire -benchtime 15x
func BenchmarkWire(b *testing.B) {
	testkit.NeedKernel(b)
	ns := testkit.NewNetNS(b)
	ns.Sysctl(b, "net/ipv4/ip_forward", "1")
	ns.Up(b, "lo")
	ns.Do(b, func() {
		d, floor := benchWire(b)
		wire, uplink := d.wire.Programs[wireProgram], d.program("from_uplink")
		known := frame(b, model.TCP, benchOutside, "203.0.113.1:80", "A", 100)
		other := frame(b, model.TCP, benchOutside, "192.0.2.9:80", "A", 100)
		stranger := frame(b, model.TCP, "198.51.100.99:40000", "203.0.113.1:80", "S", 0)
		benchUnwrap(b, d, floor)
		for _, c := range []struct {
			name   string
			frame  []byte
			repeat int
			ours   *ebpf.Program
			floor  string
		}{
			{"wrap/xdp", known, 1, wire, "floor_wrap"},
			{"wrap/tc", known, 1, uplink, "floor_wrap"},
			{"drop/xdp", stranger, 1, wire, "floor_drop"},
			{"drop/tc", stranger, 1, uplink, "floor_drop"},
			{"pass/xdp", other, 200_000, wire, "floor_drop"},
			{"pass/tc", other, 200_000, uplink, "floor_drop"},
		} {
			b.Run(c.name, func(b *testing.B) { compare(b, c.frame, c.repeat, c.ours, floor.Programs[c.floor]) })
		}
	})
}

// benchUnwrap measures a client's packet to a backend of this node, and an answer of another node's on its way back.
func benchUnwrap(b *testing.B, d *Dataplane, floor *ebpf.Collection) {
	b.Helper()
	const here, there = "203.0.113.2:80", "203.0.113.1:80"
	vip, pod := netip.MustParseAddrPort(here), netip.MustParseAddrPort("10.1.0.5:8080")
	testkit.Put(b, d, testkit.Service{Set: 2, Protocol: model.TCP, Frontends: []netip.AddrPort{vip}, Backends: map[uint32]netip.AddrPort{2: pod}})
	row := abi.Backend{Addr: pod.Addr().As16(), Port: abi.Port(pod.Port()), Set: 2, Node: 1, Weight: 1, State: uint8(model.BackendActive), Layer: uint8(model.LayerCluster)}
	check(b, d.Map(abi.Backends).Put(abi.Encode(uint32(2)), abi.Encode(row)))
	key := model.FrontendKey{Addr: vip.Addr(), Port: vip.Port(), Protocol: model.TCP}
	front := abi.Frontend{Set: 2, Kind: uint8(model.FrontendLoadBalancer), Flags: uint16(model.ForwardTunnel), Layer: uint8(model.LayerCluster)}
	check(b, d.Map(abi.Frontends).Put(abi.Encode(abi.KeyOfFrontend(key)), abi.Encode(front)))
	from, to := floorEnd(netip.MustParseAddrPort(benchOutside)), floorEnd(vip)
	flow := slices.Concat(from[:4], to[:4], from[4:6], to[4:6], []byte{byte(model.TCP), 0, 0, 0})
	check(b, floor.Maps["floor_flows"].Put(flow, floorEnd(pod)))

	outer := Outer{Source: netip.MustParseAddr("192.0.2.2"), VNI: 1}
	by := func(program *ebpf.Program) *Unwrapping {
		u, err := unwrapping(program)
		check(b, err)
		b.Cleanup(u.Close)
		check(b, u.as(outer))
		return u
	}
	ours := by(d.tunnel.Programs["from_tunnel"])
	wrapped := func(backend byte, from, to, flags string) []byte {
		f := frame(b, model.TCP, from, to, flags, 100)
		copy(f, []byte{2, 0xde, 0, 0, 0, backend, 2, 0xde, 0, 0, 0, 2})
		return f
	}
	for _, c := range []struct {
		name  string
		frame []byte
		floor string
		want  Verdict
	}{
		{"unwrap/tc", wrapped(2, benchOutside, here, "A"), "floor_unwrap", Pass},
		{"unwrap-answer/tc", wrapped(0, there, benchOutside, "A"), "floor_answer", Refuse}, // Refuse: sent on
	} {
		if c.want == Pass {
			if _, _, err := ours.Run(wrapped(2, benchOutside, here, "S"), outer, 0); err != nil {
				b.Fatal(err)
			}
		}
		least := by(floor.Programs[c.floor])
		for _, u := range []*Unwrapping{ours, least} {
			if verdict, out, err := u.Run(c.frame, outer, 0); err != nil || verdict != c.want || slices.Equal(out, c.frame) {
				b.Fatal(c.name, ": ", verdict, err)
			}
		}
		b.Run(c.name, func(b *testing.B) { compare(b, c.frame, 1, ours.program, least.program) })
	}
}

// benchWire loads programs that know a load balancer whose backend is on another node, in one source range, and a
// connection to it. The other node is behind the loopback interface, by which packets seem to come.
func benchWire(b *testing.B) (*Dataplane, *ebpf.Collection) {
	b.Helper()
	d, err := Load(Options{Capacities: small, Flows: 1024, Node: 1, Tunnel: Tunnel{VNI: 1, Port: 8475}, XDP: XDPGeneric})
	check(b, err)
	b.Cleanup(d.Close)
	there := netip.MustParseAddr("192.0.2.2")
	device := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "wrapping"}, FlowBased: true, Port: 8475}
	check(b, netlink.LinkAdd(device))
	check(b, d.AttachTunnel(device.Index))
	check(b, d.UseTunnel(device.Index))
	for _, other := range []netip.Addr{there, netip.MustParseAddrPort(benchOutside).Addr()} {
		subnet := &net.IPNet{IP: other.AsSlice(), Mask: net.CIDRMask(32, 32)}
		check(b, netlink.RouteAdd(&netlink.Route{LinkIndex: 1, Dst: subnet, Scope: netlink.SCOPE_LINK}))
		check(b, netlink.NeighAdd(&netlink.Neigh{LinkIndex: 1, State: netlink.NUD_PERMANENT, IP: subnet.IP, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}}))
	}
	here, layer := netip.MustParseAddr("192.0.2.1"), uint8(model.LayerCluster)
	check(b, d.SetLocals(map[netip.Addr]uint8{here: 0}))
	for id, addr := range map[uint32]netip.Addr{1: here, 2: there} {
		check(b, d.Map(abi.Nodes).Put(abi.Encode(id), abi.Encode(abi.Node{V4: addr.As16(), Layer: layer})))
	}
	vip := netip.MustParseAddrPort("203.0.113.1:80")
	testkit.Put(b, d, testkit.Service{Set: 1, Protocol: model.TCP, Frontends: []netip.AddrPort{vip}, Backends: map[uint32]netip.AddrPort{1: netip.MustParseAddrPort("10.2.0.5:8080")}})
	backend := abi.Backend{Addr: netip.MustParseAddr("10.2.0.5").As16(), Port: abi.Port(8080), Set: 1, Node: 2, Weight: 1, State: uint8(model.BackendActive), Layer: layer}
	check(b, d.Map(abi.Backends).Put(abi.Encode(uint32(1)), abi.Encode(backend)))
	key := model.FrontendKey{Addr: vip.Addr(), Port: vip.Port(), Protocol: model.TCP}
	row := abi.Frontend{Set: 1, Kind: uint8(model.FrontendLoadBalancer), Flags: uint16(model.ForwardTunnel | model.SourceRanges), Layer: layer}
	check(b, d.Map(abi.Frontends).Put(abi.Encode(abi.KeyOfFrontend(key)), abi.Encode(row)))
	within := abi.SourceRangeKey{Bits: 32 + 128, Set: [4]byte{3: 1}, Addr: netip.MustParseAddrPort(benchOutside).Addr().As16()}
	check(b, d.Map(abi.SourceRanges).Put(abi.Encode(within), abi.Encode(abi.SourceRange{Layer: layer})))
	for _, flags := range []string{"S", "A"} { // begun, then gone on with
		if _, _, err := d.RunFromUplink(frame(b, model.TCP, benchOutside, vip.String(), flags, 0), 0); err != nil {
			b.Fatal(err)
		}
	}
	if verdict, _, err := d.RunFromWire(frame(b, model.TCP, benchOutside, vip.String(), "A", 0), 0); err != nil || verdict != Wrap {
		b.Fatal("a known connection's packet: ", verdict, err)
	}
	spec, err := loadFloor()
	check(b, err)
	floor, err := d.loadCollection(spec, adoption{})
	check(b, err)
	b.Cleanup(floor.Close)
	benchFrontend(b, floor, 1, vip)
	from, to := floorEnd(netip.MustParseAddrPort(benchOutside)), floorEnd(vip)
	flow := slices.Concat(from[:4], to[:4], from[4:6], to[4:6], []byte{byte(model.TCP), 0, 0, 0})
	check(b, floor.Maps["floor_flows"].Put(flow, floorEnd(netip.AddrPortFrom(there, 0))))
	return d, floor
}
