// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

var (
	pod       = netip.MustParseAddrPort("10.244.1.2:40000")
	vip       = netip.MustParseAddrPort("10.96.0.10:80")
	vip2      = netip.MustParseAddrPort("10.96.0.11:80")
	noOne     = netip.MustParseAddrPort("10.96.0.12:80")
	broken    = netip.MustParseAddrPort("10.96.0.13:80")
	cart0     = netip.MustParseAddrPort("10.244.1.3:8080")
	cart1     = netip.MustParseAddrPort("10.244.2.3:8080")
	elsewhere = netip.MustParseAddrPort("192.0.2.1:443")
)

// tables has Service 1 with two backends, Service 2 that shares the first of them, 3 without any, and a frontend
// whose set is missing.
func tables(protocol model.Protocol) *model.Tables {
	t := model.NewTables()
	front := func(at netip.AddrPort, set model.SetID) {
		key := model.FrontendKey{Addr: at.Addr(), Port: at.Port(), Protocol: protocol}
		t.Frontends[key] = model.Frontend{FrontendKey: key, Set: set, Kind: model.FrontendClusterIP}
	}
	for _, id := range []model.SetID{1, 2, 3} {
		t.Sets[id] = model.BackendSet{ID: id}
	}
	backend := func(id model.BackendID, set model.SetID, at netip.AddrPort) {
		t.Backends[id] = model.Backend{ID: id, BackendKey: model.BackendKey{Set: set, Addr: at.Addr(), Port: at.Port()}, State: model.BackendActive}
		t.Members[model.Member{Set: set, Backend: id}] = model.Member{Set: set, Backend: id}
	}
	front(vip, 1)
	front(vip2, 2)
	front(noOne, 3)
	front(broken, 99)
	backend(11, 1, cart0)
	backend(12, 1, cart1)
	backend(21, 2, cart0)
	return t
}

func node(t *model.Tables) *Node { return New(NewLayer(t)) }

func TestDecideByFrontendAndMembers(t *testing.T) {
	n := node(tables(model.TCP))
	for _, test := range []struct {
		name       string
		protocol   model.Protocol
		to         netip.AddrPort
		verdict    Verdict
		reason     model.DropReason
		candidates []netip.AddrPort
	}{
		{"to a Service", model.TCP, vip, Forward, model.ReasonNone, []netip.AddrPort{cart0, cart1}},
		{"to an IPv4-mapped address", model.TCP, netip.MustParseAddrPort("[::ffff:10.96.0.10]:80"), Forward, model.ReasonNone, []netip.AddrPort{cart0, cart1}},
		{"in another protocol", model.UDP, vip, Forward, model.ReasonNone, nil},
		{"to no Service", model.TCP, elsewhere, Forward, model.ReasonNone, nil},
		{"to a Service without backends", model.TCP, noOne, Reject, model.ReasonNoBackend, nil},
		{"to a frontend of a missing set", model.TCP, broken, Drop, model.ReasonStaleTables, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := n.Decide(Dialler{PodPacket, pod.Addr()}, test.protocol, test.to)
			var got []netip.AddrPort
			for _, b := range d.Candidates {
				got = append(got, AddrPort(b))
			}
			want := []any{test.verdict, test.reason, test.candidates}
			if diff := cmp.Diff(want, []any{d.Verdict, d.Reason, got}, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMembersThatAreNoBackendsAreNeverChosen(t *testing.T) {
	rows := tables(model.TCP)
	delete(rows.Backends, 11)
	if d := node(rows).Decide(Dialler{PodPacket, pod.Addr()}, model.TCP, vip); len(d.Candidates) != 1 || d.MayChoose(cart0) || !d.MayChoose(cart1) {
		t.Errorf("candidates are %v, want %s alone", d.Candidates, cart1)
	}
	delete(rows.Backends, 12)
	if d := node(rows).Decide(Dialler{PodPacket, pod.Addr()}, model.TCP, vip); d.Verdict != Drop || d.Reason != model.ReasonStaleTables {
		t.Errorf("got %s, %s: want it dropped for stale tables", d.Verdict, d.Reason)
	}
}

func TestSocketKeepsItsBackendAndSeesWhomItAsked(t *testing.T) {
	var s Socket
	ns := &Namespace{Via: PodSocket, Affinities: Affinities{}}
	n := node(tables(model.UDP))
	for i, f := range []struct {
		to        netip.AddrPort
		did       Reached
		complaint string
	}{
		{vip, Reached{Forward, elsewhere}, "want one of"},
		{vip, Reached{Forward, cart0}, ""},
		{vip, Reached{Forward, cart1}, "as before"},
		{vip2, Reached{Forward, cart0}, ""},
		{noOne, Reached{Forward, cart0}, "want reject"},
		{noOne, Reached{Verdict: Reject}, ""},
		{elsewhere, Reached{Forward, elsewhere}, ""},
	} {
		err := s.Send(n, ns, f.to, f.did, 0)
		if (err == nil) != (f.complaint == "") || err != nil && !strings.Contains(err.Error(), f.complaint) {
			t.Fatalf("datagram %d to %s, %s: the model says %v, want %q", i, f.to, f.did, err, f.complaint)
		}
	}
	if got := s.Sender(cart0); got != vip2 {
		t.Errorf("an answer of %s is from %s, want %s, which was asked last", cart0, got, vip2)
	}
	if got := s.Sender(cart1); got != cart1 {
		t.Errorf("%s was never asked, but shows as %s", cart1, got)
	}
	if err := s.Send(n, ns, cart0, Reached{Forward, cart0}, 0); err != nil || s.Sender(cart0) != cart0 {
		t.Errorf("asked directly, %s shows as %s (%v)", cart0, s.Sender(cart0), err)
	}
}

// TestRewriteAgainstGopacket makes packets with a library of others, and lets it look at what Rewrite makes of them.
func TestRewriteAgainstGopacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		addr := func(name string) netip.AddrPort {
			raw := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name)
			a := netip.AddrFrom4([4]byte(raw))
			if v6 {
				a = netip.AddrFrom16([16]byte{0xfd, 15: 1, 8: raw[0], 9: raw[1]})
			}
			return netip.AddrPortFrom(a, rapid.Uint16Min(1).Draw(t, name+" port"))
		}
		from, to, newFrom, newTo := addr("from"), addr("to"), addr("new from"), addr("new to")
		udp := rapid.Bool().Draw(t, "udp")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "payload")
		frame := serialize(t, udp, from, to, payload)
		p, ok := Parse(frame)
		if !ok || p.Source != from || p.Destination != to || p.LengthsLie {
			t.Fatalf("%x reads as %s", frame, p)
		}
		got := p.Rewrite(frame, newFrom, newTo)
		if want := serialize(t, udp, newFrom, newTo, payload); !bytes.Equal(got, want) {
			t.Fatalf("%s to %s → %s (-want +got):\n%s", p, newFrom, newTo, cmp.Diff(want, got))
		}
	})
}

func serialize(t *rapid.T, udp bool, from, to netip.AddrPort, payload []byte) []byte {
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 2}, DstMAC: []byte{2, 0, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv4}
	protocol := layers.IPProtocolTCP
	if udp {
		protocol = layers.IPProtocolUDP
	}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if from.Addr().Is4() {
		l := &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		ip, network = l, l
	} else {
		l := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		ip, network, eth.EthernetType = l, l, layers.EthernetTypeIPv6
	}
	var transport gopacket.SerializableLayer
	var err error
	if udp {
		l := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
		transport, err = l, l.SetNetworkLayerForChecksum(network)
	} else {
		l := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), SYN: true, Seq: 7, Window: 9}
		transport, err = l, l.SetNetworkLayerForChecksum(network)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, eth, ip, transport, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzParse(f *testing.F) {
	f.Add(FirstPacket(model.TCP, pod, vip))
	f.Add(FirstPacket(model.UDP, netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:2")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, ok := Parse(frame)
		if ok && p.Fault == model.ReasonNone && !p.LengthsLie {
			if got := p.Rewrite(frame, p.Source, p.Destination); !bytes.Equal(got, frame) {
				t.Errorf("rewriting to the same changes %x to %x", frame, got)
			}
		}
	})
}
