// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// newPlane loads programs and maps that are attached to nothing: packets are given to them by BPF_PROG_TEST_RUN.
func newPlane(t testing.TB, services ...testkit.Service) *bpf.Dataplane {
	t.Helper()
	testkit.NeedKernel(t)
	plane, err := bpf.Load(bpf.Options{Flows: 4096, Capacities: small})
	check(t, err)
	t.Cleanup(plane.Close)
	testkit.Put(t, plane, services...)
	return plane
}

func fromPod(t testing.TB, plane *bpf.Dataplane, s segment) (bpf.Verdict, seen) {
	t.Helper()
	verdict, out, err := plane.RunFromPod(s.frame(t), 0)
	check(t, err)
	return verdict, decode(t, out)
}

func toPod(t testing.TB, plane *bpf.Dataplane, s segment) seen {
	t.Helper()
	verdict, out, err := plane.RunToPod(s.frame(t), 0)
	check(t, err)
	if verdict != bpf.Pass {
		t.Fatalf("a packet to a pod was not passed but: %v", verdict)
	}
	return decode(t, out)
}

// drops returns what was dropped so far.
func drops(t testing.TB, plane *bpf.Dataplane) map[model.DropReason]uint64 {
	t.Helper()
	counts, err := plane.DropCounts()
	check(t, err)
	return counts
}

func oneService(p model.Protocol) []testkit.Service {
	return []testkit.Service{
		{Set: 1, Protocol: p, Frontends: at("10.96.0.1:80"), Backends: backends(1, "10.1.0.1:8080")},
		{Set: 2, Protocol: p, Frontends: at("[fd00:96::1]:80"), Backends: backends(2, "[fd00:1::1]:8080")},
	}
}

// Trap 1: checksums follow what changes, and a datagram over IPv4 that has none keeps none.
func TestPacketsOfAFlowAreTranslatedBothWays(t *testing.T) {
	const client4, client6 = "10.1.0.9:40000", "[fd00:1::9]:40000"
	for _, c := range []struct {
		name, client, service, backend string
		protocol                       model.Protocol
		packet                         segment
	}{
		{"tcp4", client4, "10.96.0.1:80", "10.1.0.1:8080", model.TCP, segment{syn: true}},
		{"tcp6", client6, "[fd00:96::1]:80", "[fd00:1::1]:8080", model.TCP, segment{syn: true}},
		{"tcp with IPv6 extension headers", client6, "[fd00:96::1]:80", "[fd00:1::1]:8080", model.TCP, segment{syn: true, hopByHop: true}},
		{"tcp with data", client4, "10.96.0.1:80", "10.1.0.1:8080", model.TCP, segment{syn: true, payload: 1301}},
		{"tcp with IPv4 options", client4, "10.96.0.1:80", "10.1.0.1:8080", model.TCP, segment{syn: true, v4Options: true}},
		{"udp4", client4, "10.96.0.1:80", "10.1.0.1:8080", model.UDP, segment{udp: true, payload: 33}},
		{"udp4 empty", client4, "10.96.0.1:80", "10.1.0.1:8080", model.UDP, segment{udp: true}},
		{"udp4 without checksum", client4, "10.96.0.1:80", "10.1.0.1:8080", model.UDP, segment{udp: true, payload: 9, noUDPChecksum: true}},
		{"udp6", client6, "[fd00:96::1]:80", "[fd00:1::1]:8080", model.UDP, segment{udp: true, payload: 1400}},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := newPlane(t, oneService(c.protocol)...)
			out := c.packet
			out.from, out.to = c.client, c.service
			for range 2 { // as the first of its flow, and as the second
				verdict, got := fromPod(t, plane, out)
				if verdict != bpf.Pass || got.from != c.client || got.to != c.backend {
					t.Fatalf("%v %s → %s, want pass %s → %s", verdict, got.from, got.to, c.client, c.backend)
				}
				if udp, ok := got.TransportLayer().(*layers.UDP); ok && (udp.Checksum == 0) != c.packet.noUDPChecksum {
					t.Errorf("UDP checksum %#x", udp.Checksum)
				}
			}
			back := c.packet
			back.from, back.to, back.ack = c.backend, c.client, true
			if got := toPod(t, plane, back); got.from != c.service || got.to != c.client {
				t.Errorf("reply %s → %s, want %s → %s", got.from, got.to, c.service, c.client)
			}
		})
	}
}

func TestPacketsOfNoServicePassUntouched(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	arp := append(bytes.Repeat([]byte{0xff}, 12), 8, 6)
	frames := map[string][]byte{
		"another port":     segment{from: "10.1.0.9:40000", to: "10.96.0.1:81", syn: true}.frame(t),
		"another protocol": segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", udp: true}.frame(t),
		"pod to pod":       segment{from: "10.1.0.9:40000", to: "10.1.0.1:8080", ack: true, payload: 10}.frame(t),
		"fragment":         segment{from: "10.1.0.9:40000", to: "10.1.0.1:8080", udp: true, moreFragments: true}.frame(t),
		"extension header": segment{from: "[fd00:1::9]:40000", to: "[fd00:1::1]:80", hopByHop: true}.frame(t),
		"wrong length":     segment{from: "10.1.0.9:40000", to: "10.1.0.1:80", syn: true, wrongLength: true}.frame(t),
		"arp":              append(arp, make([]byte, 28)...),
		"cut IPv4":         segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", syn: true}.frame(t)[:36],
		"cut IPv6":         segment{from: "[fd00:1::9]:40000", to: "[fd00:96::1]:80", syn: true}.frame(t)[:56],
	}
	for name, frame := range frames {
		verdict, out, err := plane.RunFromPod(frame, 0)
		check(t, err)
		if verdict != bpf.Pass || !bytes.Equal(out, frame) {
			t.Errorf("%s: %v\n%s", name, verdict, cmp.Diff(frame, out))
		}
	}
	if got := drops(t, plane); len(got) > 0 {
		t.Errorf("drops: %v", got)
	}
}

// Promise P6: a packet that can't be translated is dropped with the reason of just that.
func TestPacketsThatCannotBeTranslatedAreDroppedWithTheirReason(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason model.DropReason
		packet segment
	}{
		{"length beyond the packet", model.ReasonMalformed, segment{from: "10.1.0.9:4", to: "10.96.0.1:80", syn: true, wrongLength: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := newPlane(t, oneService(model.TCP)...)
			verdict, _, err := plane.RunFromPod(c.packet.frame(t), 0)
			check(t, err)
			if verdict != bpf.Drop {
				t.Errorf("verdict %v, want drop", verdict)
			}
			if diff := cmp.Diff(map[model.DropReason]uint64{c.reason: 1}, drops(t, plane)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCutTCPHeaderToAServiceIsMalformed(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	frame := segment{from: "10.1.0.9:4", to: "10.96.0.1:80", syn: true}.frame(t)[:14+20+12]
	verdict, _, err := plane.RunFromPod(frame, 0)
	check(t, err)
	if verdict != bpf.Drop || drops(t, plane)[model.ReasonMalformed] != 1 {
		t.Errorf("%v, %v", verdict, drops(t, plane))
	}
}

// Row 5: a packet to a Service without backends is answered by the Service with a reset, or with an ICMP error that
// quotes it.
// Trap 4: what is refused is answered from the address that was dialled, with numbers and a quote that the client
// takes.
func TestRefusalAnswersForTheService(t *testing.T) {
	plane := newPlane(t,
		testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")},
		testkit.Service{Set: 2, Protocol: model.UDP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")})
	const seq, acked = 1000, 77
	for _, c := range []struct {
		name         string
		packet       segment
		sequence, to uint32
		ack          bool
	}{
		{"syn", segment{syn: true, seq: seq}, 0, seq + 1, true},
		{"syn with data", segment{syn: true, seq: seq, payload: 10}, 0, seq + 11, true},
		{"ack", segment{ack: true, seq: seq, acked: acked, payload: 100}, acked, 0, false},
		{"fin without ack", segment{fin: true, seq: seq, payload: 3}, 0, seq + 4, true},
		{"syn at the end of the numbers", segment{syn: true, seq: 0xffffffff}, 0, 0, true},
	} {
		for family, ends := range map[string][2]string{
			"v4": {"10.1.0.9:40000", "10.96.0.1:80"}, "v6": {"[fd00:1::9]:40000", "[fd00:96::1]:80"},
		} {
			t.Run(c.name+" "+family, func(t *testing.T) {
				packet := c.packet
				packet.from, packet.to = ends[0], ends[1]
				verdict, got := fromPod(t, plane, packet)
				if verdict != bpf.Refuse || got.from != packet.to || got.to != packet.from {
					t.Fatalf("%v %s → %s", verdict, got.from, got.to)
				}
				eth := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
				if eth.DstMAC.String() != "02:00:00:00:00:01" || eth.SrcMAC.String() != "02:00:00:00:00:02" {
					t.Errorf("sent to %v from %v", eth.DstMAC, eth.SrcMAC)
				}
				rst := got.TransportLayer().(*layers.TCP)
				if !rst.RST || rst.SYN || rst.FIN || rst.ACK != c.ack || rst.Seq != c.sequence || rst.Ack != c.to {
					t.Errorf("RST %v ACK %v seq %d ack %d", rst.RST, rst.ACK, rst.Seq, rst.Ack)
				}
				if len(rst.Payload) > 0 {
					t.Errorf("%d bytes after the header", len(rst.Payload))
				}
			})
		}
	}
	for _, payload := range []int{0, 1, 1000, 1400} {
		t.Run("udp4", func(t *testing.T) {
			packet := segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", udp: true, payload: payload}
			verdict, got := fromPod(t, plane, packet)
			icmp, ok := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
			if verdict != bpf.Refuse || !ok || got.from != "10.96.0.1" || got.to != "10.1.0.9" {
				t.Fatalf("%v %v", verdict, got)
			}
			if icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 3) || icmp.Id != 0 || icmp.Seq != 0 {
				t.Errorf("ICMP %v", icmp.TypeCode)
			}
			if diff := cmp.Diff(quotedOf(packet.frame(t)), icmp.Payload); diff != "" {
				t.Errorf("quoted: %s", diff)
			}
		})
		t.Run("udp6", func(t *testing.T) {
			packet := segment{from: "[fd00:1::9]:40000", to: "[fd00:96::1]:80", udp: true, payload: payload}
			verdict, got := fromPod(t, plane, packet)
			icmp, ok := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			if verdict != bpf.Refuse || !ok || got.from != "fd00:96::1" || got.to != "fd00:1::9" {
				t.Fatalf("%v %v", verdict, got)
			}
			if icmp.TypeCode != layers.CreateICMPv6TypeCode(1, 4) {
				t.Errorf("ICMP %v", icmp.TypeCode)
			}
			if diff := cmp.Diff(quotedOf(packet.frame(t)), icmp.Payload[4:]); diff != "" {
				t.Errorf("quoted: %s", diff)
			}
		})
	}
}

// Trap 4: resets, groups and senders that are nobody are never answered.
func TestRefusalNeverAnswersResetsOrGroups(t *testing.T) {
	plane := newPlane(t, testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")})
	for name, packet := range map[string]segment{
		"RST":             {from: "10.1.0.9:40000", to: "10.96.0.1:80", rst: true},
		"from a group":    {from: "224.0.0.5:40000", to: "10.96.0.1:80", syn: true},
		"from all":        {from: "255.255.255.255:40000", to: "10.96.0.1:80", syn: true},
		"from nobody":     {from: "0.0.0.0:40000", to: "10.96.0.1:80", syn: true},
		"from a v6 group": {from: "[ff02::1]:40000", to: "[fd00:96::1]:80", syn: true},
		"from v6 nobody":  {from: "[::]:40000", to: "[fd00:96::1]:80", syn: true},
	} {
		reason := model.ReasonNoBackend
		if packet.rst {
			reason = model.ReasonNoFlow
		}
		before := drops(t, plane)[reason]
		verdict, _, err := plane.RunFromPod(packet.frame(t), 0)
		check(t, err)
		if verdict != bpf.Drop || drops(t, plane)[reason] != before+1 {
			t.Errorf("%s: %v %v", name, verdict, drops(t, plane))
		}
	}
}

// Row 5: no more packets are answered with a refusal than a number a second; the others are dropped.
// Trap 4: answers are limited to a number a second.
func TestRefusalsAreLimited(t *testing.T) {
	testkit.NeedKernel(t)
	plane, err := bpf.Load(bpf.Options{Flows: 1024, Capacities: small, RefusalsPerSecond: 5})
	check(t, err)
	t.Cleanup(plane.Close)
	testkit.Put(t, plane, testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80")})
	frame := segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", syn: true}.frame(t)
	verdicts := map[bpf.Verdict]int{}
	for range 200 {
		verdict, _, err := plane.RunFromPod(frame, 0)
		check(t, err)
		verdicts[verdict]++
	}
	// A burst of 5 for each processor the test happens to run on, and 5 a second.
	if n := verdicts[bpf.Refuse]; n < 5 || n > 100 || verdicts[bpf.Drop] != 200-n {
		t.Errorf("verdicts %v", verdicts)
	}
	if n := drops(t, plane)[model.ReasonNoBackend]; n != 200 {
		t.Errorf("counted %d, want all 200", n)
	}
}

// Row 18: two SCTP Services with other addresses, one with another port, reach their backends.
func TestSCTPIsTranslated(t *testing.T) {
	plane := newPlane(t,
		testkit.Service{Set: 1, Protocol: model.SCTP, Frontends: at("10.96.0.1:80"), Backends: backends(1, "10.1.0.1:80")},
		testkit.Service{Set: 2, Protocol: model.SCTP, Frontends: at("10.96.0.2:80"), Backends: backends(2, "10.1.0.1:81")})
	for service, backend := range map[string]string{"10.96.0.1:80": "10.1.0.1:80", "10.96.0.2:80": "10.1.0.1:81"} {
		verdict, got := fromPod(t, plane, segment{from: "10.1.0.9:4", to: service, sctp: true})
		if verdict != bpf.Pass || got.to != backend {
			t.Errorf("%v %s → %s, want %s", verdict, service, got.to, backend)
		}
	}
}

// manyBackends is a Service of n backends at 10.1.1.0/24.
func manyBackends(p model.Protocol, n int) testkit.Service {
	s := testkit.Service{Set: 1, Protocol: p, Frontends: at("10.96.0.1:80"), Backends: map[uint32]netip.AddrPort{}}
	for i := range n {
		s.Backends[uint32(i+1)] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(i + 1)}), 8080)
	}
	return s
}

func TestConnectionsSpreadOverAllBackends(t *testing.T) {
	plane := newPlane(t, manyBackends(model.TCP, 10))
	reached := map[string]int{}
	for port := range 1000 {
		client := netip.AddrPortFrom(netip.MustParseAddr("10.1.0.9"), uint16(10000+port)).String()
		_, got := fromPod(t, plane, segment{from: client, to: "10.96.0.1:80", syn: true})
		reached[got.to]++
	}
	if len(reached) != 10 {
		t.Errorf("reached %d of 10: %v", len(reached), reached)
	}
	for backend, n := range reached {
		if n < 50 || n > 170 { // 100 ± 7 standard deviations
			t.Errorf("%s got %d of 1000", backend, n)
		}
	}
}

// Row 21: a SYN from a port used again is a new connection, and may reach another backend.
// Trap 12: a SYN that is sent again keeps its backend; one with another sequence number begins anew.
func TestRetransmittedSYNKeepsItsBackendAndANewOneMayChange(t *testing.T) {
	plane := newPlane(t, manyBackends(model.TCP, 50))
	syn := segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", syn: true, seq: 5}
	_, first := fromPod(t, plane, syn)
	for range 20 {
		if _, again := fromPod(t, plane, syn); again.to != first.to {
			t.Fatalf("the same SYN reached %s after %s", again.to, first.to)
		}
	}
	others := map[string]bool{}
	for i := range 20 {
		syn.seq = uint32(100 + i)
		_, got := fromPod(t, plane, syn)
		others[got.to] = true
		// What the flow's earlier backend still sends is no reply to the new connection.
		if got.to != first.to && i == 0 {
			if late := toPod(t, plane, segment{from: first.to, to: "10.1.0.9:40000", ack: true}); !strings.HasPrefix(late.from, "10.1.1.") {
				t.Errorf("a late packet of the old backend was shown as %s", late.from)
			}
		}
	}
	if len(others) < 5 {
		t.Errorf("20 new connections from one port reached only %v", others)
	}
}

// Trap 42: datagrams leave a backend whose number stands for another address by now.
func TestDatagramsLeaveABackendWhoseIDIsAnothersByNow(t *testing.T) {
	plane := newPlane(t, oneService(model.UDP)...)
	datagram := segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", udp: true, payload: 5}
	if _, got := fromPod(t, plane, datagram); got.to != "10.1.0.1:8080" {
		t.Fatalf("reached %s", got.to)
	}
	testkit.RemoveBackend(t, plane, 1)
	testkit.Put(t, plane, testkit.Service{Set: 1, Protocol: model.UDP, Frontends: at("10.96.0.1:80"), Backends: backends(1, "10.1.0.2:8080")})
	if _, got := fromPod(t, plane, datagram); got.to != "10.1.0.2:8080" {
		t.Errorf("reached %s, which is gone", got.to)
	}
}

// TestClientThatHearsLittleIsAnsweredWhenTheTableIsFull: the answers to a flow must find their entry however long the
// last one is ago, as long as the client sends: it is given back within a second.
//
// Trap 15: when the table is full, a flow that is in use keeps, or gets back within a second, the entries of both
// directions.
// Trap 16: thousands of flows that come and go push out none that was added and is used.
func TestClientThatHearsLittleIsAnsweredWhenTheTableIsFull(t *testing.T) {
	plane := newPlane(t, oneService(model.UDP)...)
	const client, service, backend = "10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1:8080"
	for i := range 10_000 { // twice what there is room for, and again
		other := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(i >> 8)}), uint16(1024+i%256))
		for _, from := range []string{client, other.String()} {
			if _, got := fromPod(t, plane, segment{from: from, to: service, udp: true}); got.to != backend {
				t.Fatalf("%s reached %s", from, got.to)
			}
		}
	}
	check(t, plane.PassTime(1))
	fromPod(t, plane, segment{from: client, to: service, udp: true})
	if got := toPod(t, plane, segment{from: backend, to: client, udp: true}); got.from != service {
		t.Errorf("the answer is shown as from %s, want %s", got.from, service)
	}
}

// Trap 19: two Services of one backend, dialled from one port, are told apart by changing the port of the second.
// Row 16: one client port reaches one backend through two Services at once.
func TestTwoServicesOfOneClientPortAndOneBackend(t *testing.T) {
	plane := newPlane(t,
		testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80"), Backends: backends(1, "10.1.0.1:8080")},
		testkit.Service{Set: 2, Protocol: model.TCP, Frontends: at("10.96.0.2:80"), Backends: backends(2, "10.1.0.1:8080")})
	const client = "10.1.0.9:40000"
	for _, service := range []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.1:80"} {
		_, out := fromPod(t, plane, segment{from: client, to: service, syn: true, seq: 9})
		if out.to != "10.1.0.1:8080" {
			t.Fatalf("%s reached %s", service, out.to)
		}
		back := toPod(t, plane, segment{from: out.to, to: out.from, syn: true, ack: true})
		if back.from != service || back.to != client {
			t.Errorf("the reply of %s is shown as %s → %s", service, back.from, back.to)
		}
	}
}

// Trap 19: a backend that is dialled by its own address answers as itself.
func TestPodThatDialsABackendItselfIsNotShownTheService(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	const client, backend = "10.1.0.9:40000", "10.1.0.1:8080"
	fromPod(t, plane, segment{from: client, to: "10.96.0.1:80", syn: true})
	fromPod(t, plane, segment{from: client, to: backend, syn: true})
	if got := toPod(t, plane, segment{from: backend, to: client, syn: true, ack: true}); got.from != backend {
		t.Errorf("the reply is shown as %s", got.from)
	}
}

// TestDatagramsAreAnsweredByWhomTheyAskedLast: a flow has no end, so the pod that asks a backend itself may be another
// one with the address, and the port, of one that asked the Service long ago.
func TestDatagramsAreAnsweredByWhomTheyAskedLast(t *testing.T) {
	plane := newPlane(t, oneService(model.UDP)...)
	const client, service, backend = "10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1:8080"
	for _, to := range []string{service, backend, service, service, backend, backend} {
		fromPod(t, plane, segment{from: client, to: to, udp: true})
		if got := toPod(t, plane, segment{from: backend, to: client, udp: true}); got.from != to {
			t.Errorf("asked %s, the answer is shown as from %s", to, got.from)
		}
	}
}

// Promise P6: the kernel tells of a drop who wanted what from whom, and why it went no further.
func TestDropEventSaysWhoWantedWhat(t *testing.T) {
	plane := newPlane(t, testkit.Service{Set: 5, Protocol: model.TCP, Frontends: at("[fd00:96::1]:80")})
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan abi.DropEvent, 1), make(chan error)
	go func() { done <- plane.Drops(ctx, func(e abi.DropEvent) { events <- e }) }()
	fromPod(t, plane, segment{from: "[fd00:1::9]:40000", to: "[fd00:96::1]:80", syn: true})
	got := <-events
	if got.Time == 0 {
		t.Error("the event has no time")
	}
	got.Time = 0
	want := abi.DropEvent{
		Source: netip.MustParseAddr("fd00:1::9").As16(), SourcePort: abi.Port(40000),
		Destination: netip.MustParseAddr("fd00:96::1").As16(), DestinationPort: abi.Port(80),
		Set: 5, Protocol: uint8(model.TCP), Reason: uint8(model.ReasonNoBackend), Via: 2,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(abi.DropEvent{})); diff != "" {
		t.Error(diff)
	}
	cancel()
	check(t, <-done)
}
