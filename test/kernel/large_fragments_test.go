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

// giveBack answers each datagram to addr with itself.
func giveBack(t testing.TB, ns *testkit.NetNS, addr string) {
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
}

// comesBack sends a datagram again and again until it is given back. Some get lost: those by which the client and the pod
// learn the MTU, the client by its link's and then by what is left within.
func comesBack(t testing.TB, from *testkit.NetNS, to string, data []byte) bool {
	t.Helper()
	conn := listenUDP(t, from, netip.AddrPortFrom(anyOf(to), 0).String())
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

func anyOf(to string) netip.Addr {
	if netip.MustParseAddrPort(to).Addr().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// Row 14: a datagram in fragments reaches the pod on another node, and its answer in fragments the client.
// Row 15: so does an answer that the backend's node gives itself.
// Row 19: later fragments follow their first one to the other node and back.
// Trap 9: all fragments of a datagram go one way, wrapped or not.
func TestFragmentsAreWrapped(t *testing.T) {
	d := newDetour(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for _, f := range detourFamilies {
		giveBack(t, d.pod, net.JoinHostPort(f.pod, "8080"))
	}
	for mode, flags := range forwardings {
		for _, over := range []model.Family{model.IPv4, model.IPv6} {
			d.put(t, flags, over)
			d.forgetMTUs(t)
			for _, f := range detourFamilies {
				if !comesBack(t, d.client, net.JoinHostPort(f.vip, "80"), data) {
					t.Errorf("%s over %v to %s: nothing; drops at A %v, at B %v", mode, over, f.vip, drops(t, d.a.plane), drops(t, d.b.plane))
				}
			}
		}
	}
}

// Row 19: fragments that come before their first one wait for it, and follow it to the other node.
// Trap 9: in any order.
func TestFragmentsInAnyOrderAreWrapped(t *testing.T) {
	d := newDetour(t)
	d.put(t, model.ForwardTunnel, model.IPv4)
	for _, w := range []*wayside{d.a, d.b} {
		w.ownFront(11, model.MatchNodePort, model.ForwardTunnel, 30080)
		w.ownFront(12, model.MatchNodePort, model.ForwardTunnel, 30080)
		w.write(t)
	}
	w := d.clientWire(t)
	id := uint32(100)
	for i, f := range detourFamilies {
		pod := listenUDP(t, d.pod, net.JoinHostPort(f.pod, "8080"))
		for order, ordered := range orders {
			id++
			frame := w.datagram(net.JoinHostPort(f.client, "40000"), net.JoinHostPort(f.a, "30080"), 3000)
			w.sendAll(ordered(fragmentsOf(frame, id, 800)))
			got, from := readDatagram(t, pod)
			if want := frame[14+20+20*i+8:]; !bytes.Equal(got, want) || from.Addr().Unmap().String() != f.client {
				t.Errorf("%s, %s: %d bytes from %v; drops at A %v, at B %v", f.client, order, len(got), from, drops(t, d.a.plane), drops(t, d.b.plane))
			}
		}
	}
}

// clientWire sends frames from the client to the router.
func (d *detour) clientWire(t testing.TB) *wire {
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
	own := link(d.client, "eth0")
	d.client.Do(t, func() {
		var err error
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		check(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Ifindex: own.Attrs().Index}))
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	w.sourceMAC, w.dst = own.Attrs().HardwareAddr, link(d.router, "client").Attrs().HardwareAddr
	return w
}
