// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// bindErr binds a socket of a family and protocol, such as "udp6", and says what the kernel says.
func bindErr(t testing.TB, ns *testkit.NetNS, network, to string) (err error) {
	t.Helper()
	ns.Do(t, func() {
		a := netip.MustParseAddrPort(to)
		family, kind := syscall.AF_INET, syscall.SOCK_STREAM
		var sa syscall.Sockaddr
		if network[3:] == "6" {
			family, sa = syscall.AF_INET6, &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
		} else {
			sa = &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
		}
		if network[:3] == "udp" {
			kind = syscall.SOCK_DGRAM
		}
		fd, made := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, 0)
		check(t, made)
		defer syscall.Close(fd)
		err = syscall.Bind(fd, sa)
	})
	return err
}

// Row 7: no process of the node can bind a NodePort on any address that serves it, of its protocol and family.
// Trap 28: whoever uses the node's network namespace is known by its cookie: NodePorts are taken there, and free in
// pods.
func TestNodePortsAreTakenOnTheNodeAlone(t *testing.T) {
	f := newPodNode(t)
	nodeAddresses(t, f.plane)
	b := newBook(t, f.plane)
	b.root(1, model.TCP, model.IPv4)
	b.ownFront(1, model.MatchNodePort, 0, 30080)
	b.root(2, model.UDP, model.IPv6)
	b.ownFront(2, model.MatchNodePort, 0, 30081)
	b.root(3, model.TCP, model.IPv4)
	b.ownFront(3, model.MatchHostPort, 0, 8888)
	b.write(t)
	for _, c := range []struct {
		network, to string
		taken       bool
	}{
		{"tcp4", "0.0.0.0:30080", true},
		{"tcp4", node4 + ":30080", true},
		{"tcp4", "127.0.0.1:30080", true},
		{"tcp6", "[::]:30080", true}, // takes IPv4 too
		{"tcp6", "[::ffff:0.0.0.0]:30080", true},
		{"tcp6", "[::ffff:127.0.0.1]:30080", true},
		{"tcp6", "[::1]:30080", false},            // another family
		{"tcp4", "10.1.1.1:30080", false},         // serves no NodePorts
		{"udp4", "0.0.0.0:30080", false},          // another protocol
		{"tcp4", "0.0.0.0:30081", false},          // another protocol
		{"udp6", "[::]:30081", true},              //
		{"udp6", "[" + node6 + "]:30081", true},   //
		{"udp4", "0.0.0.0:30081", false},          // another family
		{"tcp4", "0.0.0.0:0", false},              // any port
		{"tcp4", "0.0.0.0:30082", false},          // nobody's
		{"tcp4", "0.0.0.0:8888", false},           // a hostPort
		{"udp6", "[::ffff:0.0.0.0]:30081", false}, // another family
	} {
		var want error
		if c.taken {
			want = syscall.EADDRINUSE
		}
		if err := bindErr(t, f.node, c.network, c.to); !errors.Is(err, want) {
			t.Errorf("the node binds %s %s: %v, want %v", c.network, c.to, err, want)
		}
		if c.taken && netip.MustParseAddrPort(c.to).Addr().Unmap() == netip.IPv4Unspecified() {
			if err := bindErr(t, f.client, c.network, c.to); err != nil {
				t.Errorf("a pod binds %s %s: %v", c.network, c.to, err)
			}
		}
	}
	// Given up, it is free again.
	delete(b.cluster.Frontends, model.FrontendKey{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: model.TCP, Match: model.MatchNodePort})
	b.write(t)
	if err := bindErr(t, f.node, "tcp4", fmt.Sprintf("%s:30080", node4)); err != nil {
		t.Errorf("a port that is none's any more: %v", err)
	}
}
