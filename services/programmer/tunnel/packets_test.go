// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// frame is a client's datagram to a pod, as another node sends it on.
func frame(t *testing.T, client, pod netip.AddrPort, says string) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: Device{Node: 9}.hardwareAddr(), DstMAC: ours.hardwareAddr(), EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: layers.UDPPort(client.Port()), DstPort: layers.UDPPort(pod.Port())}
	var ip gopacket.SerializableLayer
	if pod.Addr().Is4() {
		h := &layers.IPv4{Version: 4, TTL: 63, Protocol: layers.IPProtocolUDP, SrcIP: client.Addr().AsSlice(), DstIP: pod.Addr().AsSlice()}
		must(t, udp.SetNetworkLayerForChecksum(h))
		ip = h
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		h := &layers.IPv6{Version: 6, HopLimit: 63, NextHeader: layers.IPProtocolUDP, SrcIP: client.Addr().AsSlice(), DstIP: pod.Addr().AsSlice()}
		must(t, udp.SetNetworkLayerForChecksum(h))
		ip = h
	}
	b := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.VXLAN{ValidIDFlag: true, VNI: DefaultVNI}, eth, ip, udp, gopacket.Payload(says)))
	return b.Bytes()
}

// send sends a wrapped frame, over IPv6 without a checksum.
func send(t *testing.T, to netip.Addr, wrapped []byte) {
	t.Helper()
	socket, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, DefaultPort)))
	must(t, err)
	defer socket.Close()
	raw, err := socket.SyscallConn()
	must(t, err)
	if to.Is6() {
		must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, 1) }))
		must(t, err)
	}
	_, err = socket.Write(wrapped)
	must(t, err)
}

// Trap 32: what comes out of the device is routed to its pod with the client's address, though the way back to the client
// is another interface, of which sources are checked strictly; nodes reach each other over IPv4 or IPv6, whatever is inside.
func TestPacketsOfOtherNodesGoOnToPods(t *testing.T) {
	testkit.NeedKernel(t)
	prefixes := func(texts ...string) (p []netip.Prefix) {
		for _, text := range texts {
			p = append(p, netip.MustParsePrefix(text))
		}
		return p
	}
	other, node, pod := testkit.NewNetNS(t), testkit.NewNetNS(t), testkit.NewNetNS(t)
	testkit.Veth(t, other, "eth0", prefixes("192.0.2.2/24", "2001:db8::2/64"), node, "eth0", prefixes("192.0.2.1/24", "2001:db8::1/64"))
	testkit.Veth(t, node, "pod0", prefixes("10.1.0.1/24", "fd00::1/64"), pod, "eth0", prefixes("10.1.0.2/24", "fd00::2/64"))
	for _, setting := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/all/forwarding"} {
		node.Sysctl(t, "net/"+setting, "1")
	}
	node.Sysctl(t, "net/ipv4/conf/pod0/rp_filter", "0")
	for _, route := range []struct {
		in      *testkit.NetNS
		gateway string
	}{{node, "192.0.2.2"}, {node, "2001:db8::2"}, {pod, "10.1.0.1"}, {pod, "fd00::1"}} {
		gateway := netip.MustParseAddr(route.gateway)
		route.in.Route(t, netip.PrefixFrom(gateway, 0).Masked(), gateway, "eth0")
	}
	node.Do(t, func() { keep(t, ours) })
	var server *net.UDPConn
	pod.Do(t, func() {
		var err error
		server, err = net.ListenUDP("udp", &net.UDPAddr{Port: 8080})
		must(t, err)
	})
	defer server.Close()
	for _, inside := range []struct{ client, pod string }{
		{"203.0.113.5:40000", "10.1.0.2:8080"},
		{"[2001:db8:5::5]:40000", "[fd00::2]:8080"},
	} {
		for _, over := range []string{"192.0.2.1", "2001:db8::1"} {
			wrapped := frame(t, netip.MustParseAddrPort(inside.client), netip.MustParseAddrPort(inside.pod), "by "+over)
			want := "by " + over + " from " + inside.client
			// The first may be lost while the pod's address is asked for, and one for an earlier case be late.
			testkit.Eventually(t, 30*time.Second, func() bool {
				other.Do(t, func() { send(t, netip.MustParseAddr(over), wrapped) })
				return receive(t, server) == want
			})
		}
	}
}

// receive reads what comes soon, and from whom.
func receive(t *testing.T, server *net.UDPConn) string {
	t.Helper()
	must(t, server.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	var b [64]byte
	n, from, err := server.ReadFromUDPAddrPort(b[:])
	if err != nil {
		return ""
	}
	return string(b[:n]) + " from " + netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String()
}
