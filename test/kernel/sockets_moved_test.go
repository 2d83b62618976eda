// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// newPodNode is a fabric whose sockets have hooks, as those of usual pods and of the node's processes have.
func newPodNode(t testing.TB) *fabric {
	t.Helper()
	testkit.NeedKernel(t)
	cgroup := testkit.EnterCgroup(t)
	f := newFabric(t, bpf.Options{})
	check(t, f.plane.AttachCgroup(cgroup))
	return f
}

// moved is a Service with two backends on the fabric, whose names are their addresses.
type moved struct {
	fabric   *fabric
	service  testkit.Service
	at       netip.AddrPort
	backends []string
}

func newMoved(t testing.TB, f *fabric, protocol model.Protocol, service, addr string, more string) *moved {
	t.Helper()
	second := netip.MustParseAddr(more)
	f.backend.Up(t, "eth0", netip.PrefixFrom(second, second.BitLen()))
	m := &moved{fabric: f, at: netip.MustParseAddrPort(service)}
	for _, a := range []string{addr, more} {
		m.backends = append(m.backends, net.JoinHostPort(a, "8080"))
		serve(t, f.backend, m.backends[len(m.backends)-1])
	}
	m.service = testkit.Service{Set: 1, Protocol: protocol, Frontends: []netip.AddrPort{m.at}, Backends: backends(1, m.backends...)}
	testkit.Put(t, f.plane, m.service)
	return m
}

// only leaves the Service with this backend; with none if it is empty.
func (m *moved) only(t testing.TB, name string) {
	t.Helper()
	left := m.service
	left.Backends = map[uint32]netip.AddrPort{}
	for id, b := range m.service.Backends {
		if b.String() == name {
			left.Backends[id] = b
		}
	}
	testkit.Put(t, m.fabric.plane, left)
	for id := range m.service.Backends {
		if _, ok := left.Backends[id]; !ok {
			m.fabric.plane.Map(abi.Backends).Delete(abi.Encode(id))
		}
	}
}

// other returns the backend that isn't the one named.
func (m *moved) other(name string) string {
	if m.backends[0] == name {
		return m.backends[1]
	}
	return m.backends[0]
}

// moves runs the iterators on the node.
func (m *moved) moves(t testing.TB) (moves bpf.Moves) {
	t.Helper()
	m.fabric.node.Do(t, func() {
		var err error
		moves, err = m.fabric.plane.MoveSockets()
		check(t, err)
	})
	return moves
}

func wantMoves(t testing.TB, what string, got, want bpf.Moves) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Trap 22: a connected UDP socket whose backend goes is moved to another, and to a third when that one goes.
// Row 2: a connected UDP socket moves when its backend goes, is refused when none is left, and moves again when one
// comes.
func TestConnectedDatagramsMoveWhenTheirBackendGoes(t *testing.T) {
	for _, c := range []struct{ name, network, service, pod, pod2 string }{
		{"udp4", "udp4", service4, backend4, "10.1.1.3"},
		{"udp6", "udp6", service6, backend6, "fd00:1:1::3"},
		{"mapped", "udp6", service4, backend4, "10.1.1.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newPodNode(t)
			m := newMoved(t, f, model.UDP, c.service, c.pod, c.pod2)
			f.client.Do(t, func() {
				s := dialDatagrams(t, c.network, m.at)
				reaches := func(want string) {
					t.Helper()
					for range 3 {
						if who, from := s.exchange(t, netip.AddrPort{}); who != want || from != m.at {
							t.Fatalf("%s answers as %s, want %s as %s", who, from, want, m.at)
						}
						if who, from := s.exchange(t, m.at); who != want || from != m.at {
							t.Fatalf("asked by name %s answers as %s, want %s as %s", who, from, want, m.at)
						}
					}
					if got := peerOf(t, s.fd); got != m.at {
						t.Errorf("the peer is %s, want %s", got, m.at)
					}
				}
				first, _ := s.exchange(t, netip.AddrPort{})
				second := m.other(first)
				wantMoves(t, "while its backend serves", m.moves(t), bpf.Moves{Walked: 1})
				m.only(t, second)
				wantMoves(t, "its backend went", m.moves(t), bpf.Moves{Walked: 1, Moved: 1})
				reaches(second)
				wantMoves(t, "it had moved", m.moves(t), bpf.Moves{Walked: 1, Kept: 1})
				m.only(t, first)
				reaches(first) // without being told: packets see that the second went
				m.only(t, "")
				wantMoves(t, "all went", m.moves(t), bpf.Moves{Walked: 1, Kept: 1})
				s.isRefused(t)
				m.only(t, second)
				wantMoves(t, "the second is back", m.moves(t), bpf.Moves{Walked: 1, Moved: 1})
				reaches(second)
			})
		})
	}
}

// isRefused sends to the peer until the answer of an earlier datagram is that nobody is there.
func (s datagrams) isRefused(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, patience, func() bool {
		_, err := syscall.Write(s.fd, []byte("who"))
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func peerOf(t testing.TB, fd int) netip.AddrPort {
	t.Helper()
	sa, err := syscall.Getpeername(fd)
	check(t, err)
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Two sockets of one port, connected to two Services, come to one backend: each is answered as its Service. A pod's
// socket that has its port before it connects is left to its packets, which may get another.
//
// Trap 19: two sockets of one port that come to one backend are each answered as their Service.
func TestSocketsOfOnePortAreNotMixedUp(t *testing.T) {
	f := newPodNode(t)
	m := newMoved(t, f, model.UDP, service4, backend4, "10.1.1.3")
	const left, service2 = "10.1.1.3:8080", "10.96.0.2:80"
	f.client.Do(t, func() {
		var sockets []datagrams
		for i, c := range []struct{ service, gone string }{{service4, backend4 + ":8080"}, {service2, "10.1.1.4:8080"}} {
			s := testkit.Service{Set: uint32(i + 1), Protocol: model.UDP, Frontends: at(c.service), Backends: backends(uint32(10*i+1), c.gone)}
			testkit.Put(t, f.plane, s)
			sockets = append(sockets, dialFrom(t, client4+":5000", c.service))
			testkit.RemoveBackend(t, f.plane, uint32(10*i+1))
			s.Backends = backends(uint32(10*i+2), left)
			testkit.Put(t, f.plane, s)
		}
		wantMoves(t, "none", m.moves(t), bpf.Moves{})
		for i, s := range sockets {
			want := []string{service4, service2}[i]
			if who, from := s.exchange(t, netip.AddrPort{}); who != left || from.String() != want {
				t.Errorf("%s answers as %s, want %s as %s", who, from, left, want)
			}
		}
	})
}

// dialFrom connects a UDP socket that shares its port with others.
func dialFrom(t testing.TB, from, to string) datagrams {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	s := datagrams{fd: fd}
	check(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	check(t, syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: int64(patience.Seconds())}))
	check(t, syscall.Bind(fd, s.sockaddr(netip.MustParseAddrPort(from))))
	check(t, syscall.Connect(fd, s.sockaddr(netip.MustParseAddrPort(to))))
	return s
}

func TestSocketsMoveByThePolicyOfTheirService(t *testing.T) {
	f := newPodNode(t)
	b := newBook(t, f.plane)
	names := []string{backend4 + ":8081", backend4 + ":8082", backend4 + ":8083"}
	for _, n := range names {
		serve(t, f.backend, n)
	}
	b.root(1, model.UDP, model.IPv4, names...)
	b.front(1, model.FrontendClusterIP, model.InternalLocal, service4)
	b.part(2, 1, model.ScopeLocal, "", names[0])
	b.write(t)
	f.client.Do(t, func() {
		var sockets []datagrams
		for range 8 {
			sockets = append(sockets, dialDatagrams(t, "udp4", at(service4)[0]))
		}
		b.node = model.NewTables()
		b.remove(b.inCluster(1, at(names[0])[0]), 1)
		b.part(3, 1, model.ScopeLocal, "", names[1])
		b.write(t)
		m := moved{fabric: f}
		wantMoves(t, "all", m.moves(t), bpf.Moves{Walked: 8, Moved: 8})
		for _, s := range sockets {
			if who, _ := s.exchange(t, netip.AddrPort{}); who != names[1] {
				t.Errorf("moved to %s, but only %s is on this node", who, names[1])
			}
		}
	})
}

// Row 3: a pod's TCP connection whose backend is gone is reset at its next packet.
func TestConnectionsEndWhenTheirBackendIsGone(t *testing.T) {
	for _, c := range []struct{ name, network, service, pod, pod2 string }{
		{"tcp4", "tcp4", service4, backend4, "10.1.1.3"},
		{"tcp6", "tcp6", service6, backend6, "fd00:1:1::3"},
		{"mapped", "tcp6", service4, backend4, "10.1.1.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newPodNode(t)
			m := newMoved(t, f, model.TCP, c.service, c.pod, c.pod2)
			f.client.Do(t, func() {
				conn := dialRaw(t, c.network, m.at)
				defer conn.Close()
				first := ask(t, conn)
				direct := dialRaw(t, c.network, netip.MustParseAddrPort(first))
				defer direct.Close()
				m.only(t, m.other(first))
				wantMoves(t, "its backend went", m.moves(t), bpf.Moves{Walked: 1, Ended: 1})
				if _, err := conn.Write([]byte("who")); err != nil {
					t.Errorf("the next write: %v", err)
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the socket says %v, want ECONNRESET", err)
				}
				ask(t, direct)
				wantMoves(t, "it is closed", m.moves(t), bpf.Moves{Walked: 1})
			})
		})
	}
}

// Row 3: the node's own sockets whose backend is gone are ended at once, where the kernel can.
func TestOwnSocketsAreToldThatTheirBackendIsGone(t *testing.T) {
	for _, c := range []struct{ name, network, service, pod, pod2 string }{
		{"tcp4", "tcp4", service4, backend4, "10.1.1.3"},
		{"tcp6", "tcp6", service6, backend6, "fd00:1:1::3"},
		{"udp4", "udp4", service4, backend4, "10.1.1.3"},
		{"udp6", "udp6", service6, backend6, "fd00:1:1::3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newPodNode(t)
			protocol := model.TCP
			if c.network[:3] == "udp" {
				protocol = model.UDP
			}
			m := newMoved(t, f, protocol, c.service, c.pod, c.pod2)
			f.node.Do(t, func() {
				conn := dialRaw(t, c.network, m.at)
				defer conn.Close()
				first := ask(t, conn)
				direct := dialRaw(t, c.network, netip.MustParseAddrPort(first))
				defer direct.Close()
				m.only(t, m.other(first))
				moves := m.moves(t)
				if moves.Destroyed == 0 && moves.Own == 1 {
					t.Skip("this kernel has no bpf_sock_destroy: that came with Linux 6.5")
				}
				wantMoves(t, "its backend went", moves, bpf.Moves{Walked: 1, Own: 1, Destroyed: 1})
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
					t.Errorf("the socket says %v, want ECONNABORTED", err)
				}
				ask(t, direct)
				again := dialRaw(t, c.network, m.at)
				defer again.Close()
				if got := ask(t, again); got != m.other(first) {
					t.Errorf("reached %s, want %s", got, m.other(first))
				}
			})
		})
	}
}
