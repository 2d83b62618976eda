// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// link makes an interface that is up, in the calling thread's namespace.
func link(t *testing.T, l netlink.Link, addrs ...string) {
	t.Helper()
	must(t, netlink.LinkAdd(l))
	must(t, netlink.LinkSetUp(l))
	if pair, ok := l.(*netlink.Veth); ok {
		peer, err := netlink.LinkByName(pair.PeerName)
		must(t, err)
		must(t, netlink.LinkSetUp(peer))
	}
	for _, addr := range addrs {
		a, err := netlink.ParseAddr(addr)
		must(t, err)
		must(t, netlink.AddrAdd(l, a))
	}
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// pair is an interface with a peer beside it.
func pair(name string) *netlink.Veth {
	return &netlink.Veth{LinkAttrs: named(name), PeerName: name + "p"}
}

// uplinks lists, and returns the uplinks' names in order.
func uplinks(t *testing.T) []string {
	t.Helper()
	interfaces, err := Read()
	must(t, err)
	return slices.Sorted(maps.Values(Find(interfaces, nil, Options{}).Names))
}

// Trap 32: every interface that others reach the node by is found, as they come and go.
func TestInterfacesOfANamespaceAreFoundAsTheyComeAndGo(t *testing.T) {
	testkit.NeedKernel(t)
	testkit.NewNetNS(t).Do(t, func() {
		want := func(names ...string) {
			t.Helper()
			if diff := cmp.Diff(names, uplinks(t)); diff != "" {
				t.Errorf("uplinks (-want +got):\n%s", diff)
			}
		}
		eth0, eth1 := pair("eth0"), pair("eth1")
		link(t, eth0, "192.0.2.7/24", "192.0.2.8/24")
		link(t, eth1, "2001:db8::7/64")
		want("eth0", "eth1")
		bridge := &netlink.Bridge{LinkAttrs: named("cni0")}
		link(t, bridge, "10.1.0.1/24")
		slave := pair("port0")
		link(t, slave, "203.0.113.1/24")
		want("cni0", "eth0", "eth1", "port0")
		must(t, netlink.LinkSetMaster(slave, bridge))
		want("cni0", "eth0", "eth1")
		for _, text := range []string{"192.0.2.7/24", "192.0.2.8/24"} {
			a, err := netlink.ParseAddr(text)
			must(t, err)
			if err := netlink.AddrDel(eth0, a); err != nil && text == "192.0.2.7/24" {
				t.Fatal(err) // its secondary goes with it
			}
		}
		must(t, netlink.LinkSetDown(eth1))
		want("cni0")
		must(t, netlink.LinkDel(bridge))
		want("port0")
	})
}

// Trap 33: a VLAN's interface is an uplink of its own, and a bond's ports are none.
func TestAVLANIsAnUplinkAndABondsPortsAreNone(t *testing.T) {
	testkit.NeedKernel(t)
	var unsupported error
	testkit.NewNetNS(t).Do(t, func() {
		eth0 := pair("eth0")
		link(t, eth0)
		vlan := &netlink.Vlan{LinkAttrs: named("eth0.7"), VlanId: 7}
		vlan.ParentIndex = eth0.Index
		if unsupported = netlink.LinkAdd(vlan); errors.Is(unsupported, unix.EOPNOTSUPP) {
			return
		}
		must(t, netlink.LinkDel(vlan))
		link(t, vlan, "198.51.100.7/24")
		bond := netlink.NewLinkBond(named("bond0"))
		link(t, bond, "192.0.2.7/24")
		port := pair("port0")
		must(t, netlink.LinkAdd(port))
		must(t, netlink.LinkSetMaster(port, bond))
		if diff := cmp.Diff([]string{"bond0", "eth0.7"}, uplinks(t)); diff != "" {
			t.Errorf("uplinks (-want +got):\n%s", diff)
		}
	})
	if unsupported != nil {
		t.Skipf("this kernel has no VLANs: %v", unsupported)
	}
}

// Trap 37: tunnels of IP alone (WireGuard, IPIP) are left alone: what the programs took for headers would be others' data.
func TestATunnelWithoutEthernetIsNoUplink(t *testing.T) {
	testkit.NeedKernel(t)
	testkit.NewNetNS(t).Do(t, func() {
		tunnel := func() *netlink.Tuntap {
			return &netlink.Tuntap{LinkAttrs: named("tun0"), Mode: netlink.TUNTAP_MODE_TUN}
		}
		probe := tunnel()
		if err := netlink.LinkAdd(probe); err != nil {
			t.Skipf("no tunnels here: %v", err)
		}
		must(t, netlink.LinkDel(probe))
		link(t, tunnel(), "10.9.0.1/24")
		link(t, pair("eth0"), "192.0.2.7/24")
		if diff := cmp.Diff([]string{"eth0"}, uplinks(t)); diff != "" {
			t.Errorf("uplinks (-want +got):\n%s", diff)
		}
	})
}

func TestChangesAreTold(t *testing.T) {
	testkit.NeedKernel(t)
	ns := testkit.NewNetNS(t)
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		ns.Do(t, func() { listen(ctx, changes) })
	}()
	heard := func() {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatal("no change was told")
		}
	}
	heard() // once it listens
	d := pair("eth0")
	ns.Do(t, func() { link(t, d) })
	heard()
	ns.Do(t, func() {
		a, err := netlink.ParseAddr("192.0.2.7/24")
		must(t, err)
		must(t, netlink.AddrAdd(d, a))
	})
	heard()
	for _, value := range []string{"1", "2"} { // as systems do while they start; one of them is new
		ns.Sysctl(t, "net/ipv4/conf/all/rp_filter", value)
	}
	heard()
	cancel()
	<-ended
}

// Trap 36: a pod's interface is told of when it comes, however it is made.
func TestPairsAreToldAsTheyComeAndGo(t *testing.T) {
	testkit.NeedKernel(t)
	host, pod := testkit.NewNetNS(t), testkit.NewNetNS(t)
	ctx, cancel := context.WithCancel(t.Context())
	news, ended := make(chan Pair, 64), make(chan struct{})
	go func() {
		defer close(ended)
		host.Do(t, func() { Hear(ctx, news) })
	}()
	heard := func(what string, is func(p *Pair) bool) {
		t.Helper()
		late := time.After(10 * time.Second)
		for {
			select {
			case p := <-news:
				if is(&p) {
					return
				}
			case <-late:
				t.Fatalf("%s was not told", what)
			}
		}
	}
	looks := func(name string) func(*Pair) bool {
		return func(p *Pair) bool { return p.Name == name && !p.Gone && p.OfPod(&Options{}) }
	}
	host.Do(t, func() { // until it listens
		for i := 0; len(news) == 0; i++ {
			d := pair(fmt.Sprintf("some%d", i))
			must(t, netlink.LinkAdd(d))
			must(t, netlink.LinkDel(d))
		}
	})
	d := pair("pod7")
	host.Do(t, func() {
		must(t, netlink.LinkAdd(d))
		peer, err := netlink.LinkByName(d.PeerName)
		must(t, err)
		must(t, netlink.LinkSetNsFd(peer, pod.FD()))
	})
	heard("a pair whose other end went to a pod", looks("pod7"))
	pod.Do(t, func() {
		d := pair("pod8")
		must(t, netlink.LinkAdd(d))
		must(t, netlink.LinkSetNsFd(d, host.FD()))
	})
	heard("an end that came from a pod", looks("pod8"))
	pod.Do(t, func() {
		peer, err := netlink.LinkByName("pod8p")
		must(t, err)
		must(t, netlink.LinkDel(peer))
	})
	heard("the end of a pair", func(p *Pair) bool { return p.Name == "pod8" && p.Gone })
	cancel()
	<-ended
}

func TestPodsAreFoundByTheirRoutes(t *testing.T) {
	testkit.NeedKernel(t)
	host := testkit.NewNetNS(t)
	v4, v6 := netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00::7")
	host.Do(t, func() { link(t, pair("pod7")) })
	for _, addr := range []netip.Addr{v4, v6} {
		host.Route(t, netip.PrefixFrom(addr, addr.BitLen()), netip.Addr{}, "pod7")
	}
	want := host.Index(t, "pod7")
	host.Do(t, func() {
		routes, err := HostRoutes()
		if err != nil || routes[v4] != want || routes[v6] != want {
			t.Fatalf("routes %v (%v), want both addresses at interface %d", routes, err, want)
		}
	})
}
