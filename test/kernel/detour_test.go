// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// detour is a client outside, a router, and two nodes behind it, each with the kernel's stack and the programs. The
// router brings what is for Services to node A; the pod is on node B.
//
//	client ── router ── node A
//	               └─── node B ── pod
type detour struct {
	client, router, pod *testkit.NetNS
	a, b                *wayside
}

// wayside is one of the nodes.
type wayside struct {
	*testkit.NetNS
	*book
	plane *bpf.Dataplane
	id    model.NodeID
}

// The addresses of the detour. The documentation's are outside.
const (
	detourClient4, detourClient6 = "198.51.100.2", "2001:db8:7::2"
	detourVIP4, detourVIP6       = "203.0.113.1", "2001:db8:113::1"
	detourA4, detourA6           = "172.18.1.2", "2001:db8:18:1::2"
	detourB4, detourB6           = "172.18.2.2", "2001:db8:18:2::2"
	detourPod4, detourPod6       = "10.2.0.2", "fd00:2::2"
)

// detourEnds is what a test needs of one family's addresses.
type detourEnds struct {
	model.Family
	client, vip, a, b, pod string
}

var detourFamilies = []detourEnds{
	{model.IPv4, detourClient4, detourVIP4, detourA4, detourB4, detourPod4},
	{model.IPv6, detourClient6, detourVIP6, detourA6, detourB6, detourPod6},
}

func newDetour(t testing.TB) *detour {
	t.Helper()
	testkit.NeedKernel(t)
	d := &detour{client: testkit.NewNetNS(t), router: testkit.NewNetNS(t), pod: testkit.NewNetNS(t)}
	d.a = &wayside{NetNS: testkit.NewNetNS(t), id: 7}
	d.b = &wayside{NetNS: testkit.NewNetNS(t), id: 9}
	for _, ns := range []*testkit.NetNS{d.router, d.a.NetNS, d.b.NetNS} {
		ns.Sysctl(t, "net/ipv4/ip_forward", "1")
		ns.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
		if ns != d.router { // answers straight from the backend's node come to it by another link
			ns.Sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
		}
		// What a test does a hundred times at once is answered.
		ns.Sysctl(t, "net/ipv4/icmp_ratelimit", "0")
		ns.Sysctl(t, "net/ipv6/icmp/ratelimit", "0")
	}
	// The router forwards between the nodes, too, and so what one of them makes of its own complaints.
	d.router.Sysctl(t, "net/ipv4/conf/all/accept_local", "1")
	d.join(t, d.client, "client", detourClient4, detourClient6, d.router)
	d.join(t, d.a.NetNS, "a", detourA4, detourA6, d.router)
	d.join(t, d.b.NetNS, "b", detourB4, detourB6, d.router)
	d.join(t, d.pod, "pod", detourPod4, detourPod6, d.b.NetNS)
	d.router.Route(t, netip.MustParsePrefix("10.2.0.0/24"), netip.MustParseAddr(detourB4), "b")
	d.router.Route(t, netip.MustParsePrefix("fd00:2::/64"), netip.MustParseAddr(detourB6), "b")
	d.leadTo(t, "a", detourFamilies[0].a, detourFamilies[1].a)
	d.a.start(t, d, detourA4, detourA6)
	d.b.start(t, d, detourB4, detourB6)
	d.b.Do(t, func() { check(t, d.b.plane.AttachPod(d.b.Index(t, "pod"))) })
	return d
}

// join gives a namespace its interface, its addresses and its default route by a router.
func (d *detour) join(t testing.TB, ns *testkit.NetNS, name, four, six string, by *testkit.NetNS) {
	t.Helper()
	four4, six6 := netip.MustParseAddr(four).Prev(), netip.MustParseAddr(six).Prev()
	testkit.Veth(t, by, name, pair(four4.String(), six6.String()), ns, "eth0", pair(four, six))
	ns.Route(t, netip.MustParsePrefix("0.0.0.0/0"), four4, "eth0")
	ns.Route(t, netip.MustParsePrefix("::/0"), six6, "eth0")
}

// leadTo has the router bring what is for Services to a node.
func (d *detour) leadTo(t testing.TB, name, four, six string) {
	t.Helper()
	d.router.Route(t, netip.MustParsePrefix(detourVIP4+"/32"), netip.MustParseAddr(four), name)
	d.router.Route(t, netip.MustParsePrefix(detourVIP6+"/128"), netip.MustParseAddr(six), name)
}

// start is what a programmer does when it starts.
func (w *wayside) start(t testing.TB, d *detour, four, six string) {
	t.Helper()
	w.Do(t, func() {
		plane, err := bpf.Load(bpf.Options{
			Flows: 4096, Capacities: small, Node: w.id,
			Tunnel: bpf.Tunnel{VNI: tunnel.DefaultVNI, Port: tunnel.DefaultPort},
		})
		check(t, err)
		t.Cleanup(plane.Close)
		w.plane = plane
		wrapping := tunnel.Device{Port: tunnel.DefaultPort, Node: w.id}
		device, err := wrapping.Keep()
		check(t, err)
		uplink := w.Index(t, "eth0")
		own := abi.Uplink{V4: netip.MustParseAddr(four).As16(), V6: netip.MustParseAddr(six).As16()}
		check(t, plane.SetUplinks(map[int]abi.Uplink{int(abi.UplinkAny): own, uplink: own}))
		check(t, plane.SetLocals(map[netip.Addr]uint8{
			netip.MustParseAddr(four): abi.LocalNodePort, netip.MustParseAddr(six): abi.LocalNodePort,
		}))
		check(t, plane.AttachUplink(uplink))
		check(t, plane.AttachTunnel(device))
		check(t, wrapping.PutUp(device))
		check(t, plane.UseTunnel(device))
	})
	w.book = newBook(t, w.plane)
	w.network(model.NetworkPods, "10.0.0.0/8")
	w.network(model.NetworkPods, "fd00::/32")
	w.network(model.NetworkServices, "10.96.0.0/16")
}

// put writes the Services of both families, TCP and UDP, and the nodes: over is the families that they reach each
// other by.
func (d *detour) put(t testing.TB, flags model.FrontendFlags, over ...model.Family) {
	t.Helper()
	for _, w := range []*wayside{d.a, d.b} {
		for i, f := range detourFamilies {
			for j, p := range []model.Protocol{model.TCP, model.UDP} {
				id := model.SetID(10*j + i + 1)
				w.root(id, p, f.Family, net.JoinHostPort(f.pod, "8080"))
				w.front(id, model.FrontendLoadBalancer, flags, net.JoinHostPort(f.vip, "80"))
			}
		}
		for id, row := range w.cluster.Backends {
			row.Node = d.b.id
			w.cluster.Backends[id] = row
		}
		rows := map[model.NodeID]*model.Node{d.a.id: {ID: d.a.id}, d.b.id: {ID: d.b.id}}
		for _, f := range over {
			if f == model.IPv4 {
				rows[d.a.id].V4, rows[d.b.id].V4 = netip.MustParseAddr(detourA4), netip.MustParseAddr(detourB4)
			} else {
				rows[d.a.id].V6, rows[d.b.id].V6 = netip.MustParseAddr(detourA6), netip.MustParseAddr(detourB6)
			}
		}
		for id, row := range rows {
			w.cluster.Nodes[id] = *row
		}
		w.write(t)
	}
}

// forgetMTUs has the ends forget what they have learned of the way.
func (d *detour) forgetMTUs(t testing.TB) {
	t.Helper()
	for _, ns := range []*testkit.NetNS{d.client, d.pod} {
		ns.Sysctl(t, "net/ipv4/route/flush", "1")
		ns.Sysctl(t, "net/ipv6/route/flush", "1")
	}
}
