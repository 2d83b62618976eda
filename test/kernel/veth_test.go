// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// fabric is a node between two pods: a client whose sockets have no hooks, as a virtual machine's have none, and
// a backend. Only the packet programs at the pods' interfaces know Services.
type fabric struct {
	node, client, backend *testkit.NetNS
	options               bpf.Options
	plane                 *bpf.Dataplane
	// The indexes of the pods' interfaces on the node's side.
	clientPort, backendPort int
}

const (
	client4, client6   = "10.1.0.2", "fd00:1::2"
	backend4, backend6 = "10.1.1.2", "fd00:1:1::2"
	service4, service6 = "10.96.0.1:80", "[fd00:96::1]:80"
)

func newFabric(t testing.TB, options bpf.Options) *fabric {
	t.Helper()
	testkit.NeedKernel(t)
	f := &fabric{node: testkit.NewNetNS(t), client: testkit.NewNetNS(t), backend: testkit.NewNetNS(t)}
	f.join(t, f.client, "client", client4, client6)
	f.join(t, f.backend, "backend", backend4, backend6)
	f.node.Sysctl(t, "net/ipv4/ip_forward", "1")
	f.node.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	options.Capacities, options.Flows = small, 4096
	f.options = options
	f.clientPort, f.backendPort = f.node.Index(t, "client"), f.node.Index(t, "backend")
	f.start(t)
	t.Cleanup(func() { f.plane.Close() })
	return f
}

// start is what a programmer does when it starts, or starts again.
func (f *fabric) start(t testing.TB) {
	t.Helper()
	f.node.Do(t, func() {
		plane, err := bpf.Load(f.options)
		check(t, err)
		f.plane = plane
		check(t, plane.AttachPod(f.clientPort))
		check(t, plane.AttachPod(f.backendPort))
	})
}

// join gives a pod its interface, its addresses and a default route, as a CNI would.
func (f *fabric) join(t testing.TB, pod *testkit.NetNS, name, addr4, addr6 string) {
	t.Helper()
	a4, a6 := netip.MustParseAddr(addr4), netip.MustParseAddr(addr6)
	gateway4, gateway6 := a4.Prev(), a6.Prev()
	testkit.Veth(t, f.node, name, []netip.Prefix{netip.PrefixFrom(gateway4, 24), netip.PrefixFrom(gateway6, 64)},
		pod, "eth0", []netip.Prefix{netip.PrefixFrom(a4, 24), netip.PrefixFrom(a6, 64)})
	pod.Route(t, netip.MustParsePrefix("0.0.0.0/0"), gateway4, "eth0")
	pod.Route(t, netip.MustParsePrefix("::/0"), gateway6, "eth0")
}

// leave takes a pod's interface away.
func (f *fabric) leave(t testing.TB, name string) {
	t.Helper()
	f.node.Do(t, func() {
		l, err := netlink.LinkByName(name)
		check(t, err)
		check(t, netlink.LinkDel(l))
	})
}

func (f *fabric) putServices(t testing.TB) {
	t.Helper()
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		set := uint32(10*i + 1)
		testkit.Put(t, f.plane,
			testkit.Service{Set: set, Protocol: p, Frontends: at(service4), Backends: backends(set, backend4+":8080")},
			testkit.Service{Set: set + 1, Protocol: p, Frontends: at(service6), Backends: backends(set+1, "["+backend6+"]:8080")})
	}
}

// setChecksumOffload switches filling in checksums later, CHECKSUM_PARTIAL, on or off for what an interface
// sends.
func setChecksumOffload(t testing.TB, ns *testkit.NetNS, name string, on bool) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		check(t, err)
		defer unix.Close(fd)
		value := struct{ command, data uint32 }{command: unix.ETHTOOL_STXCSUM}
		if on {
			value.data = 1
		}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			t.Fatalf("set checksum offload: %v", errno)
		}
	})
}

// Row 1: sockets that no hook sees reach a ClusterIP by their packets, with and without checksums left to the
// device.
// Trap 29: a client whose sockets no hook sees reaches Services by its packets.
func TestSocketsWithoutHooksReachServicesByPacket(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	serve(t, f.backend, backend4+":8080")
	serve(t, f.backend, "["+backend6+"]:8080")
	for _, offload := range []bool{true, false} {
		setChecksumOffload(t, f.client, "eth0", offload)
		setChecksumOffload(t, f.backend, "eth0", offload)
		for _, c := range []struct{ network, to, answer string }{
			{"tcp4", service4, backend4 + ":8080"},
			{"tcp6", service6, "[" + backend6 + "]:8080"},
			{"udp4", service4, backend4 + ":8080"},
			{"udp6", service6, "[" + backend6 + "]:8080"},
		} {
			f.client.Do(t, func() {
				conn := dialRaw(t, c.network, netip.MustParseAddrPort(c.to))
				defer conn.Close()
				if got := ask(t, conn); got != c.answer {
					t.Errorf("%s reached %s, want %s", c.network, got, c.answer)
				}
			})
		}
	}
	if got := drops(t, f.plane); len(got) > 0 {
		t.Errorf("drops: %v", got)
	}
}

// TestBulkDataArrivesWhole sends enough for segmentation offload to make packets of many segments.
//
// Trap 10: packets of many segments pass translated, whatever the size they have together.
func TestBulkDataArrivesWhole(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	for service, pod := range map[string]string{service4: backend4 + ":8080", service6: "[" + backend6 + "]:8080"} {
		for _, offload := range []bool{true, false} {
			setChecksumOffload(t, f.client, "eth0", offload)
			sums := make(chan [32]byte, 1)
			var listener net.Listener
			f.backend.Do(t, func() {
				l, err := net.Listen("tcp", pod)
				check(t, err)
				listener = l
			})
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				got, _ := io.ReadAll(conn)
				sums <- sha256.Sum256(got)
			}()
			f.client.Do(t, func() {
				conn, err := net.Dial("tcp", service)
				check(t, err)
				conn.SetDeadline(time.Now().Add(patience))
				_, err = conn.Write(data)
				check(t, err)
				check(t, conn.Close())
			})
			if got := <-sums; got != sha256.Sum256(data) {
				t.Errorf("to %s, checksum offload %v: other data arrived", service, offload)
			}
			listener.Close()
		}
	}
}

// Row 5: sockets that no hook sees are refused at once by what their packets are answered with.
func TestSocketsWithoutHooksAreRefusedAtOnce(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		testkit.Put(t, f.plane, testkit.Service{Set: uint32(i + 1), Protocol: p, Frontends: at(service4, service6)})
	}
	for _, offload := range []bool{true, false} {
		setChecksumOffload(t, f.client, "eth0", offload)
		for _, to := range at(service4, service6) {
			family := "4"
			if to.Addr().Is6() {
				family = "6"
			}
			f.client.Do(t, func() {
				if _, err := dialErr("tcp"+family, to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("connect to %v: %v, want ECONNREFUSED", to, err)
				}
				conn := dialRaw(t, "udp"+family, to)
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				conn.Write([]byte("anyone?"))
				if _, err := conn.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("datagram to %v: %v, want ECONNREFUSED", to, err)
				}
			})
		}
	}
}

// wire is a raw socket on a pod's interface: what a user-space network stack has.
type wire struct {
	t  testing.TB
	fd int
	segment
	skip int // bytes before each frame that comes in
}

func newWire(t testing.TB, f *fabric, pod *testkit.NetNS) *wire {
	t.Helper()
	w := &wire{t: t}
	pod.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		check(t, err)
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		check(t, err)
		check(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
		check(t, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}))
		w.sourceMAC = l.Attrs().HardwareAddr
	})
	f.node.Do(t, func() {
		l, err := netlink.LinkByIndex(f.clientPort)
		check(t, err)
		w.dst = l.Attrs().HardwareAddr
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w *wire) send(s segment) {
	w.t.Helper()
	s.sourceMAC, s.dst = w.sourceMAC, w.dst
	_, err := unix.Write(w.fd, s.frame(w.t))
	check(w.t, err)
}

// receive returns the next frame from an address.
func (w *wire) receive(from string) seen {
	w.t.Helper()
	b := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			w.t.Fatalf("no packet from %s: %v", from, err)
		}
		b, n := b[w.skip:], n-w.skip
		ethertype := int(b[12])<<8 | int(b[13])
		if ethertype != unix.ETH_P_IP && ethertype != unix.ETH_P_IPV6 {
			continue
		}
		if s, err := addresses(b[:n]); err != nil || s != from {
			continue
		}
		return decode(w.t, append([]byte(nil), b[:n]...))
	}
}

// addresses returns the source address of a frame, without looking at checksums.
func addresses(b []byte) (string, error) {
	start, size := 14+12, 4
	if b[12] == 0x86 {
		start, size = 14+8, 16
	}
	addr, ok := netip.AddrFromSlice(b[start : start+size])
	if !ok {
		return "", errors.New("no address")
	}
	return addr.String(), nil
}

// Row 1: raw packets of a pod reach a backend, and are answered from the ClusterIP.
func TestRawPacketsReachTheServiceAndAreAnsweredByIt(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	setChecksumOffload(t, f.backend, "eth0", false) // so that its answers carry checksums to look at
	serve(t, f.backend, backend4+":8080")
	serve(t, f.backend, "["+backend6+"]:8080")
	w := newWire(t, f, f.client)
	for service, client := range map[string]string{service4: client4 + ":45000", service6: "[" + client6 + "]:45000"} {
		vip := netip.MustParseAddrPort(service).Addr().String()
		w.send(segment{from: client, to: service, udp: true, payload: 10})
		if got := w.receive(vip); got.from != service || got.to != client {
			t.Errorf("the answer is %s → %s, want %s → %s", got.from, got.to, service, client)
		}
		w.send(segment{from: client, to: service, syn: true, seq: 100})
		if got := w.receive(vip); got.from != service || got.to != client {
			t.Errorf("the answer to a SYN is %s → %s, want %s → %s", got.from, got.to, service, client)
		}
	}
}

// Row 5: raw packets to a Service without backends are refused on the wire, from the ClusterIP.
func TestRawPacketsAreRefusedOnTheWire(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		testkit.Put(t, f.plane, testkit.Service{Set: uint32(i + 1), Protocol: p, Frontends: at(service4, service6)})
	}
	w := newWire(t, f, f.client)
	for service, client := range map[string]string{service4: client4 + ":45000", service6: "[" + client6 + "]:45000"} {
		vip := netip.MustParseAddrPort(service).Addr().String()
		for range 3 {
			w.send(segment{from: client, to: service, udp: true, payload: 1200})
			if got := w.receive(vip); got.TransportLayer() != nil {
				t.Errorf("datagram: %v", got)
			}
			w.send(segment{from: client, to: service, syn: true, seq: 100})
			if got := w.receive(vip); got.from != service || got.to != client {
				t.Errorf("SYN: %v", got)
			}
		}
	}
}

// TestRefusalsOfUnfinishedPacketsAreRightOnceFinished sends packets whose checksums are still to be filled in and
// has that done to the answers, as an interface without checksum offload does.
//
// Trap 1: answers to packets whose checksum is still to be filled in are right once that is done.
func TestRefusalsOfUnfinishedPacketsAreRightOnceFinished(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		testkit.Put(t, f.plane, testkit.Service{Set: uint32(i + 1), Protocol: p, Frontends: at(service4, service6)})
	}
	setChecksumOffload(t, f.node, "client", false)
	w := newWire(t, f, f.client)
	for _, to := range at(service4, service6) {
		family := "4"
		if to.Addr().Is6() {
			family = "6"
		}
		for _, size := range []int{0, 1, 8, 1000} {
			f.client.Do(t, func() {
				conn := dialRaw(t, "udp"+family, to)
				defer conn.Close()
				_, err := conn.Write(make([]byte, size))
				check(t, err)
			})
			w.receive(to.Addr().String()) // and looks at its checksums
		}
		f.client.Do(t, func() {
			if _, err := dialErr("tcp"+family, to); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect to %v: %v, want ECONNREFUSED", to, err)
			}
		})
		w.receive(to.Addr().String())
	}
}

// setOptions makes a socket send all packets with IPv4 options or an IPv6 extension header.
func setOptions(v6 bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		level, option, value := unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01\x01\x01\x01\x00"
		if v6 {
			level, option, value = unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00"
		}
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), level, option, value) }), err)
	}
}

// TestUnfinishedPacketsWithOptionsAreRefused: the checksum field that is filled in later moves with its header.
func TestUnfinishedPacketsWithOptionsAreRefused(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		testkit.Put(t, f.plane, testkit.Service{Set: uint32(i + 1), Protocol: p, Frontends: at(service4, service6)})
	}
	for _, offload := range []bool{true, false} {
		setChecksumOffload(t, f.node, "client", offload)
		w := newWire(t, f, f.client)
		for _, to := range at(service4, service6) {
			dialer := net.Dialer{Control: setOptions(to.Addr().Is6()), Timeout: patience}
			f.client.Do(t, func() {
				conn, err := dialer.Dial("udp", to.String())
				check(t, err)
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				conn.Write([]byte("anyone?"))
				if _, err := conn.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("datagram to %v: %v, want ECONNREFUSED", to, err)
				}
				if _, err := dialer.Dial("tcp", to.String()); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("connect to %v: %v, want ECONNREFUSED", to, err)
				}
			})
			if !offload {
				w.receive(to.Addr().String()) // and looks at its checksums
				w.receive(to.Addr().String())
			}
		}
	}
}

// TestHeadersInPagesAreReadAlike sends packets of which only the Ethernet header is in place and all else in pages,
// as packet sockets with large packets make them.
//
// Trap 7: headers that aren't in the packet's first part are pulled in and read again.
func TestHeadersInPagesAreReadAlike(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	serve(t, f.backend, backend4+":8080")
	serve(t, f.backend, "["+backend6+"]:8080")
	for name, ns := range map[string]*testkit.NetNS{"client": f.node, "backend": f.node} {
		setMTU(t, ns, name, 9000)
	}
	setMTU(t, f.client, "eth0", 9000)
	setMTU(t, f.backend, "eth0", 9000)
	setChecksumOffload(t, f.backend, "eth0", false)
	w := newWire(t, f, f.client)
	check(t, unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	for service, client := range map[string]string{service4: client4 + ":45000", service6: "[" + client6 + "]:45000"} {
		packet := segment{from: client, to: service, udp: true, payload: 5000, sourceMAC: w.sourceMAC, dst: w.dst}
		header := [10]byte{2: 14} // struct virtio_net_hdr; hdr_len is what is to be in place
		_, err := unix.Write(w.fd, slices.Concat(header[:], packet.frame(t)))
		check(t, err)
		w.skip = len(header)
		if got := w.receive(netip.MustParseAddrPort(service).Addr().String()); got.from != service || got.to != client {
			t.Errorf("the answer is %s → %s, want %s → %s", got.from, got.to, service, client)
		}
	}
}

func setMTU(t testing.TB, ns *testkit.NetNS, name string, mtu int) {
	t.Helper()
	ns.Do(t, func() {
		l, err := netlink.LinkByName(name)
		check(t, err)
		check(t, netlink.LinkSetMTU(l, mtu))
	})
}
