// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
)

// fate is a packet and what became of it. An empty complaint says that the model has nothing against it.
type fate struct {
	p         Packet
	did       Outcome
	complaint string
}

func syn(from, to netip.AddrPort, sequence uint32) Packet {
	return Packet{Protocol: model.TCP, Hops: 64, Source: from, Destination: to, SYN: true, Sequence: sequence}
}

func data(from, to netip.AddrPort) Packet {
	return Packet{Protocol: model.TCP, Hops: 64, Source: from, Destination: to}
}

func datagram(from, to netip.AddrPort) Packet {
	return Packet{Protocol: model.UDP, Source: from, Destination: to}
}

func sent(from, to netip.AddrPort) Outcome {
	return Outcome{Verdict: Forward, Source: from, Destination: to}
}

var refusedIt = Outcome{Verdict: Reject}

func judged(t *testing.T, what string, i int, f fate, err error) {
	t.Helper()
	if (err == nil) != (f.complaint == "") || err != nil && !strings.Contains(err.Error(), f.complaint) {
		t.Fatalf("%s, packet %d, %s, %s: the model says %v, want %q", what, i, f.p, f.did, err, f.complaint)
	}
}

// fromPod lets a pod send packets, a second apart.
func fromPod(t *testing.T, flows *Flows, n *Node, fates ...fate) {
	t.Helper()
	for i, f := range fates {
		judged(t, "from pod", i, f, flows.ComesIn(n, PodPacket, f.p, f.did, uint32(i)))
	}
}

// atOnce lets a pod send packets within one second.
func atOnce(t *testing.T, flows *Flows, n *Node, fates ...fate) {
	t.Helper()
	for i, f := range fates {
		judged(t, "from pod", i, f, flows.ComesIn(n, PodPacket, f.p, f.did, 0))
	}
}

func TestConnectionStaysAndItsPortMayBeUsedAgain(t *testing.T) {
	fromPod(t, NewFlows(), node(tables(model.TCP)),
		fate{syn(pod, vip, 1), sent(pod, elsewhere), "want forward to one of"},
		fate{data(pod, vip), refusedIt, ""}, // of no known connection
		fate{syn(pod, vip, 1), sent(pod, cart1), ""},
		fate{syn(pod, vip, 1), sent(pod, cart0), "of a known flow"}, // a retransmission
		fate{data(pod, vip), sent(pod, cart0), "of a known flow"},
		fate{data(pod, vip), sent(pod, cart1), ""},
		fate{syn(pod, vip, 2), sent(pod, cart0), ""},
		fate{data(pod, vip), sent(pod, cart0), ""},
	)
}

func TestConnectionToABackendThatIsGoneEndsWithinASecond(t *testing.T) {
	rows := tables(model.TCP)
	flows := NewFlows()
	atOnce(t, flows, node(rows), fate{syn(pod, vip, 1), sent(pod, cart1), ""})
	delete(rows.Members, model.Member{Set: 1, Backend: 12}) // it terminates
	fromPod(t, flows, node(rows), fate{data(pod, vip), sent(pod, cart1), ""}, fate{data(pod, vip), sent(pod, cart1), ""})
	delete(rows.Backends, 12)
	flows.entries[key{tuple{model.TCP, pod, vip}, false}].seen = 0
	atOnce(t, flows, node(rows), fate{data(pod, vip), sent(pod, cart1), ""})
	fromPod(t, flows, node(rows),
		fate{data(pod, elsewhere), sent(pod, elsewhere), ""},
		fate{data(pod, vip), sent(pod, cart1), "want reject (backend_gone)"},
	)
	fromPod(t, flows, node(rows),
		fate{data(pod, vip), refusedIt, ""},
		fate{syn(pod, vip, 1), sent(pod, cart1), "want forward to one of"},
		fate{syn(pod, vip, 1), sent(pod, cart0), ""},
	)
}

func TestDatagramsLeaveABackendThatIsGoneOrAnothers(t *testing.T) {
	rows := tables(model.UDP)
	flows := NewFlows()
	atOnce(t, flows, node(rows), fate{datagram(pod, vip), sent(pod, cart1), ""}, fate{datagram(pod, vip), sent(pod, cart0), "of a known flow"})
	delete(rows.Members, model.Member{Set: 1, Backend: 12}) // it terminates
	atOnce(t, flows, node(rows), fate{datagram(pod, vip), sent(pod, cart1), ""})
	key := model.FrontendKey{Addr: vip.Addr(), Port: vip.Port(), Protocol: model.UDP}
	rows.Frontends[key] = model.Frontend{FrontendKey: key, Set: 2, Kind: model.FrontendClusterIP}
	fromPod(t, flows, node(rows),
		fate{datagram(pod, vip), sent(pod, cart1), ""}, // within the second
		fate{datagram(pod, vip), sent(pod, cart1), "want forward to one of"},
		fate{datagram(pod, vip), sent(pod, cart0), ""},
	)
	delete(rows.Members, model.Member{Set: 2, Backend: 21})
	delete(rows.Backends, 21)
	atOnce(t, flows, node(rows), fate{datagram(pod, vip), refusedIt, ""})
}

func TestTwoServicesOfOneBackendGetDifferentPorts(t *testing.T) {
	flows, n := NewFlows(), node(tables(model.UDP))
	pod := netip.AddrPortFrom(pod.Addr(), 20000)
	moved := netip.AddrPortFrom(pod.Addr(), 11234)
	atOnce(t, flows, n,
		fate{datagram(pod, vip), sent(moved, cart0), "without need"},
		fate{datagram(pod, vip), sent(pod, cart0), ""},
		fate{datagram(pod, vip2), sent(pod, cart0), "another flow is answered there"},
		fate{datagram(pod, vip2), sent(netip.AddrPortFrom(pod.Addr(), 80), cart0), "privileged"},
		fate{datagram(pod, vip2), sent(netip.AddrPortFrom(pod.Addr(), 30080), cart0), "NodePort"},
		fate{datagram(pod, vip2), sent(moved, cart0), ""},
	)
	for i, f := range []fate{
		{datagram(cart0, pod), sent(vip, pod), ""},
		{datagram(cart0, moved), sent(vip2, pod), ""},
		{datagram(cart1, pod), sent(cart1, pod), ""},
		{datagram(cart1, pod), sent(vip, pod), "want it untouched"},
	} {
		judged(t, "to pod", i, f, flows.Leaves(n, 0, f.p, f.did, 0))
	}
}

func TestWhatPassesThroughTheNodeIsMasqueradedBothWays(t *testing.T) {
	flows := NewFlows()
	own := netip.MustParseAddr("172.20.0.2")
	n := node(tables(model.TCP)).In(Surroundings{Uplinks: map[int][]netip.Addr{7: {own}}})
	client := netip.MustParseAddrPort("192.0.2.7:20000")
	as := netip.AddrPortFrom(own, 20000)
	answer := func(from, to netip.AddrPort) Packet {
		p := data(from, to)
		p.Acknowledged = 2
		return p
	}
	for i, step := range []struct {
		in bool
		fate
	}{
		{true, fate{syn(client, vip, 1), sent(client, cart1), ""}},
		{false, fate{syn(client, cart1, 1), sent(client, cart1), "want it to leave with address 172.20.0.2"}},
		{false, fate{syn(client, cart1, 1), sent(netip.AddrPortFrom(own, 1500), cart1), "without need"}},
		{false, fate{syn(client, cart1, 1), sent(as, cart1), ""}},
		{true, fate{answer(cart1, as), sent(cart1, client), ""}},
		{false, fate{answer(cart1, client), sent(vip, client), ""}},
		{true, fate{data(client, vip), sent(client, cart1), ""}},
		{false, fate{data(client, cart1), sent(as, cart1), ""}},
		{true, fate{syn(client, vip, 9), sent(client, cart1), ""}}, // again, elsewhere
		{true, fate{answer(cart1, as), sent(cart1, client), "want it untouched"}},
	} {
		run := func() error { return flows.Leaves(n, 7, step.p, step.did, 0) }
		if step.in {
			run = func() error { return flows.ComesIn(n, UplinkPacket, step.p, step.did, 0) }
		}
		judged(t, "through the node", i, step.fate, run())
	}
}

func TestPodThatReachesItselfSeesTheNode(t *testing.T) {
	flows := NewFlows()
	own := netip.MustParseAddr("172.20.0.2")
	n := node(tables(model.UDP)).In(Surroundings{Uplinks: map[int][]netip.Addr{UplinkAny: {own}}})
	self := netip.AddrPortFrom(cart0.Addr(), 20000)
	as := netip.AddrPortFrom(own, 20000)
	atOnce(t, flows, n, fate{datagram(self, vip), sent(self, cart0), ""})
	judged(t, "to pod", 0, fate{datagram(self, cart0), sent(as, cart0), ""}, flows.Leaves(n, 0, datagram(self, cart0), sent(as, cart0), 0))
	atOnce(t, flows, n, fate{datagram(cart0, as), sent(cart0, self), ""})
	judged(t, "to pod", 1, fate{datagram(cart0, self), sent(vip, self), ""}, flows.Leaves(n, 0, datagram(cart0, self), sent(vip, self), 0))
}

// Row 21: only a reset that the receiver would take ends a flow.
// Trap 13: a forged reset outside the window ends nothing.
func TestOnlyAResetThatReceiversTakeEndsAFlow(t *testing.T) {
	for distance, counts := range map[uint32]bool{0: true, 1000: true, 1 << 25: false, ^uint32(0): false} {
		flows, n := NewFlows(), node(tables(model.TCP))
		atOnce(t, flows, n, fate{syn(pod, vip, 1), sent(pod, cart0), ""})
		said := data(cart0, pod)
		said.Acknowledged = 5000
		if err := flows.Leaves(n, 0, said, sent(vip, pod), 0); err != nil {
			t.Fatal(err)
		}
		rst := data(pod, vip)
		rst.RST, rst.Sequence = true, 5000+distance
		atOnce(t, flows, n, fate{rst, sent(pod, cart0), ""})
		if got := flows.entries[key{tuple{model.TCP, pod, vip}, false}].reset; got != counts {
			t.Errorf("a RST %d beyond what was acknowledged counts: %v, want %v", int32(distance), got, counts)
		}
	}
}

func TestRefusals(t *testing.T) {
	odd := syn(pod, vip, 1)
	odd.Fault = model.ReasonUnsupported
	lies := syn(pod, vip, 1)
	lies.LengthsLie = true
	rst := data(pod, noOne)
	rst.RST = true
	atOnce(t, NewFlows(), node(tables(model.TCP)),
		fate{syn(pod, noOne, 1), refusedIt, ""},
		fate{syn(pod, noOne, 1), sent(pod, cart0), "want reject"},
		fate{rst, refusedIt, "want reject"},
		fate{rst, Outcome{Verdict: Drop}, ""},
		fate{odd, sent(pod, vip), "want drop"},
		fate{lies, Outcome{Verdict: Drop}, ""},
		fate{syn(pod, elsewhere, 1), Outcome{Verdict: Drop}, "want it untouched"},
	)
}
