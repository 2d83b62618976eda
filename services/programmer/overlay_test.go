// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// overlay joins a namespace to a VXLAN between the town and what is outside.
func (w *town) overlay(ns *testkit.NetNS, local, remote, addr string) {
	w.t.Helper()
	ns.Do(w.t, func() {
		under, err := netlink.LinkByName("eth0")
		check(w.t, err)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "overlay"
		check(w.t, netlink.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: 42, Port: 4789, VtepDevIndex: under.Attrs().Index, SrcAddr: net.ParseIP(local), Group: net.ParseIP(remote),
		}))
		l, err := netlink.LinkByName("overlay")
		check(w.t, err)
		a, err := netlink.ParseAddr(addr)
		check(w.t, err)
		check(w.t, netlink.AddrAdd(l, a))
		check(w.t, netlink.LinkSetUp(l))
	})
}

// Policy row 7: what comes by an overlay that is made while the programmer runs is another node's pods', not a new pod's,
// from its first packet on.
func TestOverlaysAreNoNewPods(t *testing.T) {
	w := newTown(t)
	stop := w.attaches()
	defer stop()
	w.overlay(w.host, "192.0.2.1", "192.0.2.2", "10.1.9.1/24")
	w.overlay(w.far, "192.0.2.2", "192.0.2.1", "10.1.9.5/24")
	w.far.Route(t, netip.PrefixFrom(firstPod, 32), netip.MustParseAddr("10.1.9.1"), "overlay")
	w.far.Do(t, func() {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP("10.1.9.5")}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(firstPod, 9)))
		check(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("?"))
		check(t, err)
		// Nobody listens: the pod's own answer says that it was asked.
		check(t, conn.SetReadDeadline(time.Now().Add(soon)))
		if _, err = conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the pod was not asked: %v", err)
		}
	})
}
