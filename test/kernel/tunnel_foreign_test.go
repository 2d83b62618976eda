// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// wrappedDatagram is what goes within UDP between nodes: a client's datagram for a backend, or with id 0 an answer.
func wrappedDatagram(t testing.TB, vni, backend, node uint32, from, to string) []byte {
	t.Helper()
	number := func(n uint32) net.HardwareAddr { return binary.BigEndian.AppendUint32([]byte{2, 0xde}, n) }
	source, destination := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	eth := &layers.Ethernet{SrcMAC: number(node), DstMAC: number(backend), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: source.Addr().AsSlice(), DstIP: destination.Addr().AsSlice()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(source.Port()), DstPort: layers.UDPPort(destination.Port())}
	check(t, udp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.VXLAN{ValidIDFlag: true, VNI: vni}, eth, ip, udp, gopacket.Payload("who")))
	return b.Bytes()
}

// sendFrom sends a datagram from a namespace.
func sendFrom(t testing.TB, ns *testkit.NetNS, to string, payload []byte) {
	t.Helper()
	ns.Do(t, func() {
		at := netip.MustParseAddrPort(to)
		conn := dialRaw(t, "udp"+either(at.Addr().Is6(), "4", "6"), at)
		defer conn.Close()
		_, err := conn.Write(payload)
		check(t, err)
	})
}

// Trap 37: a wrapped packet from who is no node, of another's VXLAN network, in another node's name, or that is from no
// Service on its way back, is dropped and counted; one of the same UDP port that is for a pod passes.
func TestForeignWrappedPacketsAreDropped(t *testing.T) {
	t.Parallel()
	const client = clientOut4 + ":7000"
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	e.serve(t, model.ForwardTunnel, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
	var pod net.PacketConn
	b.pod.Do(t, func() {
		var err error
		pod, err = net.ListenPacket("udp", b.podAddr(false)+":8080")
		check(t, err)
		t.Cleanup(func() { pod.Close() })
	})
	device := fmt.Sprintf("%s:%d", b.addr(false), tunnel.DefaultPort)
	service, backend := estateVIP(false), uint32(300)
	for i, c := range []struct {
		name     string
		from     *testkit.NetNS
		datagram []byte
	}{
		{"from no node", e.router, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service)},
		{"in another node's name", a.NetNS, wrappedDatagram(t, tunnel.DefaultVNI, backend, 3, client, service)},
		{"in the receiver's name", b.pod, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service)},
		{"of another network", a.NetNS, wrappedDatagram(t, tunnel.DefaultVNI+1, backend, 1, client, service)},
		{"from a pod, which no node wraps", a.NetNS, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, "10.1.0.9:7000", service)},
		{"an answer of no Service", a.NetNS, wrappedDatagram(t, tunnel.DefaultVNI, 0, 1, "198.51.100.77:80", client)},
		{"an answer of a Service's other port", a.NetNS, wrappedDatagram(t, tunnel.DefaultVNI, 0, 1, "203.0.113.1:81", client)},
	} {
		sendFrom(t, c.from, device, c.datagram)
		t.Logf("%s: drop %d", c.name, i+1)
		testkit.Eventually(t, patience, func() bool { return drops(t, b.plane)[model.ReasonForeignTunnel] == uint64(i+1) })
	}
	device6 := fmt.Sprintf("[%s]:%d", b.addr(true), tunnel.DefaultPort)
	sendFrom(t, e.router, device6, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service))
	testkit.Eventually(t, patience, func() bool { return drops(t, b.plane)[model.ReasonForeignTunnel] == 8 })
	// A pod's gets no further than its own node, which might give it an address that the other one believes.
	sendFrom(t, a.pod, device, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service))
	testkit.Eventually(t, patience, func() bool { return drops(t, a.plane)[model.ReasonForeignTunnel] == 1 })
	// Its own VXLAN of another network is not the nodes' business, but for who gets it.
	sendFrom(t, a.pod, device, wrappedDatagram(t, tunnel.DefaultVNI+1, backend, 1, client, service))
	testkit.Eventually(t, patience, func() bool { return drops(t, b.plane)[model.ReasonForeignTunnel] == 9 })
	// A node's own is taken.
	sendFrom(t, a.NetNS, device, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service))
	expectFrom(t, pod, client)
	sendFrom(t, a.NetNS, device6, wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service))
	expectFrom(t, pod, client)
	// What is for a pod is nobody else's, whatever it looks like.
	var other net.PacketConn
	b.pod.Do(t, func() {
		var err error
		other, err = net.ListenPacket("udp", fmt.Sprintf("%s:%d", b.podAddr(false), tunnel.DefaultPort))
		check(t, err)
		t.Cleanup(func() { other.Close() })
	})
	sendFrom(t, e.client, other.LocalAddr().String(), wrappedDatagram(t, tunnel.DefaultVNI, backend, 1, client, service))
	expectFrom(t, other, clientOut4)
}

// expectFrom takes a datagram and fails the test if it is of another address, or port if one is given.
func expectFrom(t testing.TB, conn net.PacketConn, want string) {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, from, err := conn.ReadFrom(make([]byte, 2000))
	check(t, err)
	if got := from.String(); got != want && netip.MustParseAddrPort(got).Addr().String() != want {
		t.Errorf("a datagram came from %s, want %s", got, want)
	}
}

// Trap 5: what a pod sends to where nodes take what others have wrapped goes no further than its own node if only its
// receiver finds the ports: behind more extension headers than are walked, in a later fragment (RFC 7112), or in a fragment
// of a fragment. Where nothing is wrapped that is nobody's business.
func TestPodsHideNothingFromOtherNodes(t *testing.T) {
	t.Parallel()
	testkit.NeedKernel(t)
	to := net.JoinHostPort(outpostFar6, fmt.Sprint(tunnel.DefaultPort))
	datagram := segment{udp: true, from: "[fd00:1::2]:7000", to: to, payload: 64}.frame(t)
	vxlan := binary.BigEndian.AppendUint64(nil, 0x08000000<<32|tunnel.DefaultVNI<<8)
	copy(datagram[transportAt(datagram)+8:], vxlan)
	whole := withExtension(datagram, 44, make([]byte, 8)) // one fragment of one
	for _, c := range []struct {
		name  string
		frame []byte
		want  model.DropReason // ReasonNone without a tunnel
	}{
		{"plainly", datagram, model.ReasonForeignTunnel},
		{"in one fragment", whole, model.ReasonForeignTunnel},
		{"behind 6 headers", withOptions(datagram, 8*6), model.ReasonForeignTunnel},
		{"behind 7 headers", withOptions(datagram, 8*7), model.ReasonUnsupported},
		{"behind 20 headers", withOptions(datagram, 8*20), model.ReasonUnsupported},
		{"cut behind UDP's header", fragmentsOf(datagram, 7, 8)[0], model.ReasonForeignTunnel},
		{"cut before UDP's header", fragmentsOf(withOptions(datagram, 8), 7, 8)[0], model.ReasonMalformed},
		{"in a fragment of a fragment", fragmentsOf(whole, 7, 16)[0], model.ReasonUnsupported},
	} {
		for port, want := range map[uint16]model.DropReason{tunnel.DefaultPort: c.want, 0: model.ReasonNone} {
			plane, err := bpf.Load(bpf.Options{Flows: 1 << 10, Capacities: small, Node: 1, Tunnel: bpf.Tunnel{VNI: tunnel.DefaultVNI, Port: port}})
			check(t, err)
			verdict, _, err := plane.RunFromPod(c.frame, 0)
			check(t, err)
			if got := drops(t, plane); (verdict == bpf.Drop) != (want != model.ReasonNone) || len(got) > 1 || want != 0 && got[want] != 1 {
				t.Errorf("%s, tunnel's port %d: verdict %v, drops %v, want %v", c.name, port, verdict, got, want)
			}
			plane.Close()
		}
	}
}
