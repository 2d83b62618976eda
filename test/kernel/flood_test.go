// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// TestFloodOfSYNsEndsNoConnection: the flood is of five times as many SYNs as the table has room for flows, each with four
// entries, from addresses where nobody answers.
//
// Trap 13: a flood of SYNs ends no connection, idle or not, and clients meanwhile get one.
// Trap 15: what a flood takes of the table is bounded.
func TestFloodOfSYNsEndsNoConnection(t *testing.T) {
	o := newOutskirts(t)
	o.root(1, model.TCP, model.IPv4, podB4+":8080")
	o.front(1, model.FrontendLoadBalancer, 0, "203.0.113.1:80")
	o.write(t)
	tell(t, o.podB, podB4+":8080")
	service := netip.MustParseAddrPort("203.0.113.1:80")
	var idle, busy []net.Conn
	dial := func() (conn net.Conn) {
		o.client.Do(t, func() { conn = dialRaw(t, "tcp4", service) })
		t.Cleanup(func() { conn.Close() })
		ask(t, conn)
		return conn
	}
	for range 30 {
		idle, busy = append(idle, dial()), append(busy, dial())
	}
	flood := newFlood(t, o, service)
	const batches, batch = 20, 250
	for range batches {
		for range batch {
			flood.send(t)
		}
		for _, conn := range busy {
			ask(t, conn)
		}
		busy = append(busy, dial())
	}
	for _, conn := range idle {
		ask(t, conn)
	}
	now, err := bpf.NowSeconds()
	check(t, err)
	swept, err := o.plane.Sweep(t.Context(), bpf.DefaultTimeouts, now)
	check(t, err)
	const places = 4096 / 16
	if most := 4 * (len(idle) + len(busy) + places); swept.Flows > most {
		t.Errorf("%d entries of flows, want at most %d: of %d connections and of %d that are half open", swept.Flows, most, len(idle)+len(busy), places)
	}
}

// flood sends SYNs, each from an end of its own.
type flood struct {
	socket  int
	service netip.AddrPort
	sent    uint16
}

func newFlood(t *testing.T, o *outskirts, service netip.AddrPort) *flood {
	t.Helper()
	f := &flood{service: service}
	o.client.Do(t, func() {
		var err error
		f.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		check(t, err)
	})
	t.Cleanup(func() { check(t, unix.Close(f.socket)) })
	return f
}

func (f *flood) send(t *testing.T) {
	t.Helper()
	from, to := netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + f.sent%100)}), f.service.Addr()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(1024 + f.sent), DstPort: layers.TCPPort(f.service.Port()), SYN: true, Seq: uint32(f.sent), Window: 65535}
	check(t, tcp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp))
	check(t, unix.Sendto(f.socket, b.Bytes(), 0, &unix.SockaddrInet4{Addr: to.As4()}))
	f.sent++
}
