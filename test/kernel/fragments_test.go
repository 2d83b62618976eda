// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// fragmentsOf cuts a frame without options behind its IP header, into pieces of size bytes, a multiple of 8.
func fragmentsOf(frame []byte, id uint32, size int) (pieces [][]byte) {
	v6 := frame[12] == 0x86
	header := 14 + 20
	if v6 {
		header = 14 + 40
	}
	payload := frame[header:]
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		piece := slices.Clone(frame[:header])
		more := uint16(0)
		if end < len(payload) {
			more = 1
		}
		if v6 {
			extension := []byte{piece[20], 0, 0, 0, 0, 0, 0, 0}
			piece[20] = 44
			binary.BigEndian.PutUint16(extension[2:], uint16(at)|more)
			binary.BigEndian.PutUint32(extension[4:], id)
			binary.BigEndian.PutUint16(piece[18:], uint16(8+end-at))
			piece = append(piece, extension...)
		} else {
			binary.BigEndian.PutUint16(piece[16:], uint16(20+end-at))
			binary.BigEndian.PutUint16(piece[18:], uint16(id))
			binary.BigEndian.PutUint16(piece[20:], uint16(at/8)|more<<13)
			binary.BigEndian.PutUint16(piece[24:], 0)
			binary.BigEndian.PutUint16(piece[24:], checksumOf(piece[14:34]))
		}
		pieces = append(pieces, append(piece, payload[at:end]...))
	}
	return pieces
}

func checksumOf(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

func reversed(pieces [][]byte) [][]byte {
	r := slices.Clone(pieces)
	slices.Reverse(r)
	return r
}

// middleFirst has the first piece neither first nor last.
func middleFirst(pieces [][]byte) [][]byte {
	return slices.Concat(pieces[2:3], pieces[:1], pieces[1:2], pieces[3:])
}

var orders = map[string]func([][]byte) [][]byte{
	"in order":            func(p [][]byte) [][]byte { return p },
	"in reverse":          reversed,
	"first in the middle": middleFirst,
}

// putServiceNetworks says which addresses are Services', as the rows of the cluster do.
func putServiceNetworks(t testing.TB, plane *bpf.Dataplane, prefixes ...string) {
	t.Helper()
	var all []netip.Prefix
	for _, text := range prefixes {
		prefix := netip.MustParsePrefix(text)
		all = append(all, prefix)
		bits := uint32(prefix.Bits())
		if prefix.Addr().Is4() {
			bits += 96
		}
		key, value := abi.NetworkKey{Bits: bits, Addr: prefix.Addr().As16()}, abi.Network{Kind: uint8(model.NetworkServices), Layer: uint8(model.LayerCluster)}
		check(t, plane.Map(abi.Networks).Put(abi.Encode(key), abi.Encode(value)))
	}
	check(t, plane.SetServiceNetworks(all))
}

// wireAt is a wire whose frames go to one of the node's interfaces.
func wireAt(t testing.TB, f *fabric, pod *testkit.NetNS, port int) *wire {
	t.Helper()
	w := newWire(t, f, pod)
	f.node.Do(t, func() {
		l, err := netlink.LinkByIndex(port)
		check(t, err)
		w.dst = l.Attrs().HardwareAddr
	})
	return w
}

func (w *wire) sendAll(frames [][]byte) {
	w.t.Helper()
	for _, frame := range frames {
		_, err := unix.Write(w.fd, frame)
		check(w.t, err)
	}
}

// datagram is a UDP packet to be sent by the wire.
func (w *wire) datagram(from, to string, size int) []byte {
	return segment{from: from, to: to, udp: true, payload: size, sourceMAC: w.sourceMAC, dst: w.dst}.frame(w.t)
}

func readDatagram(t testing.TB, conn *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 65536)
	conn.SetReadDeadline(time.Now().Add(patience))
	n, from, err := conn.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Errorf("no datagram: %v", err)
	}
	return b[:n], from
}

func listenUDP(t testing.TB, ns *testkit.NetNS, addr string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	ns.Do(t, func() {
		var err error
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		check(t, err)
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Row 19: a fragmented datagram to a Service arrives whole whatever order its fragments come in, over IPv4 and IPv6.
// Trap 9: fragments that come before the first are held until it tells their ports.
func TestFragmentsArriveInAnyOrder(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	putServiceNetworks(t, f.plane, "10.96.0.0/16", "fd00:96::/112")
	client := wireAt(t, f, f.client, f.clientPort)
	id := uint32(100)
	for _, c := range []struct{ service, pod, client string }{
		{service4, backend4 + ":8080", client4 + ":40000"},
		{service6, "[" + backend6 + "]:8080", "[" + client6 + "]:40000"},
	} {
		server := listenUDP(t, f.backend, c.pod)
		for name, order := range orders {
			for _, size := range []int{3000, 8000, 20000} {
				id++
				frame := client.datagram(c.client, c.service, size)
				client.sendAll(order(fragmentsOf(frame, id, 1400)))
				got, from := readDatagram(t, server)
				if !bytes.Equal(got, frame[len(frame)-size:]) || from.String() != c.client {
					t.Errorf("%d bytes to %s %s: %d bytes from %s", size, c.service, name, len(got), from)
				}
			}
		}
	}
	if got := drops(t, f.plane); len(got) > 0 {
		t.Errorf("drops: %v", got)
	}
}

// Row 19: so does a fragmented answer, from the Service.
func TestFragmentsOfAnswersArriveInAnyOrder(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	setChecksumOffload(t, f.client, "eth0", false)
	server := wireAt(t, f, f.backend, f.backendPort)
	id := uint32(100)
	for _, c := range []struct{ service, pod, client string }{
		{service4, backend4 + ":8080", client4 + ":40000"},
		{service6, "[" + backend6 + "]:8080", "[" + client6 + "]:40000"},
	} {
		listenUDP(t, f.backend, c.pod) // so that nothing is refused
		client := listenUDP(t, f.client, c.client)
		_, err := client.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort(c.service))
		check(t, err)
		server.receive(netip.MustParseAddrPort(c.client).Addr().String())
		for name, order := range orders {
			id++
			frame := server.datagram(c.pod, c.client, 8000)
			server.sendAll(order(fragmentsOf(frame, id, 1400)))
			got, from := readDatagram(t, client)
			if !bytes.Equal(got, frame[len(frame)-8000:]) || from.String() != c.service {
				t.Errorf("%s: %d bytes from %s, want them from %s", name, len(got), from, c.service)
			}
		}
	}
}

// until returns the IP fragments that a wire gets from an address until one has this many bytes.
func (w *wire) until(from string, last int) (frames [][]byte) {
	w.t.Helper()
	b := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			w.t.Fatalf("after %d frames: %v", len(frames), err)
		}
		if n < 34 || b[12] != 8 && b[12] != 0x86 {
			continue
		}
		if s, err := addresses(b[:n]); err != nil || s != from {
			continue
		}
		if n == last {
			return frames
		}
		frames = append(frames, slices.Clone(b[:n]))
	}
}

// TestFragmentsOfNoServicePassUntouchedAndInOrder: whatever order they come in, and once each.
//
// Row 19: fragments of no Service pass untouched, in their order and once each.
// Trap 9: nothing of another's datagram is kept back.
func TestFragmentsOfNoServicePassUntouchedAndInOrder(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	client := wireAt(t, f, f.client, f.clientPort)
	server := wireAt(t, f, f.backend, f.backendPort)
	id := uint32(100)
	for _, c := range []struct{ client, pod string }{
		{client4 + ":40000", backend4 + ":9999"},
		{"[" + client6 + "]:40000", "[" + backend6 + "]:9999"},
	} {
		listenUDP(t, f.backend, c.pod)
		from := netip.MustParseAddrPort(c.client).Addr().String()
		for name, order := range orders {
			id++
			pieces := order(fragmentsOf(client.datagram(c.client, c.pod, 5000), id, 1000))
			client.sendAll(pieces)
			client.sendAll([][]byte{client.datagram(c.client, c.pod, 77)})
			marker := len(client.datagram(c.client, c.pod, 77))
			got := server.until(from, marker)
			var want, have []string
			for _, p := range pieces {
				want = append(want, offsetAndPayload(p))
			}
			for _, p := range got {
				have = append(have, offsetAndPayload(p))
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", from, name, diff)
			}
		}
	}
}

// offsetAndPayload names a fragment by what routing doesn't change.
func offsetAndPayload(frame []byte) string {
	if frame[12] == 0x86 {
		return fmt.Sprintf("%x %x", frame[14+8:14+48], frame[14+48:14+56])
	}
	return fmt.Sprintf("%x %x", frame[18:22], frame[14+12:14+28])
}

// TestFragmentsToAServiceWithoutTheirFirst are dropped where their address is a Service's, and pass elsewhere.
//
// Row 19: fragments to a Service whose first never comes are held up to a bound and dropped beyond it.
func TestFragmentsToAServiceWithoutTheirFirst(t *testing.T) {
	plane := newPlane(t, oneService(model.UDP)...)
	putServiceNetworks(t, plane, "10.96.0.0/16", "fd00:96::/112")
	for _, c := range []struct{ from, to string }{
		{"10.1.0.9:40000", "10.96.0.1:80"}, {"[fd00:1::9]:40000", "[fd00:96::1]:80"},
	} {
		pieces := fragmentsOf(segment{from: c.from, to: c.to, udp: true, payload: 40 * 16}.frame(t), 7, 16)
		for i, piece := range reversed(pieces)[:20] {
			verdict, _, err := plane.RunFromPod(piece, 0)
			check(t, err)
			if verdict != bpf.Drop {
				t.Errorf("%s, piece %d: %v", c.to, i, verdict)
			}
		}
	}
	if got := drops(t, plane)[model.ReasonFragment]; got != 2*(20-16) {
		t.Errorf("%d dropped, want all but the 16 that are held of each datagram", got)
	}
}

func TestFragmentsFollowTheirFirst(t *testing.T) {
	for _, c := range []struct{ name, from, to, becomes string }{
		{"translated", "10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1"},
		{"translated IPv6", "[fd00:1::9]:40000", "[fd00:96::1]:80", "fd00:1::1"},
		{"passed", "10.1.0.9:40000", "10.1.0.1:9", "10.1.0.1"},
		{"refused", "10.1.0.9:40000", "10.96.0.9:80", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := newPlane(t, append(oneService(model.UDP), testkit.Service{Set: 9, Protocol: model.UDP, Frontends: at("10.96.0.9:80")})...)
			pieces := fragmentsOf(segment{from: c.from, to: c.to, udp: true, payload: 64}.frame(t), 7, 24)
			for i, piece := range pieces {
				verdict, out, err := plane.RunFromPod(piece, 0)
				check(t, err)
				if c.becomes == "" {
					if i > 0 && verdict != bpf.Drop || i == 0 && verdict != bpf.Refuse {
						t.Errorf("piece %d: %v", i, verdict)
					}
					continue
				}
				start, size := 14+16, 4
				if out[12] == 0x86 {
					start, size = 14+24, 16
				}
				to, _ := netip.AddrFromSlice(out[start : start+size])
				if verdict != bpf.Pass || to.String() != c.becomes {
					t.Errorf("piece %d: %v to %s, want %s", i, verdict, to, c.becomes)
				}
				if size == 4 && checksumOf(out[14:34]) != 0 {
					t.Errorf("piece %d: the IPv4 header's checksum is wrong", i)
				}
				if i > 0 && !bytes.Equal(out[start+size:], piece[start+size:]) {
					t.Errorf("piece %d: more than addresses changed", i)
				}
			}
		})
	}
}

// TestAtomicFragmentsAreWholePackets: RFC 6946.
func TestAtomicFragmentsAreWholePackets(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	whole := segment{from: "[fd00:1::9]:40000", to: "[fd00:96::1]:80", syn: true}.frame(t)
	pieces := fragmentsOf(whole, 7, 1000)
	verdict, out, err := plane.RunFromPod(pieces[0], 0)
	check(t, err)
	if got := decode(t, out); len(pieces) != 1 || verdict != bpf.Pass || got.to != "fd00:1::1" {
		t.Errorf("%v %s → %s", verdict, got.from, got.to)
	}
}

// Row 19: a first fragment that cuts TCP's header is dropped as malformed.
func TestFirstFragmentWithoutAllOfTCPsHeaderIsMalformed(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	for _, c := range []struct{ from, to string }{
		{"10.1.0.9:40000", "10.96.0.1:80"}, {"[fd00:1::9]:40000", "[fd00:96::1]:80"},
	} {
		pieces := fragmentsOf(segment{from: c.from, to: c.to, syn: true, payload: 40}.frame(t), 7, 8)
		verdict, _, err := plane.RunFromPod(pieces[0], 0)
		check(t, err)
		if verdict != bpf.Drop {
			t.Errorf("%s: %v", c.to, verdict)
		}
	}
	if got := drops(t, plane)[model.ReasonMalformed]; got != 2 {
		t.Errorf("%d dropped as malformed, want 2", got)
	}
}
