// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// node is a namespace whose sockets reach Services, with pods' addresses on its loopback.
type node struct {
	*testkit.NetNS
	plane *bpf.Dataplane
}

// small is enough for tests and quick to make.
var small = map[abi.Map]uint32{
	abi.Frontends: 64, abi.Sets: 64, abi.Slots: 256, abi.Backends: 256, abi.MaglevIndex: 16, abi.Endpoints: 16,
	abi.Peers: 64, abi.Blocks: 64, abi.Verdicts: 256, abi.PortVerdicts: 256, abi.RuleSets: 16, abi.Rules: 64,
}

func newNode(t testing.TB, podAddrs ...string) node {
	t.Helper()
	testkit.NeedKernel(t)
	cgroup := testkit.EnterCgroup(t)
	ns := testkit.NewNetNS(t)
	for _, a := range podAddrs {
		addr := netip.MustParseAddr(a)
		ns.Up(t, "lo", netip.PrefixFrom(addr, addr.BitLen()))
	}
	plane, err := bpf.Load(bpf.Options{Flows: 1024, Capacities: small})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Close)
	if err := plane.AttachCgroup(cgroup); err != nil {
		t.Fatal(err)
	}
	return node{ns, plane}
}

func at(addrs ...string) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range addrs {
		list = append(list, netip.MustParseAddrPort(a))
	}
	return list
}

func backends(first uint32, addrs ...string) map[uint32]netip.AddrPort {
	m := map[uint32]netip.AddrPort{}
	for i, a := range at(addrs...) {
		m[first+uint32(i)] = a
	}
	return m
}

// ask sends a line on a connected socket and returns the answer.
func ask(t testing.TB, conn net.Conn) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("who")); err != nil {
		t.Fatalf("send to %v: %v", conn.RemoteAddr(), err)
	}
	b := make([]byte, 64)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatalf("answer of %v: %v", conn.RemoteAddr(), err)
	}
	return string(b[:n])
}

// Row 1: a connected socket, TCP or UDP, reaches a backend of the Service that it dialled, which stays its peer.
// Row 22: sockets of either family, and IPv6 sockets that dial IPv4, reach Services of their family.
// Trap 24: getpeername gives the Service, not the backend.
// Trap 26: an IPv6 socket that dials an IPv4 Service reaches it, and sees a mapped address.
func TestConnectedSocketReachesBackendAndShowsService(t *testing.T) {
	n := newNode(t, "10.1.0.1", "fd00:1::1")
	serve(t, n.NetNS, "10.1.0.1:8080")
	serve(t, n.NetNS, "[fd00:1::1]:8080")
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		set := uint32(10*i + 1)
		testkit.Put(t, n.plane,
			testkit.Service{Set: set, Protocol: p, Frontends: at("10.96.0.1:80"), Backends: backends(set, "10.1.0.1:8080")},
			testkit.Service{Set: set + 1, Protocol: p, Frontends: at("[fd00:96::1]:80"), Backends: backends(set+1, "[fd00:1::1]:8080")})
	}
	for _, c := range []struct{ name, network, dial, answer, peer string }{
		{"tcp4", "tcp4", "10.96.0.1:80", "10.1.0.1:8080", "10.96.0.1:80"},
		{"tcp6", "tcp6", "[fd00:96::1]:80", "[fd00:1::1]:8080", "[fd00:96::1]:80"},
		{"tcp mapped", "tcp6", "[::ffff:10.96.0.1]:80", "10.1.0.1:8080", "10.96.0.1:80"},
		{"udp4", "udp4", "10.96.0.1:80", "10.1.0.1:8080", "10.96.0.1:80"},
		{"udp6", "udp6", "[fd00:96::1]:80", "[fd00:1::1]:8080", "[fd00:96::1]:80"},
		{"udp mapped", "udp6", "[::ffff:10.96.0.1]:80", "10.1.0.1:8080", "10.96.0.1:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Do(t, func() {
				conn := dialRaw(t, c.network, netip.MustParseAddrPort(c.dial))
				defer conn.Close()
				if got := ask(t, conn); got != c.answer {
					t.Errorf("reached %s, want %s", got, c.answer)
				}
				if got := conn.RemoteAddr().String(); got != c.peer {
					t.Errorf("getpeername gives %s, want %s", got, c.peer)
				}
			})
		})
	}
}

// dialRaw connects a socket of the network's own family: the net package would turn a mapped address into an
// IPv4 socket.
func dialRaw(t testing.TB, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := dialErr(network, to)
	if err != nil {
		t.Fatalf("connect %s to %v: %v", network, to, err)
	}
	return conn
}

func dialErr(network string, to netip.AddrPort) (net.Conn, error) {
	kind := syscall.SOCK_STREAM
	if network[:3] == "udp" {
		kind = syscall.SOCK_DGRAM
	}
	family := syscall.AF_INET
	var sa syscall.Sockaddr = &syscall.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice()[to.Addr().BitLen()/8-4:])}
	if network[3:] == "6" {
		family = syscall.AF_INET6
		sa = &syscall.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Connect(fd, sa); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return fileConn(fd)
}

// Row 1: a connection of multipath TCP reaches the Service as one of TCP does.
// Trap 26: multipath TCP counts as TCP.
func TestMultipathTCPCountsAsTCP(t *testing.T) {
	n := newNode(t, "10.1.0.1")
	serve(t, n.NetNS, "10.1.0.1:8080")
	testkit.Put(t, n.plane, testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80"), Backends: backends(1, "10.1.0.1:8080")})
	n.Do(t, func() {
		var dialer net.Dialer
		dialer.SetMultipathTCP(true)
		conn, err := dialer.DialContext(t.Context(), "tcp", "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := ask(t, conn); got != "10.1.0.1:8080" {
			t.Errorf("reached %s", got)
		}
		if got := conn.RemoteAddr().String(); got != "10.96.0.1:80" {
			t.Errorf("the connection shows the peer %s", got)
		}
	})
}

// Row 5: connect and sendto to a Service without backends say ECONNREFUSED at once.
// Trap 25: connect and sendto to a Service without backends say ECONNREFUSED, not EPERM.
func TestServiceWithoutBackendsRefusesAtOnce(t *testing.T) {
	n := newNode(t)
	testkit.Put(t, n.plane,
		testkit.Service{Set: 7, Protocol: model.TCP, Frontends: at("10.96.0.7:80", "[fd00:96::7]:80")},
		testkit.Service{Set: 8, Protocol: model.UDP, Frontends: at("10.96.0.7:80", "[fd00:96::7]:80")})
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan abi.DropEvent, 16)
	done := make(chan error)
	go func() { done <- n.plane.Drops(ctx, func(e abi.DropEvent) { events <- e }) }()

	n.Do(t, func() {
		for _, network := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
			to := netip.MustParseAddrPort("10.96.0.7:80")
			if network[3:] == "6" {
				to = netip.MustParseAddrPort("[fd00:96::7]:80")
			}
			if _, err := dialErr(network, to); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect %s: %v, want ECONNREFUSED", network, err)
			}
		}
		conn, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("10.96.0.7:80")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("sendto: %v, want ECONNREFUSED", err)
		}
	})
	for i := range 5 {
		e := <-events
		if model.DropReason(e.Reason) != model.ReasonNoBackend || e.Via != 1 || abi.HostPort(e.DestinationPort) != 80 || e.Set != 7+uint32(i/2) && i < 4 {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	counts, err := n.plane.DropCounts()
	if err != nil || counts[model.ReasonNoBackend] != 5 {
		t.Errorf("counted %v, %v; want 5 of no_backend", counts, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Trap 23: an answer shows the Service if its sender is the chosen backend; any other sender is itself.
// Row 2: an unconnected UDP socket keeps its backend, leaves it when it goes, and sees answers as from the Service.
func TestUnconnectedDatagramsKeepTheirBackend(t *testing.T) {
	for _, c := range []struct{ name, network, service, pod, pod2 string }{
		{"udp4", "udp4", "10.96.0.2:53", "10.1.0.1", "10.1.0.2"},
		{"udp6", "udp6", "[fd00:96::2]:53", "fd00:1::1", "fd00:1::2"},
		{"mapped", "udp", "10.96.0.2:53", "10.1.0.1", "10.1.0.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, c.pod, c.pod2)
			one, two := net.JoinHostPort(c.pod, "5353"), net.JoinHostPort(c.pod2, "5353")
			serve(t, n.NetNS, one)
			serve(t, n.NetNS, two)
			service := netip.MustParseAddrPort(c.service)
			dns := testkit.Service{Set: 1, Protocol: model.UDP, Frontends: []netip.AddrPort{service}, Backends: backends(1, one, two)}
			testkit.Put(t, n.plane, dns)
			n.Do(t, func() {
				conn, err := net.ListenUDP(c.network, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				first := exchange(t, conn, service, service)
				for range 20 {
					if got := exchange(t, conn, service, service); got != first {
						t.Fatalf("reached %s after %s", got, first)
					}
				}
				// Its backend goes: the same socket reaches the other one.
				gone, left := uint32(1), two
				if first == two {
					gone, left = 2, one
				}
				delete(dns.Backends, gone)
				testkit.Put(t, n.plane, dns)
				testkit.RemoveBackend(t, n.plane, gone)
				if got := exchange(t, conn, service, service); got != left {
					t.Errorf("reached %s after its backend went, want %s", got, left)
				}
				// A pod that was not chosen is itself.
				direct := netip.MustParseAddrPort(first)
				exchange(t, conn, direct, direct)
			})
		})
	}
}

// Trap 42: a datagram socket leaves a backend whose number stands for another address by now.
func TestDatagramSocketLeavesABackendWhoseIDIsAnothersByNow(t *testing.T) {
	n := newNode(t, "10.1.0.1", "10.1.0.2")
	serve(t, n.NetNS, "10.1.0.1:5353")
	serve(t, n.NetNS, "10.1.0.2:5353")
	service := netip.MustParseAddrPort("10.96.0.2:53")
	n.Do(t, func() {
		conn, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, pod := range []string{"10.1.0.1:5353", "10.1.0.2:5353"} {
			testkit.Put(t, n.plane, testkit.Service{Set: 1, Protocol: model.UDP, Frontends: []netip.AddrPort{service}, Backends: backends(1, pod)})
			if got := exchange(t, conn, service, service); got != pod {
				t.Errorf("reached %s, want %s", got, pod)
			}
		}
	})
}

// TestConnectedSocketMayNameItsPeer: a datagram of a connected socket may name an address too. Naming the Service that
// it is connected to, it must reach the same backend: the socket takes answers from no other.
func TestConnectedSocketMayNameItsPeer(t *testing.T) {
	pods := []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"}
	n := newNode(t, pods...)
	for i := range pods {
		pods[i] += ":5353"
		serve(t, n.NetNS, pods[i])
	}
	service := netip.MustParseAddrPort("10.96.0.2:53")
	testkit.Put(t, n.plane, testkit.Service{Set: 1, Protocol: model.UDP, Frontends: []netip.AddrPort{service}, Backends: backends(1, pods...)})
	for _, network := range []string{"udp4", "udp6"} { // the latter with mapped addresses
		n.Do(t, func() {
			s := dialDatagrams(t, network, service)
			first, _ := s.exchange(t, netip.AddrPort{})
			for range 20 {
				if got, from := s.exchange(t, service); got != first || from != service {
					t.Fatalf("%s: %s answers as %s, want %s as %s", network, got, from, first, service)
				}
			}
		})
	}
}

// TestDisconnectedSocketForgetsItsPeer: a socket that was connected to a Service, gave that up and asks the backend
// itself is answered by the backend.
//
// Trap 23: a socket that has given up its Service sees the backend as itself.
func TestDisconnectedSocketForgetsItsPeer(t *testing.T) {
	n := newNode(t, "10.1.0.1")
	serve(t, n.NetNS, "10.1.0.1:5353")
	service, pod := netip.MustParseAddrPort("10.96.0.2:53"), netip.MustParseAddrPort("10.1.0.1:5353")
	testkit.Put(t, n.plane, testkit.Service{Set: 1, Protocol: model.UDP, Frontends: []netip.AddrPort{service}, Backends: backends(1, pod.String())})
	n.Do(t, func() {
		s := dialDatagrams(t, "udp4", service)
		if _, from := s.exchange(t, netip.AddrPort{}); from != service {
			t.Errorf("connected, it is answered by %s, want %s", from, service)
		}
		disconnect(t, s.fd)
		for _, to := range []netip.AddrPort{pod, service, pod} {
			if _, from := s.exchange(t, to); from != to {
				t.Errorf("asked %s, answered by %s", to, from)
			}
		}
	})
}

// datagrams is a UDP socket as C programs use it.
type datagrams struct {
	fd     int
	mapped bool // an IPv6 socket
}

func dialDatagrams(t testing.TB, network string, to netip.AddrPort) datagrams {
	t.Helper()
	s := datagrams{mapped: network == "udp6"}
	family := syscall.AF_INET
	if s.mapped {
		family = syscall.AF_INET6
	}
	var err error
	if s.fd, err = syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(s.fd) })
	if err := syscall.SetsockoptTimeval(s.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: int64(patience.Seconds())}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Connect(s.fd, s.sockaddr(to)); err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	return s
}

func (s datagrams) sockaddr(to netip.AddrPort) syscall.Sockaddr {
	if s.mapped {
		return &syscall.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	return &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
}

// exchange sends a datagram, to the peer if to is the zero address, and returns who answers and as whom.
func (s datagrams) exchange(t testing.TB, to netip.AddrPort) (who string, from netip.AddrPort) {
	t.Helper()
	var err error
	if to.IsValid() {
		err = syscall.Sendto(s.fd, []byte("who"), 0, s.sockaddr(to))
	} else {
		_, err = syscall.Write(s.fd, []byte("who"))
	}
	if err != nil {
		t.Fatalf("send to %s: %v", to, err)
	}
	b := make([]byte, 64)
	count, sender, err := syscall.Recvfrom(s.fd, b, 0)
	if err != nil {
		t.Fatalf("answer of %s: %v", to, err)
	}
	switch sa := sender.(type) {
	case *syscall.SockaddrInet4:
		from = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		from = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return string(b[:count]), from
}

// exchange sends a datagram and checks whom the answer seems to come from.
func exchange(t testing.TB, conn *net.UDPConn, to, from netip.AddrPort) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteToUDPAddrPort([]byte("who"), to); err != nil {
		t.Fatalf("send to %v: %v", to, err)
	}
	b := make([]byte, 64)
	n, sender, err := conn.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("answer of %v: %v", to, err)
	}
	if sender = netip.AddrPortFrom(sender.Addr().Unmap(), sender.Port()); sender != from {
		t.Errorf("the answer seems to come from %v, want %v", sender, from)
	}
	return string(b[:n])
}

func TestOneSocketMayUseMoreServicesThanItRemembers(t *testing.T) {
	n := newNode(t, "10.1.0.1")
	var services []netip.AddrPort
	for i := range 20 {
		service := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}), 53)
		pod := netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), uint16(5000+i))
		serve(t, n.NetNS, pod.String())
		id := uint32(i + 1)
		testkit.Put(t, n.plane, testkit.Service{Set: id, Protocol: model.UDP, Frontends: []netip.AddrPort{service}, Backends: backends(id, pod.String())})
		services = append(services, service)
	}
	n.Do(t, func() {
		conn, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 {
			for _, s := range services {
				exchange(t, conn, s, s)
			}
		}
	})
}

func TestSocketThatDialsElsewhereShowsItsPeer(t *testing.T) {
	n := newNode(t, "10.1.0.1")
	serve(t, n.NetNS, "10.1.0.1:8080")
	testkit.Put(t, n.plane, testkit.Service{Set: 1, Protocol: model.UDP, Frontends: at("10.96.0.1:80"), Backends: backends(1, "10.1.0.1:8080")})
	n.Do(t, func() {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		for _, to := range at("10.96.0.1:80", "10.1.0.1:8080") {
			if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
				t.Fatal(err)
			}
			sa, err := syscall.Getpeername(fd)
			if err != nil {
				t.Fatal(err)
			}
			peer := sa.(*syscall.SockaddrInet4)
			if got := netip.AddrPortFrom(netip.AddrFrom4(peer.Addr), uint16(peer.Port)); got != to {
				t.Errorf("getpeername gives %v, want %v", got, to)
			}
		}
	})
}

// TestSocketMayDialAgain: a socket that was refused, or gave up its peer, dials again, and gets what a new one would.
func TestSocketMayDialAgain(t *testing.T) {
	n := newNode(t, "10.1.0.1")
	serve(t, n.NetNS, "10.1.0.1:8080")
	service := testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80")}
	testkit.Put(t, n.plane, service)
	n.Do(t, func() {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		check(t, err)
		defer syscall.Close(fd)
		dial := func() error {
			return syscall.Connect(fd, &syscall.SockaddrInet4{Port: 80, Addr: [4]byte{10, 96, 0, 1}})
		}
		if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("without backends: %v, want ECONNREFUSED", err)
		}
		service.Backends = backends(1, "10.1.0.1:8080")
		testkit.Put(t, n.plane, service)
		for range 3 {
			check(t, dial())
			if got := peerOf(t, fd); got != at("10.96.0.1:80")[0] {
				t.Errorf("the peer is %s", got)
			}
			disconnect(t, fd)
			if _, err := syscall.Getpeername(fd); !errors.Is(err, syscall.ENOTCONN) {
				t.Errorf("the peer of a socket that gave it up: %v, want ENOTCONN", err)
			}
		}
	})
}

// disconnect connects to AF_UNSPEC.
func disconnect(t testing.TB, fd int) {
	t.Helper()
	var unspecified [16]byte
	if _, _, errno := syscall.Syscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified[0])), uintptr(len(unspecified))); errno != 0 {
		t.Fatal(errno)
	}
}
