// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// The rule sets of tests that need no more: of what comes to a pod, and of what it sends.
const (
	ingressSet model.RuleSetID = 0x1111222233334444
	egressSet  model.RuleSetID = 0x5555666677778888
)

// family has addresses of one IP family for tests that hold for both.
type family struct {
	name, pod, peer, stranger, node, service string
	networks                                 netip.Prefix // of pods
}

var families = []family{
	{"IPv4", "10.1.0.9", "10.1.0.1", "192.0.2.7", "172.20.0.2", "10.96.0.1:80", netip.MustParsePrefix("10.1.0.0/16")},
	{"IPv6", "[fd00:1::9]", "[fd00:1::1]", "[2001:db8::7]", "[fd00:20::2]", "[fd00:96::1]:80", netip.MustParsePrefix("fd00:1::/32")},
}

// eachFamily runs a test for IPv4 and for IPv6.
func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	t.Helper()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// bare returns an address without brackets.
func bare(addr string) netip.Addr {
	if addr[0] == '[' {
		addr = addr[1 : len(addr)-1]
	}
	return netip.MustParseAddr(addr)
}

// newCourt loads programs that judge by these rows, see testkit.PutPolicy.
func newCourt(t testing.TB, options bpf.Options, rows ...any) *bpf.Dataplane {
	t.Helper()
	testkit.NeedKernel(t)
	options.Flows, options.Connections, options.Capacities = 4096, 4096, small
	plane, err := bpf.Load(options)
	check(t, err)
	t.Cleanup(plane.Close)
	testkit.PutPolicy(t, plane, rows...)
	check(t, plane.Judge(true))
	return plane
}

// podOf is a pod with both rule sets.
func podOf(addr string) testkit.Pod {
	return testkit.Pod{Addr: bare(addr), Ingress: ingressSet, Egress: egressSet, Incarnation: 1}
}

// says is what a rule set says about an identity.
func says(set model.RuleSetID, identity model.IdentityID, action model.Action, rule model.RuleID) model.Verdict {
	return model.Verdict{VerdictKey: model.VerdictKey{RuleSet: set, Identity: identity}, Action: action, Rule: rule}
}

// sends gives a packet to the program of what pods send.
func sends(t testing.TB, plane *bpf.Dataplane, frame []byte) bpf.Verdict {
	t.Helper()
	verdict, _, err := plane.RunFromPod(frame, 0)
	check(t, err)
	return verdict
}

// gets gives a packet to the program of what pods get.
func gets(t testing.TB, plane *bpf.Dataplane, frame []byte) bpf.Verdict {
	t.Helper()
	verdict, _, err := plane.RunToPod(frame, 0)
	check(t, err)
	return verdict
}

// want fails unless a packet was dealt with so.
func want(t testing.TB, what string, got, want bpf.Verdict) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// event waits for the next drop to be told.
func event(t testing.TB, plane *bpf.Dataplane) (e abi.DropEvent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	told := false
	check(t, plane.Drops(ctx, func(d abi.DropEvent) {
		if !told { // more may come before the end is seen
			e, told = d, true
		}
		cancel()
	}))
	if !told {
		t.Fatal("no drop was told")
	}
	return e
}

// echo is a ping, or with reply its answer.
func echo(t testing.TB, from, to string, id uint16, reply bool) []byte {
	t.Helper()
	kind := map[bool]byte{false: 8, true: 0}[reply]
	if bare(from).Is6() {
		kind = map[bool]byte{false: 128, true: 129}[reply]
	}
	return message(t, from, to, kind, binary.BigEndian.AppendUint16(nil, id))
}

// message is an ICMP message; body is what comes behind its checksum.
func message(t testing.TB, from, to string, kind byte, body []byte) []byte {
	t.Helper()
	text := append([]byte{kind, 0, 0, 0}, body...)
	text = append(text, make([]byte, max(0, 8-len(text)))...)
	if bare(from).Is4() {
		binary.BigEndian.PutUint16(text[2:], refmodel.Checksum(text))
		return around(t, from, to, 1, text)
	}
	pseudo := append(bare(from).AsSlice(), bare(to).AsSlice()...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(text))), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(text[2:], refmodel.Checksum(pseudo, text))
	return around(t, from, to, 58, text)
}

// around is a packet of any protocol.
func around(t testing.TB, from, to string, protocol layers.IPProtocol, text []byte) []byte {
	t.Helper()
	source, destination := bare(from), bare(to)
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer = &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()}
	if source.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: protocol, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()}
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	check(t, gopacket.SerializeLayers(buffer, options, eth, ip, gopacket.Payload(text)))
	return buffer.Bytes()
}
