// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// estate is a client outside, a router, and nodes that all have programs and the device that wraps: each has an uplink
// to the router and a pod. The router leads a load balancer's address to one of them.
type estate struct {
	client, router *testkit.NetNS
	nodes          []*site // the first has number 1
}

// site is a node, with a pod.
type site struct {
	*testkit.NetNS
	pod    *testkit.NetNS
	number int
	plane  *bpf.Dataplane
	*book
}

func (s *site) addr(v6 bool) string { return s.of(v6, "172.18.N.2", "2001:db8:18:N::2") }

func (s *site) podAddr(v6 bool) string { return s.of(v6, "10.N.0.2", "fd00:N::2") }

// podPort is where the pod serves.
func (s *site) podPort(v6 bool) string { return net.JoinHostPort(s.podAddr(v6), "8080") }

// of returns an address with the node's number for N.
func (s *site) of(v6 bool, four, six string) string {
	return strings.ReplaceAll(either(v6, four, six), "N", strconv.Itoa(s.number))
}

func either(v6 bool, four, six string) string {
	if v6 {
		return six
	}
	return four
}

func estateVIP(v6 bool) string {
	return net.JoinHostPort(either(v6, "203.0.113.1", "2001:db8:113::1"), "80")
}

func clientAddr(v6 bool) string {
	return either(v6, clientOut4, clientOut6)
}

// newEstate makes nodes that reach each other over one family or both.
//
//	client ── router ── node 1 ── pod
//	               └─── node 2 ── pod
func newEstate(t testing.TB, nodes int, over4, over6 bool) *estate {
	t.Helper()
	testkit.NeedKernel(t)
	e := &estate{client: testkit.NewNetNS(t), router: testkit.NewNetNS(t)}
	makeRouter(t, e.router)
	// The router forwards between nodes, too, and so what one of them makes of its own complaints.
	e.router.Sysctl(t, "net/ipv4/conf/all/accept_local", "1")
	testkit.Veth(t, e.client, "eth0", pair(clientOut4, clientOut6), e.router, "client", pair(aOut4, aOut6))
	byDefault(t, e.client, aOut4, aOut6)
	for i := range nodes {
		s := newSite(t, e.router, i+1)
		for v6, bits := range map[bool]int{false: 24, true: 64} {
			pods := netip.PrefixFrom(netip.MustParseAddr(s.podAddr(v6)), bits).Masked()
			e.router.Route(t, pods, netip.MustParseAddr(s.addr(v6)), "")
		}
		s.network(model.NetworkPods, "10.0.0.0/8")
		s.network(model.NetworkPods, "fd00::/16")
		e.nodes = append(e.nodes, s)
	}
	e.join(over4, over6)
	return e
}

// makeRouter has a namespace forward, and answer what a test does a hundred times at once.
func makeRouter(t testing.TB, ns *testkit.NetNS) {
	t.Helper()
	for setting, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
	} {
		ns.Sysctl(t, "net/"+setting, value)
	}
}

// join has the nodes' rows say by which families they reach each other.
func (e *estate) join(over4, over6 bool) {
	for _, s := range e.nodes {
		for _, other := range e.nodes {
			row := model.Node{ID: model.NodeID(other.number)}
			if over4 {
				row.V4 = netip.MustParseAddr(other.addr(false))
			}
			if over6 {
				row.V6 = netip.MustParseAddr(other.addr(true))
			}
			s.cluster.Nodes[row.ID] = row
		}
	}
}

// put has clients reach the second node's pod by the first node, to which it is joined by one family.
func (e *estate) put(t testing.TB, mode model.FrontendFlags, over model.Family) {
	t.Helper()
	b := e.nodes[1]
	e.join(over == model.IPv4, over == model.IPv6)
	e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
	e.lead(t, e.nodes[0])
}

// forgetMTUs has the ends forget what they have learned of the way.
func (e *estate) forgetMTUs(t testing.TB) {
	t.Helper()
	for _, ns := range []*testkit.NetNS{e.client, e.nodes[1].pod} {
		ns.Sysctl(t, "net/ipv4/route/flush", "1")
		ns.Sysctl(t, "net/ipv6/route/flush", "1")
	}
}

func byDefault(t testing.TB, ns *testkit.NetNS, by4, by6 string) {
	t.Helper()
	ns.Route(t, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(by4), "eth0")
	ns.Route(t, netip.MustParsePrefix("::/0"), netip.MustParseAddr(by6), "eth0")
}

func newSite(t testing.TB, router *testkit.NetNS, number int) *site {
	t.Helper()
	s := &site{NetNS: testkit.NewNetNS(t), pod: testkit.NewNetNS(t), number: number}
	makeRouter(t, s.NetNS)
	s.Sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
	s.Sysctl(t, "net/ipv4/conf/default/rp_filter", "1")
	gateway4, gateway6 := s.of(false, "172.18.N.1", ""), s.of(true, "", "2001:db8:18:N::1")
	testkit.Veth(t, s.NetNS, "eth0", pair(s.addr(false), s.addr(true)), router, fmt.Sprint("node", number), pair(gateway4, gateway6))
	byDefault(t, s.NetNS, gateway4, gateway6)
	pod4, pod6 := s.of(false, "10.N.0.1", ""), s.of(true, "", "fd00:N::1")
	testkit.Veth(t, s.NetNS, "pod", pair(pod4, pod6), s.pod, "eth0", pair(s.podAddr(false), s.podAddr(true)))
	byDefault(t, s.pod, pod4, pod6)
	s.start(t)
	return s
}

// start gives the node its device, its programs and what they know of the node.
func (s *site) start(t testing.TB) {
	t.Helper()
	uplink, pod := s.Index(t, "eth0"), s.Index(t, "pod")
	s.Do(t, func() {
		wrapping := tunnel.Device{Port: tunnel.DefaultPort, Node: model.NodeID(s.number)}
		device, err := wrapping.Keep()
		check(t, err)
		s.plane, err = bpf.Load(bpf.Options{
			Flows: 1 << 16, Capacities: small, Node: model.NodeID(s.number), Tunnel: bpf.Tunnel{VNI: tunnel.DefaultVNI, Port: tunnel.DefaultPort},
		})
		check(t, err)
		t.Cleanup(s.plane.Close)
		check(t, s.plane.AttachUplink(uplink))
		check(t, s.plane.AttachPod(pod))
		check(t, s.plane.AttachTunnel(device))
		check(t, wrapping.PutUp(device))
		check(t, s.plane.UseTunnel(device))
		check(t, s.plane.CheckSources([]int{uplink}))
	})
	s.book = newBook(t, s.plane)
	own4, own6 := netip.MustParseAddr(s.addr(false)), netip.MustParseAddr(s.addr(true))
	check(t, s.plane.SetLocals(map[netip.Addr]uint8{own4: abi.LocalNodePort, own6: abi.LocalNodePort}))
	address := abi.Uplink{V4: own4.As16(), V6: own6.As16()}
	check(t, s.plane.SetUplinks(map[int]abi.Uplink{int(abi.UplinkAny): address, uplink: address}))
}

// serve writes a Service of each family and protocol, at the load balancer's address and a NodePort, with backends.
func (e *estate) serve(t testing.TB, flags model.FrontendFlags, backend func(v6 bool) (addr string, node int)) {
	t.Helper()
	for _, s := range e.nodes {
		for i, p := range []model.Protocol{model.TCP, model.UDP} {
			for j, v6 := range []bool{false, true} {
				id := model.SetID(1 + 2*i + j)
				addr, node := backend(v6)
				s.root(id, p, []model.Family{model.IPv4, model.IPv6}[j], net.JoinHostPort(addr, "8080"))
				row := s.cluster.Backends[model.BackendID(100*int(id))]
				row.Node = model.NodeID(node)
				s.cluster.Backends[row.ID] = row
				s.front(id, model.FrontendLoadBalancer, flags, estateVIP(v6))
				s.ownFront(id, model.MatchNodePort, flags, 30080)
			}
		}
		s.write(t)
	}
}

// lead has the router bring the load balancer's address to another node.
func (e *estate) lead(t testing.TB, to *site) {
	t.Helper()
	e.router.Do(t, func() {
		for _, v6 := range []bool{false, true} {
			vip := netip.MustParseAddrPort(estateVIP(v6)).Addr()
			dst := &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}
			check(t, netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(to.addr(v6))}))
		}
	})
}

// asks dials from the client and returns who answered, and the address that the client was seen with.
func (e *estate) asks(t testing.TB, network, to string) (who, seenAs string) {
	t.Helper()
	e.client.Do(t, func() {
		conn := dialRaw(t, network, netip.MustParseAddrPort(to))
		defer conn.Close()
		who, seenAs, _ = strings.Cut(ask(t, conn), " ")
	})
	return who, netip.MustParseAddrPort(seenAs).Addr().String()
}

// drops fails the test for what a node dropped.
func (e *estate) checkDrops(t testing.TB) {
	t.Helper()
	for _, s := range e.nodes {
		if got := drops(t, s.plane); len(got) > 0 {
			t.Errorf("node %d dropped %v", s.number, got)
		}
	}
}
