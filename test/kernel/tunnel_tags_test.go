// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// withTag puts a VLAN's tag into a frame: kind is its EtherType, control its priority and the VLAN's number.
func withTag(frame []byte, kind, control uint16) []byte {
	return slices.Insert(slices.Clone(frame), 12, byte(kind>>8), byte(kind), byte(control>>8), byte(control))
}

// Trap 33: what has the tag of no VLAN, as 802.1P has them, is wrapped without it; a VLAN's is left to the VLAN's interface, and
// is nobody's where there is none.
func TestTagsOfVLANsAreNotWrapped(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 2, true, false)
	a, b := e.nodes[0], e.nodes[1]
	e.serve(t, model.ForwardTunnel, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
	host := testkit.NewNetNS(t)
	testkit.Veth(t, host, "eth0", pair("172.18.71.1", "2001:db8:18:71::1"), a.NetNS, "eth1", pair("172.18.71.2", "2001:db8:18:71::2"))
	port := a.Index(t, "eth1")
	a.Do(t, func() { check(t, a.plane.AttachUplink(port)) })
	w := newWire(t, &fabric{node: a.NetNS, clientPort: port}, host)
	between := newWire(t, &fabric{node: b.NetNS, clientPort: b.Index(t, "pod")}, b.NetNS)
	for _, v6 := range []bool{false, true} {
		pod := listenUDP(t, b.pod, b.podPort(v6))
		client := netip.MustParseAddr(either(v6, "172.18.71.1", "2001:db8:18:71::1"))
		const ofVLAN7, priority, service, plain = 20, 21, 22, 23 // bytes, to tell them by
		datagram := func(size int) []byte {
			return w.datagram(netip.AddrPortFrom(client, uint16(40000+size)).String(), estateVIP(v6), size)
		}
		w.sendAll([][]byte{
			withTag(datagram(ofVLAN7), 0x8100, 7),
			withTag(datagram(priority), 0x8100, 7<<13),
			withTag(datagram(service), 0x88a8, 0),
			datagram(plain),
		})
		for _, want := range []int{priority, service, plain} {
			if got := between.kindWithin(); got != map[bool]uint16{false: 0x0800, true: 0x86dd}[v6] {
				t.Errorf("%d bytes: within the wrapping is EtherType %#x", want, got)
			}
			got, from := readDatagram(t, pod)
			if len(got) != want || from != netip.AddrPortFrom(client, uint16(40000+want)) {
				t.Errorf("%d bytes of %s, want %d", len(got), from, want)
			}
		}
	}
	e.checkDrops(t)
}

// kindWithin is the EtherType in the next frame that a node has wrapped over IPv4.
func (w *wire) kindWithin() uint16 {
	w.t.Helper()
	const ports, within = 14 + 20, 14 + 20 + 8 + 8
	for b := make([]byte, 2048); ; {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		check(w.t, err)
		if n > within+14 && binary.BigEndian.Uint16(b[ports+2:]) == tunnel.DefaultPort {
			return binary.BigEndian.Uint16(b[within+12:])
		}
	}
}
