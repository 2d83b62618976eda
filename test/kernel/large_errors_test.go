// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// narrow has a namespace take what goes to an address for too large beyond an MTU that is no link's. A link's own MTU
// would have to be the same at both of its ends.
func narrow(t testing.TB, ns *testkit.NetNS, to string, mtu int) {
	t.Helper()
	ns.Do(t, func() {
		routes, err := netlink.RouteGet(net.ParseIP(to))
		check(t, err)
		addr := netip.MustParseAddr(to)
		dst, err := netlink.ParseIPNet(netip.PrefixFrom(addr, addr.BitLen()).String())
		check(t, err)
		check(t, netlink.RouteReplace(&netlink.Route{LinkIndex: routes[0].LinkIndex, Gw: routes[0].Gw, Dst: dst, MTU: mtu, MTULock: true}))
	})
}

// Row 14: a link behind the first node takes less than both ends think, and bulk data passes in both directions.
// Row 15: so it does where the backend's node answers itself, and the router there complains to the Service's address,
// which is another node.
// Row 20: what a router of the client's says about answers reaches the pod by the node that the client's packets came to.
// Trap 2: also on its way through two nodes.
func TestRoutersOfTheClientAreHeard(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	for _, v6 := range []bool{false, true} {
		narrow(t, e.router, clientAddr(v6), 1300)
	}
	for mode, flags := range forwardings {
		e.put(t, flags, model.IPv4)
		e.forgetMTUs(t)
		for _, v6 := range []bool{false, true} {
			echoOnce(t, b.pod, b.podPort(v6))
			if err := sendAndCompare(t, e.client, estateVIP(v6)); err != nil {
				t.Errorf("%s to %s: %v; drops at A %v, at B %v", mode, estateVIP(v6), err, drops(t, a.plane), drops(t, b.plane))
			}
		}
	}
}

// Row 14: an answer that is larger than what the first node may send to the client is told to the pod, with the MTU that
// would do.
func TestFirstNodeTellsThePodWhatItCannotSendOn(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	for _, v6 := range []bool{false, true} {
		narrow(t, a.NetNS, clientAddr(v6), 1300)
	}
	e.put(t, model.ForwardTunnel, model.IPv4)
	for _, v6 := range []bool{false, true} {
		echoOnce(t, b.pod, b.podPort(v6))
		if err := sendAndCompare(t, e.client, estateVIP(v6)); err != nil {
			t.Errorf("%s: %v; drops at A %v, at B %v", estateVIP(v6), err, drops(t, a.plane), drops(t, b.plane))
		}
	}
}

// TestRoutersBetweenTheNodesAreHeard has one there that takes less than the nodes' own links.
//
// Row 14: bulk data passes over nodes whose way to each other is narrower than their links. Over IPv4 routers cut the
// outer packet; over IPv6 they complain to the kernel, whose routes then tell.
func TestRoutersBetweenTheNodesAreHeard(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	for _, v6 := range []bool{false, true} {
		narrow(t, e.router, a.addr(v6), 1400)
		narrow(t, e.router, b.addr(v6), 1400)
	}
	for mode, flags := range forwardings {
		for _, over := range []model.Family{model.IPv4, model.IPv6} {
			e.put(t, flags, over)
			e.forgetMTUs(t)
			for _, v6 := range []bool{false, true} {
				echoOnce(t, b.pod, b.podPort(v6))
				if err := sendAndCompare(t, e.client, estateVIP(v6)); err != nil {
					t.Errorf("%s over %v to %s: %v; drops at A %v, at B %v", mode, over, estateVIP(v6), err, drops(t, a.plane), drops(t, b.plane))
				}
			}
		}
	}
}

// Row 14: nodes that reach each other over IPv6 alone, and take less than 1,350 bytes, pass on what fits. What is larger is
// dropped and counted, even if each link of IPv6 takes so much: the kernel cuts no wrapping over IPv6.
func TestNarrowWaysOverIPv6TakeWhatFits(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	narrow(t, a.NetNS, b.addr(true), 1320)
	e.put(t, model.ForwardTunnel, model.IPv6)
	const headers = 40 + 8
	pod := listenUDP(t, b.pod, b.podPort(true))
	e.client.Do(t, func() {
		conn := dialRaw(t, "udp6", netip.MustParseAddrPort(estateVIP(true)))
		defer conn.Close()
		_, err := conn.Write(make([]byte, 1280-headers))
		check(t, err)
		testkit.Eventually(t, patience, func() bool { return drops(t, a.plane)[model.ReasonTooBig] == 1 })
		_, err = conn.Write(make([]byte, 1320-70-headers))
		if errors.Is(err, syscall.EMSGSIZE) { // of the first one
			_, err = conn.Write(make([]byte, 1320-70-headers))
		}
		check(t, err)
	})
	if got, _ := readDatagram(t, pod); len(got) != 1320-70-headers {
		t.Errorf("%d bytes arrived, want those that fit", len(got))
	}
}

// Row 14: a pod's own complaint reaches the client as the Service's, by the node that its packet came to.
// Row 15: so it does where the pod's node answers itself.
func TestComplaintsOfPodsReachTheClient(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	for mode, flags := range forwardings {
		e.put(t, flags, model.IPv4)
		for _, v6 := range []bool{false, true} {
			e.client.Do(t, func() {
				conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(estateVIP(v6))))
				check(t, err)
				defer conn.Close()
				_, err = conn.Write([]byte("anybody there?"))
				check(t, err)
				conn.SetDeadline(time.Now().Add(patience))
				if _, err = conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s to %s: %v; drops at A %v, at B %v", mode, estateVIP(v6), err, drops(t, a.plane), drops(t, b.plane))
				}
			})
		}
	}
}

// Trap 4: the first node is a router: of a packet that has no hops left its sender is told by the node itself.
func TestFirstNodeTellsOfTimeExceeded(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a := e.nodes[0]
	e.put(t, model.ForwardTunnel, model.IPv4)
	for _, v6 := range []bool{false, true} {
		e.client.Do(t, func() {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(estateVIP(v6))))
			check(t, err)
			defer conn.Close()
			from := hearErrors(t, conn, v6)
			setHops(t, conn, v6, 2)
			_, err = conn.Write([]byte("how far?"))
			check(t, err)
			if got := from(); got != a.addr(v6) {
				t.Errorf("to %s with two hops: told by %q, want %s; drops %v", estateVIP(v6), got, a.addr(v6), drops(t, a.plane))
			}
		})
	}
}

// pickedNodes are those of the backends that clients of moved flows are spread over; the last is the first node itself.
var pickedNodes = []model.NodeID{2, 11, 13, 1}

// spread gives each set of the first node a backend on each of the picked nodes, and a table.
func (e *estate) spread(t testing.TB) {
	t.Helper()
	a := e.nodes[0]
	for _, node := range pickedNodes[1:3] {
		a.cluster.Nodes[node] = model.Node{ID: node, V4: netip.AddrFrom4([4]byte{172, 18, byte(node), 2})}
	}
	for id, row := range a.cluster.Sets {
		addrs := make([]string, len(pickedNodes))
		for i := range addrs {
			addrs[i] = fmt.Sprintf(either(row.Family == model.IPv6, "10.2.0.%d:8080", "[fd00:2::%d]:8080"), 2+i)
		}
		a.root(id, row.Service.Protocol, row.Family, addrs...)
		row = a.cluster.Sets[id]
		row.Flags |= model.External
		a.cluster.Sets[id] = row
		for i, node := range pickedNodes {
			backend := a.cluster.Backends[model.BackendID(100*int(id)+i)]
			backend.Node = node
			a.cluster.Backends[backend.ID] = backend
		}
	}
	a.write(t)
}

// picked is the backend that all nodes pick for a client of a set.
func (e *estate) picked(set model.SetID, client, service netip.AddrPort) model.Backend {
	a := e.nodes[0]
	var members []maglev.Member
	for _, row := range a.cluster.Backends {
		if row.Set == set {
			members = append(members, maglev.Member{ID: uint32(row.ID), At: netip.AddrPortFrom(row.Addr, row.Port), Weight: row.Share()})
		}
	}
	slot := maglev.SlotOf(maglev.Hash(client, service, uint8(model.TCP)), maglev.DefaultSize)
	return a.cluster.Backends[model.BackendID(maglev.Fill(maglev.DefaultSize, members)[slot])]
}

// Row 17: a node that knows no flow of what a router complains about passes it to the node that all nodes pick.
func TestErrorsOfMovedClientsFindTheirNode(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a := e.nodes[0]
	e.put(t, model.ForwardDSR, model.IPv4)
	e.spread(t)
	for i, v6 := range []bool{false, true} {
		kind, router := uint8(3), "198.51.100.1"
		if v6 {
			kind, router = 2, "2001:db8:7::1"
		}
		service, met := netip.MustParseAddrPort(estateVIP(v6)), map[model.NodeID]int{}
		for port := range uint16(40) {
			client := netip.AddrPortFrom(netip.MustParseAddr(clientAddr(v6)), 40000+port)
			want := e.picked(model.SetID(1+i), client, service)
			answer := segment{from: service.String(), to: client.String(), ack: true, payload: 100}.frame(t)
			complaint := icmpError(t, router, service.Addr().String(), kind, answer[14:])
			verdict, out, err := a.plane.RunFromUplink(complaint, 0)
			check(t, err)
			met[want.Node]++
			wrapped, is := refmodel.Wrapped(out)
			if to := model.NodeID(a.number); want.Node == to && (verdict != bpf.Pass || is) || want.Node != to &&
				(verdict != bpf.Refuse || wrapped.Backend != want.ID || wrapped.From != to) { // Refuse: sent elsewhere, into the tunnel
				t.Errorf("about an answer to %s: %v, %+v, want backend %d on node %d; drops %v", client, verdict, wrapped, want.ID, want.Node, drops(t, a.plane))
			}
		}
		if len(met) < len(pickedNodes) {
			t.Errorf("clients of %s are on nodes %v, want all of %v", clientAddr(v6), met, pickedNodes)
		}
	}
}
