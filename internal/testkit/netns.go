// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NetNS is a network namespace of a test's own. It ends with the test, and all interfaces in it.
type NetNS struct {
	file *os.File
}

// NewNetNS makes a namespace whose loopback is up. Its interfaces' own IPv6 addresses can be used as soon as they are
// there: a router asks for its neighbours by them, and would lose the first packets to them for a second or two.
func NewNetNS(t testing.TB) *NetNS {
	t.Helper()
	n := &NetNS{}
	onThread(t, func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
			return
		}
		var err error
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			t.Errorf("open the network namespace: %v", err)
		}
	})
	if n.file == nil {
		t.FailNow()
	}
	t.Cleanup(func() { n.file.Close() })
	n.Sysctl(t, "net/ipv6/conf/default/accept_dad", "0")
	n.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("set the loopback up: %v", err)
		}
	})
	return n
}

// FD returns the namespace's descriptor.
func (n *NetNS) FD() int { return int(n.file.Fd()) }

// Do runs f on a thread inside the namespace and waits for it. Sockets made in f stay in the namespace; f may
// fail the test as usual, but must start no goroutine that counts on the namespace.
func (n *NetNS) Do(t testing.TB, f func()) {
	t.Helper()
	onThread(t, func() {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			t.Fatalf("enter a network namespace: %v", err)
		}
		f()
	})
}

// onThread runs f on a thread that is thrown away afterwards.
func onThread(t testing.TB, f func()) {
	t.Helper()
	finished := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f()
		finished = true
	}()
	<-done
	if !finished {
		t.FailNow() // f ended its goroutine by failing the test; end this one too
	}
}

// Veth joins two namespaces by a pair of interfaces, sets both up and gives each its addresses.
func Veth(t testing.TB, a *NetNS, nameA string, addrsA []netip.Prefix, b *NetNS, nameB string, addrsB []netip.Prefix) {
	t.Helper()
	a.Do(t, func() {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.FD()),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			t.Fatalf("make the veth pair %s, %s: %v", nameA, nameB, err)
		}
	})
	a.Up(t, nameA, addrsA...)
	b.Up(t, nameB, addrsB...)
	a.carries(t, nameA)
	b.carries(t, nameB)
}

// carries waits until an interface sends what it is given and has its addresses: it learns only a moment after it is up
// that its other end is, too, and drops packets until then. The kernel gives it IPv6 addresses when it has time.
func (n *NetNS) carries(t testing.TB, name string) {
	t.Helper()
	n.Do(t, func() {
		Eventually(t, 30*time.Second, func() bool {
			l, err := netlink.LinkByName(name)
			if err != nil || l.Attrs().OperState != netlink.OperUp {
				return false
			}
			addrs, err := netlink.AddrList(l, unix.AF_INET6)
			return err == nil && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		})
	})
}

// Up sets an interface up and adds addresses, usable at once.
func (n *NetNS) Up(t testing.TB, name string, addrs ...netip.Prefix) {
	t.Helper()
	n.Do(t, func() {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find the interface %s: %v", name, err)
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a.String())
			if err != nil {
				t.Fatalf("address %s: %v", a, err)
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, addr); err != nil {
				t.Fatalf("add %s to %s: %v", a, name, err)
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatalf("set %s up: %v", name, err)
		}
	})
}

// Index returns the index of an interface.
func (n *NetNS) Index(t testing.TB, name string) int {
	t.Helper()
	var index int
	n.Do(t, func() {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find the interface %s: %v", name, err)
		}
		index = l.Attrs().Index
	})
	return index
}

// Sysctl writes a setting under /proc/sys, such as "net/ipv4/ip_forward".
func (n *NetNS) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	n.Do(t, func() {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
			t.Fatalf("set %s to %s: %v", name, value, err)
		}
	})
}

// Route adds a route to prefix, through a gateway if it is valid and through the interface name else.
func (n *NetNS) Route(t testing.TB, prefix netip.Prefix, gateway netip.Addr, name string) {
	t.Helper()
	n.Do(t, func() {
		dst, err := netlink.ParseIPNet(prefix.String())
		if err != nil {
			t.Fatalf("prefix %s: %v", prefix, err)
		}
		route := &netlink.Route{Dst: dst}
		if gateway.IsValid() {
			route.Gw = gateway.AsSlice()
		}
		if name != "" {
			l, err := netlink.LinkByName(name)
			if err != nil {
				t.Fatalf("find the interface %s: %v", name, err)
			}
			route.LinkIndex = l.Attrs().Index
		}
		if err := netlink.RouteAdd(route); err != nil {
			t.Fatalf("add the route to %s: %v", prefix, err)
		}
	})
}
