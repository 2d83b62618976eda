// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// giveBack answers each datagram to addr with itself, by the socket that it returns.
func giveBack(t testing.TB, ns *testkit.NetNS, addr string) *net.UDPConn {
	t.Helper()
	conn := listenUDP(t, ns, addr)
	go func() {
		b := make([]byte, 65536)
		for {
			n, client, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(b[:n], client)
		}
	}()
	return conn
}

// comesBack sends a datagram again and again until it is given back. Some get lost: those by which the client and the pod
// learn the MTU, the client by its link's and then by what is left within.
func comesBack(conn *net.UDPConn, to string, data []byte) bool {
	b := make([]byte, 65536)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		conn.WriteToUDPAddrPort(data, netip.MustParseAddrPort(to)) // it fails where that has been learned
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := conn.ReadFromUDPAddrPort(b); err == nil {
			return bytes.Equal(b[:n], data)
		}
	}
	return false
}

// asker is a socket of the client's.
func (e *estate) asker(t testing.TB, v6 bool) *net.UDPConn {
	t.Helper()
	return listenUDP(t, e.client, either(v6, "0.0.0.0:0", "[::]:0"))
}

// Row 14: a datagram in fragments reaches the pod on another node, and its answer in fragments the client.
// Row 15: so does an answer that the backend's node gives itself.
// Row 19: later fragments follow their first one to the other node and back.
// Trap 9: all fragments of a datagram go one way, wrapped or not.
func TestFragmentsAreWrapped(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	data := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for _, v6 := range []bool{false, true} {
		giveBack(t, b.pod, b.podPort(v6))
	}
	for mode, flags := range forwardings {
		for _, over := range []model.Family{model.IPv4, model.IPv6} {
			e.put(t, flags, over)
			e.forgetMTUs(t)
			for _, v6 := range []bool{false, true} {
				if !comesBack(e.asker(t, v6), estateVIP(v6), data) {
					t.Errorf("%s over %v to %s: nothing; drops at A %v, at B %v", mode, over, estateVIP(v6), drops(t, a.plane), drops(t, b.plane))
				}
			}
		}
	}
}

// Row 14: a datagram over IPv4 that routers may cut up isn't dropped for being larger than what fits between the nodes: what
// wraps it is cut up, and nobody is told. Over IPv6 its sender is told, since nobody may cut that up, and cuts it up itself.
// Row 15: so it is with an answer in tunnel mode, and in DSR mode it goes as it is.
func TestLargeDatagramsWithoutDFAreWrapped(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	data := bytes.Repeat([]byte("0123456789"), 146) // 1488 bytes with their headers
	mayBeCutUp := func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	}
	control(t, giveBack(t, b.pod, b.podPort(false)), mayBeCutUp)
	for _, over := range []model.Family{model.IPv4, model.IPv6} {
		for _, mode := range []string{"tunnel", "dsr"} {
			e.put(t, forwardings[mode], over)
			asker := e.asker(t, false)
			control(t, asker, mayBeCutUp)
			if !comesBack(asker, estateVIP(false), data) {
				t.Errorf("%s over %v: nothing; drops at A %v, at B %v", mode, over, drops(t, a.plane), drops(t, b.plane))
			}
			if over == model.IPv4 {
				e.checkDrops(t)
			}
		}
	}
}

// Row 19: fragments that come before their first one wait for it, and follow it to the other node.
// Trap 9: in any order.
func TestFragmentsInAnyOrderAreWrapped(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	e.put(t, model.ForwardTunnel, model.IPv4)
	w := e.clientWire(t)
	id := uint32(100)
	for i, v6 := range []bool{false, true} {
		pod := listenUDP(t, b.pod, b.podPort(v6))
		for order, ordered := range orders {
			id++
			frame := w.datagram(net.JoinHostPort(clientAddr(v6), "40000"), net.JoinHostPort(a.addr(v6), "30080"), 3000)
			w.sendAll(ordered(fragmentsOf(frame, id, 800)))
			got, from := readDatagram(t, pod)
			if want := frame[14+20+20*i+8:]; !bytes.Equal(got, want) || from.Addr().Unmap().String() != clientAddr(v6) {
				t.Errorf("%s, %s: %d bytes from %v; drops at A %v, at B %v", clientAddr(v6), order, len(got), from, drops(t, a.plane), drops(t, b.plane))
			}
		}
	}
}

// clientWire sends frames from the client to the router.
func (e *estate) clientWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{t: t}
	link := func(ns *testkit.NetNS, name string) (l netlink.Link) {
		ns.Do(t, func() {
			var err error
			l, err = netlink.LinkByName(name)
			check(t, err)
		})
		return l
	}
	own := link(e.client, "eth0")
	e.client.Do(t, func() {
		var err error
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		check(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Ifindex: own.Attrs().Index}))
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	w.sourceMAC, w.dst = own.Attrs().HardwareAddr, link(e.router, "client").Attrs().HardwareAddr
	return w
}
