// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// tagged puts VLAN tags of id 0 into a frame, as 802.1P has them.
func tagged(frame []byte, kinds ...uint16) []byte {
	out := slices.Clone(frame[:12])
	for _, kind := range kinds {
		out = append(out, byte(kind>>8), byte(kind), 0, 0)
	}
	return append(out, frame[12:]...)
}

// arrives says whether a frame reaches a pod's socket before one that is allowed does.
func (f *fabric) arrives(t testing.TB, w *wire, conn *net.UDPConn, client, pod string, frame []byte) bool {
	t.Helper()
	w.sendAll([][]byte{frame})
	f.judge(t, through)
	w.sendAll([][]byte{w.datagram(client, pod, marker)})
	got, _ := readDatagram(t, conn)
	if len(got) == marker {
		return false
	}
	readDatagram(t, conn)
	return true
}

// Policy row 1: what a pod hides in VLAN tags of id 0, which the kernel takes off two of, is no way round its policies.
func TestTagsHideNothing(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	for _, c := range []struct{ client, pod string }{
		{client4 + ":40000", backend4 + ":9999"}, {"[" + client6 + "]:40000", "[" + backend6 + "]:9999"},
	} {
		client := wireAt(t, f, f.client, f.clientPort)
		conn := listenUDP(t, f.backend, c.pod)
		for _, kinds := range [][]uint16{{}, {0x8100}, {0x8100, 0x8100}, {0x88a8, 0x8100}, {0x8100, 0x88a8}, {0x8100, 0x8100, 0x8100}} {
			f.judge(t, map[model.RuleSetID]model.Action{backendGets: model.ActionAllow})
			if f.arrives(t, client, conn, c.client, c.pod, tagged(client.datagram(c.client, c.pod, 20), kinds...)) {
				t.Errorf("%x: it arrived", kinds)
			}
		}
	}
}

// Policy row 1: what comes from outside in the name of the pod that it goes to, or of that pod's node, is neither's. The
// kernel stops it of IPv4, and forwards IPv6.
func TestNobodyElseIsThePodOrItsNode(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.node.Do(t, func() { check(t, f.plane.DetachPod(f.clientPort)) }) // an interface to the outside
	check(t, f.plane.SetLocals(map[netip.Addr]uint8{netip.MustParseAddr(backend4).Prev(): 0, netip.MustParseAddr(backend6).Prev(): 0}))
	for _, c := range []struct{ client, pod string }{
		{client4 + ":40000", backend4 + ":9999"}, {"[" + client6 + "]:40000", "[" + backend6 + "]:9999"},
	} {
		client := wireAt(t, f, f.client, f.clientPort)
		conn := listenUDP(t, f.backend, c.pod)
		pod := netip.MustParseAddrPort(c.pod).Addr()
		f.judge(t, through) // else the first frame waits for the pod's neighbour entry, and is judged by what comes later
		client.sendAll([][]byte{client.datagram(c.client, c.pod, marker)})
		readDatagram(t, conn)
		for _, source := range []netip.Addr{pod, pod.Prev()} {
			f.judge(t, nil)
			if f.arrives(t, client, conn, c.client, c.pod, client.datagram(netip.AddrPortFrom(source, 40000).String(), c.pod, 20)) {
				t.Errorf("from %s: it arrived", source)
			}
		}
	}
}

// Policy row 1: a chain of extension headers that is longer than what is looked behind hides no port that is denied; nor
// does a first fragment that ends before the ports, which some receivers take (RFC 7112).
func TestLongChainsHideNothing(t *testing.T) {
	const table = 9
	f := families[1]
	plane := newCourt(t, bpf.Options{}, podOf(f.pod), podOf(f.peer))
	for _, set := range []model.RuleSetID{ingressSet, egressSet} {
		all := says(set, 0, model.ActionAllow, 0)
		all.Ports = table
		testkit.PutPolicy(t, plane, all,
			model.PortVerdict{PortKey: model.PortKey{Ports: table, Protocol: model.TCP, Port: 22, Bits: 16}, Action: model.ActionDeny})
	}
	check(t, plane.Judge(true))
	denied := segment{from: f.pod + ":4000", to: f.peer + ":22", syn: true}.frame(t)
	for _, headers := range []int{1, 6, 7, 20} {
		frame := withOptions(denied, 8*headers)
		want(t, fmt.Sprintf("sent with %d", headers), sends(t, plane, frame), bpf.Drop)
		want(t, fmt.Sprintf("got with %d", headers), gets(t, plane, frame), bpf.Drop)
	}
	piece := fragmentsOf(withOptions(denied, 8), 7, 8)[0]
	want(t, "a first fragment without ports, sent", sends(t, plane, piece), bpf.Drop)
	want(t, "a first fragment without ports, got", gets(t, plane, piece), bpf.Drop)
}
