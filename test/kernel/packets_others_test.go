// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestFramesOfOthersAreLeftAlone: an uplink that takes all there is sees what a switch sends to all its ports. The
// node that the frame is for knows its connection; a RST of this one would end it. What has a VLAN's tag is that
// VLAN's interface's to translate: done twice, a flow's answers would no longer be known.
//
// Trap 33: what has a VLAN's tag is left to the VLAN's interface.
func TestFramesOfOthersAreLeftAlone(t *testing.T) {
	o := newOutskirts(t)
	o.root(1, model.TCP, model.IPv4, podA4+":8080")
	o.front(1, model.FrontendLoadBalancer, 0, "203.0.113.1:80")
	o.write(t)
	w := newWire(t, &fabric{node: o.a, clientPort: o.a.Index(t, "out")}, o.client)
	another := append(slices.Clone(w.dst[:5]), w.dst[5]^1)
	for i, edit := range []func([]byte) []byte{
		func(f []byte) []byte { return append(slices.Clone(another), f[6:]...) }, // to another host
		func(f []byte) []byte { return slices.Insert(f, 12, 0x81, 0, 0, 7) },     // of VLAN 7
		func(f []byte) []byte { return slices.Insert(f, 12, 0x81, 0, 0xe0, 0) },  // of none, with a priority
		func(f []byte) []byte { return f },
	} {
		// In the middle of no known connection: refused.
		from := fmt.Sprintf("%s:%d", clientOut4, 40000+i)
		frame := segment{from: from, to: "203.0.113.1:80", ack: true, acked: 7, sourceMAC: w.sourceMAC, dst: w.dst}.frame(t)
		w.sendAll([][]byte{edit(frame)})
	}
	for got := ""; got != clientOut4+":40003"; {
		got = w.receive("203.0.113.1").to
		if got == clientOut4+":40000" || got == clientOut4+":40001" {
			t.Errorf("%s got a RST", got)
		}
	}
	if got := drops(t, o.plane)[model.ReasonNoFlow]; got != 2 {
		t.Errorf("%d refused, want 2", got)
	}
}

// TestNodesOwnConnectionsFromPortsOfServicesAreLeftAlone: where the range of ephemeral ports has NodePorts, the kernel
// gives them to the node's own sockets, the kubelet's probes among them.
//
// Trap 20: what answers a socket of the node is that socket's, though its port is a NodePort.
func TestNodesOwnConnectionsFromPortsOfServicesAreLeftAlone(t *testing.T) {
	o := newOutskirts(t)
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		for j, f := range []model.Family{model.IPv4, model.IPv6} {
			id := model.SetID(1 + 2*i + j)
			o.root(id, p, f, []string{podB4 + ":8080", "[" + podB6 + "]:8080"}[j])
			o.ownFront(id, model.MatchNodePort, 0, 30080)
		}
	}
	o.write(t)
	for _, at := range []struct {
		ns   *testkit.NetNS
		from string
		addr string
	}{
		{o.client, aOut4, clientOut4 + ":9000"},
		{o.client, aOut6, "[" + clientOut6 + "]:9000"},
		{o.podA, aOut4, podA4 + ":9000"},
		{o.podA, aOut6, "[" + podA6 + "]:9000"},
	} {
		tell(t, at.ns, at.addr)
		local := netip.AddrPortFrom(netip.MustParseAddr(at.from), 30080)
		for network, own := range map[string]net.Addr{"tcp": net.TCPAddrFromAddrPort(local), "udp": net.UDPAddrFromAddrPort(local)} {
			o.a.Do(t, func() {
				dialer := net.Dialer{LocalAddr: own, Timeout: patience}
				conn, err := dialer.Dial(network, at.addr)
				check(t, err)
				defer conn.Close()
				if tcp, ok := conn.(*net.TCPConn); ok {
					check(t, tcp.SetLinger(0)) // the port is free at once
				}
				if who, _, _ := strings.Cut(ask(t, conn), " "); who != at.addr {
					t.Errorf("%s to %s: %s answered", network, at.addr, who)
				}
			})
		}
	}
	if got := drops(t, o.plane); len(got) > 0 {
		t.Errorf("drops: %v", got)
	}
}
