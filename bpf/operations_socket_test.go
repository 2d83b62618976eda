// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// rows writes rows into the maps as they are.
func rows(t testing.TB, d *Dataplane, of abi.Map, entries map[any]any) {
	t.Helper()
	for key, value := range entries {
		if err := d.Map(of).Put(abi.Encode(key), abi.Encode(value)); err != nil {
			t.Fatalf("put %v into %s: %v", key, of, err)
		}
	}
}

func frontendKey(addr string, port uint16, match model.Match) abi.FrontendKey {
	return abi.KeyOfFrontend(model.FrontendKey{Addr: netip.MustParseAddr(addr), Port: port, Protocol: model.UDP, Match: match})
}

// putKinds writes a Service of UDP at all kinds of addresses.
func putKinds(t *testing.T, d *Dataplane) {
	t.Helper()
	const root, local, zone, node = 50, 51, 52, 53
	testkit.Put(t, d, testkit.Service{Set: root, Protocol: model.UDP, Frontends: ends("10.96.0.5:80"), Backends: map[uint32]netip.AddrPort{500: ends("10.1.0.1:8080")[0]}})
	set := abi.BackendSet{Count: 1, Protocol: uint8(model.UDP), Family: uint8(model.IPv4), Scope: uint8(model.ScopeAll), Root: root}
	hinted, sticky := set, set
	hinted.Flags, hinted.Root = uint8(model.NodeHints|model.ZoneHints), 54
	sticky.Affinity, sticky.Root = 60, 55
	rows(t, d, abi.Sets, map[any]any{uint32(root): set, uint32(local): set, uint32(zone): set, uint32(node): set, uint32(54): hinted, uint32(55): sticky})
	backend := func(set uint32) abi.Backend {
		return abi.Backend{Addr: netip.MustParseAddr("10.1.0.1").As16(), Port: abi.Port(8080), Set: set, Weight: 1, State: uint8(model.BackendActive)}
	}
	rows(t, d, abi.Backends, map[any]any{uint32(501): backend(54), uint32(502): backend(55)})
	rows(t, d, abi.Slots, map[any]any{
		abi.SlotKey{Set: local}: uint32(500), abi.SlotKey{Set: zone}: uint32(501), abi.SlotKey{Set: 54}: uint32(501), abi.SlotKey{Set: 55}: uint32(502),
	})
	place := uint64(model.PlaceOf("west"))
	rows(t, d, abi.Views, map[any]any{
		abi.ViewKey{Set: root, Scope: uint8(model.ScopeLocal)}:            abi.View{Set: local},
		abi.ViewKey{Set: 54, Scope: uint8(model.ScopeZone), Place: place}: abi.View{Set: zone},
	})
	rows(t, d, abi.Selves, map[any]any{uint32(0): abi.Self{Place: place}})
	front := func(set uint32, kind model.FrontendKind, flags model.FrontendFlags) abi.Frontend {
		return abi.Frontend{Set: set, Kind: uint8(kind), Flags: uint16(flags)}
	}
	other := frontendKey("10.96.0.5", 0, model.MatchAddress)
	other.Protocol = 0
	rows(t, d, abi.Frontends, map[any]any{
		frontendKey("0.0.0.0", 30080, model.MatchNodePort): front(root, model.FrontendNodePort, 0),
		frontendKey("0.0.0.0", 8888, model.MatchHostPort):  front(root, model.FrontendHostPort, 0),
		frontendKey("203.0.113.1", 80, model.MatchAddress): front(root, model.FrontendLoadBalancer, model.SourceRanges),
		frontendKey("10.96.0.5", 81, model.MatchAddress):   front(root, model.FrontendClusterIP, model.InternalLocal),
		frontendKey("10.96.0.54", 80, model.MatchAddress):  front(54, model.FrontendClusterIP, 0),
		frontendKey("10.96.0.55", 80, model.MatchAddress):  front(55, model.FrontendClusterIP, 0),
		other: front(0, model.FrontendRefused, 0),
	})
	prefix := netip.MustParsePrefix("10.96.0.0/16")
	rows(t, d, abi.Networks, map[any]any{abi.NetworkKey{Bits: 112, Addr: prefix.Addr().As16()}: abi.Network{Kind: uint8(model.NetworkServices)}})
	check(t, d.SetServiceNetworks([]netip.Prefix{prefix}))
	rows(t, d, abi.SourceRanges, map[any]any{abi.SourceRangeKey{Bits: 32 + 128, Set: [4]byte{0, 0, 0, root}, Addr: netip.MustParseAddr("10.1.0.1").As16()}: abi.SourceRange{}})
	check(t, d.SetLocals(map[netip.Addr]uint8{
		netip.MustParseAddr("10.1.0.1"): abi.LocalNodePort, netip.MustParseAddr("127.0.0.1"): abi.LocalNodePort | abi.LocalLoopback,
	}))
	check(t, d.SetUplinks(map[int]abi.Uplink{int(abi.UplinkAny): {V4: netip.MustParseAddr("10.1.0.1").As16()}}))
}

// TestMapOperationsPerDial holds what programs/sockets.c promises about the cost of a dial, a datagram and a bind.
func TestMapOperationsPerDial(t *testing.T) {
	testkit.NeedKernel(t)
	cgroup := testkit.EnterCgroup(t)
	ns := testkit.NewNetNS(t)
	ns.Up(t, "lo", netip.MustParsePrefix("10.1.0.1/32"))
	var d *Dataplane
	ns.Do(t, func() { // these are the node's own sockets
		var err error
		d, err = Load(Options{Capacities: small, Flows: 1024, forTests: map[string]any{"count_operations": true}})
		check(t, err)
	})
	t.Cleanup(d.Close)
	check(t, d.AttachCgroup(cgroup))
	putServices(t, d)
	putKinds(t, d)
	connect := func(to string) func() { return func() { dialUDP(to) } }
	bind := func(to string) func() { return func() { bindUDP(to) } }
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	check(t, err)
	defer syscall.Close(socket)
	send := func() { syscall.Sendto(socket, []byte("x"), 0, sockaddr("10.96.0.1:80")) }
	for _, c := range []struct {
		name     string
		do       func()
		own, pod counted // in the node's namespace, and in another
	}{
		{"a dial of no Service", connect("10.2.0.1:9"), counted{2, 0}, counted{2, 0}},
		{"a dial of a Service", connect("10.96.0.1:80"), counted{4, 0}, counted{4, 0}},
		{"a dial of a NodePort", connect("10.1.0.1:30080"), counted{6, 0}, counted{6, 0}},
		{"a dial of a NodePort on loopback", connect("127.0.0.1:30080"), counted{6, 0}, counted{2, 0}},
		{"a dial of a hostPort", connect("10.1.0.1:8888"), counted{7, 0}, counted{7, 0}},
		{"a dial of a load balancer with source ranges", connect("203.0.113.1:80"), counted{6, 0}, counted{1, 0}},
		{"a dial under policy Local", connect("10.96.0.5:81"), counted{6, 0}, counted{6, 0}},
		{"a dial by hints", connect("10.96.0.54:80"), counted{8, 0}, counted{8, 0}},
		{"a first dial with affinity", connect("10.96.0.55:80"), counted{9, 1}, counted{9, 1}},
		{"another dial with affinity", connect("10.96.0.55:80"), counted{5, 0}, counted{5, 0}},
		{"a dial of a port that is not served", connect("10.96.0.5:9"), counted{5, 0}, counted{5, 0}},
		{"a dial of an address that is none's", connect("10.96.9.9:80"), counted{5, 0}, counted{5, 0}},
		{"a first datagram", send, counted{4, 0}, counted{2, 0}},
		{"another datagram", send, counted{2, 0}, counted{2, 0}},
		{"a bind", bind("0.0.0.0:5000"), counted{1, 0}, counted{}},
		{"a bind of IPv6", bind("[::1]:5000"), counted{1, 0}, counted{}},
		{"a bind of both families", bind("[::]:5000"), counted{2, 0}, counted{}},
		{"a bind of any port", bind("0.0.0.0:0"), counted{}, counted{}},
		{"a bind of a NodePort", bind("0.0.0.0:30080"), counted{1, 0}, counted{}},
	} {
		var own, pod counted
		ns.Do(t, func() { own = count(t, []*ebpf.Collection{d.sockets}, c.do) })
		pod = count(t, []*ebpf.Collection{d.sockets}, c.do)
		if own != c.own || pod != c.pod {
			t.Errorf("%s: %+v on the node, %+v in a pod, want %+v and %+v", c.name, own, pod, c.own, c.pod)
		}
	}
}

func sockaddr(to string) syscall.Sockaddr {
	a := netip.MustParseAddrPort(to)
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// dialUDP connects; what the kernel says to it doesn't matter here.
func dialUDP(to string) error { return withUDP(to, syscall.Connect) }

func bindUDP(to string) error { return withUDP(to, syscall.Bind) }

func withUDP(to string, call func(int, syscall.Sockaddr) error) error {
	family := syscall.AF_INET
	if netip.MustParseAddrPort(to).Addr().Is6() {
		family = syscall.AF_INET6
	}
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer syscall.Close(fd)
	return call(fd, sockaddr(to))
}
