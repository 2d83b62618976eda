// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// frame returns a packet with right checksums; flags are of TCP, such as "SA".
func frame(t testing.TB, protocol model.Protocol, from, to, flags string, payload int) []byte {
	t.Helper()
	source, destination := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	eth := &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4,
	}
	var network interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	} = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(protocol), SrcIP: source.Addr().AsSlice(), DstIP: destination.Addr().AsSlice()}
	if source.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		network = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(protocol), SrcIP: source.Addr().AsSlice(), DstIP: destination.Addr().AsSlice()}
	}
	var transport interface {
		gopacket.SerializableLayer
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	} = &layers.UDP{SrcPort: layers.UDPPort(source.Port()), DstPort: layers.UDPPort(destination.Port())}
	if protocol == model.TCP {
		has := func(flag byte) bool { return bytes.IndexByte([]byte(flags), flag) >= 0 }
		transport = &layers.TCP{
			SrcPort: layers.TCPPort(source.Port()), DstPort: layers.TCPPort(destination.Port()),
			SYN: has('S'), ACK: has('A'), FIN: has('F'), RST: has('R'), Seq: 1, Window: 1000,
		}
	}
	if err := transport.SetNetworkLayerForChecksum(network); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, eth, network, transport, gopacket.Payload(make([]byte, payload))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ends(addrs ...string) (list []netip.AddrPort) {
	for _, a := range addrs {
		list = append(list, netip.MustParseAddrPort(a))
	}
	return list
}

// putServices writes a Service with one backend, and one without, for TCP and UDP in both families.
func putServices(t testing.TB, d *Dataplane) {
	t.Helper()
	id := uint32(0)
	for _, p := range []model.Protocol{model.TCP, model.UDP} {
		for _, s := range [][]netip.AddrPort{ends("10.96.0.1:80", "10.1.0.1:8080"), ends("[fd00:96::1]:80", "[fd00:1::1]:8080")} {
			id++
			testkit.Put(t, d, testkit.Service{Set: id, Protocol: p, Frontends: s[:1], Backends: map[uint32]netip.AddrPort{id: s[1]}})
		}
		id++
		testkit.Put(t, d, testkit.Service{Set: id, Protocol: p, Frontends: ends("10.96.0.9:80", "[fd00:96::9]:80")})
	}
}

// counted is map operations, the socket's own storage not among them.
type counted struct{ Lookups, Writes uint64 }

// count returns the operations that programs do while f runs.
func count(t *testing.T, programs []*ebpf.Collection, f func()) (sum counted) {
	t.Helper()
	before := make([]counted, len(programs))
	for i, p := range programs {
		check(t, p.Variables["operations"].Get(&before[i]))
	}
	f()
	for i, p := range programs {
		var after counted
		check(t, p.Variables["operations"].Get(&after))
		sum.Lookups += after.Lookups - before[i].Lookups
		sum.Writes += after.Writes - before[i].Writes
	}
	return sum
}

// operation is a packet, and what the program that gets it does with maps.
type operation struct {
	name  string
	run   func([]byte, int) (Verdict, []byte, error)
	frame []byte
	want  counted
}

// inOneSecond holds packets to what they cost, one after the other. Flows are looked after once a second of the programs'
// clock: if one passes meanwhile, all is done again, by new programs with empty maps.
func inOneSecond(t *testing.T, options Options, packets func(d *Dataplane) []operation) {
	t.Helper()
	testkit.NeedKernel(t)
	options.forTests = map[string]any{"count_operations": true}
	for {
		d, err := Load(options)
		check(t, err)
		putServices(t, d)
		all := packets(d)
		testkit.Eventually(t, time.Minute, func() bool { return monotonic(t).Nsec < int64(time.Second)/4 })
		begun := monotonic(t).Sec
		var wrong []string
		for _, p := range all {
			got := count(t, []*ebpf.Collection{d.pods, d.uplinks}, func() {
				_, _, err := p.run(p.frame, 0)
				check(t, err)
			})
			if got != p.want {
				wrong = append(wrong, fmt.Sprintf("%s: %+v, want %+v", p.name, got, p.want))
			}
		}
		passed := monotonic(t).Sec != begun
		d.Close()
		if len(wrong) == 0 {
			return
		}
		if !passed {
			t.Fatal(strings.Join(wrong, "\n"))
		}
		t.Logf("a second passed, so that doesn't count:\n%s", strings.Join(wrong, "\n"))
	}
}

// monotonic is the time that programs see.
func monotonic(t *testing.T) (now unix.Timespec) {
	t.Helper()
	check(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return now
}

// TestMapOperationsPerPacket holds what include/pod.h promises about the cost of a packet.
func TestMapOperationsPerPacket(t *testing.T) {
	const client, service, backend, empty = "10.1.0.9:4000", "10.96.0.1:80", "10.1.0.1:8080", "10.96.0.9:80"
	const outside = "198.51.100.7:4000"
	node := netip.MustParseAddr("192.0.2.1")
	inOneSecond(t, Options{Capacities: small, Flows: 1024}, func(d *Dataplane) []operation {
		check(t, d.SetLocals(map[netip.Addr]uint8{node: abi.LocalNodePort}))
		check(t, d.SetUplinks(map[int]abi.Uplink{1: {V4: node.As16()}}))
		testkit.Put(t, d, testkit.Service{Set: 9, Protocol: model.TCP, Frontends: ends("203.0.113.9:80"), Backends: map[uint32]netip.AddrPort{9: ends(backend)[0]}})
		check(t, d.Map(abi.Sets).Put(uint32(9), abi.Encode(abi.BackendSet{Count: 1, Layer: uint8(model.LayerCluster), Flags: uint8(model.External)})))
		check(t, d.Map(abi.MaglevIndex).Put(uint32(9), uint32(0)))
		for slot := range d.MaglevTable(0) {
			d.MaglevTable(0)[slot] = 9
		}
		return []operation{
			{"no Service", d.RunFromPod, frame(t, model.TCP, client, backend, "A", 0), counted{4, 0}},
			{"no Service, a SYN", d.RunFromPod, frame(t, model.TCP, client, backend, "S", 0), counted{5, 0}},
			{"no Service, a datagram", d.RunFromPod, frame(t, model.UDP, client, backend, "", 9), counted{5, 0}},
			{"to a pod, no reply", d.RunToPod, frame(t, model.TCP, client, backend, "A", 0), counted{2, 0}},
			{"a new connection", d.RunFromPod, frame(t, model.TCP, client, service, "S", 0), counted{8, 2}},
			{"a known connection", d.RunFromPod, frame(t, model.TCP, client, service, "A", 9), counted{2, 0}},
			{"its end", d.RunFromPod, frame(t, model.TCP, client, service, "FA", 0), counted{3, 0}},
			{"its first reply", d.RunToPod, frame(t, model.TCP, backend, client, "SA", 0), counted{3, 0}},
			{"a reply", d.RunToPod, frame(t, model.TCP, backend, client, "A", 9), counted{2, 0}},
			{"new datagrams", d.RunFromPod, frame(t, model.UDP, client, service, "", 9), counted{8, 2}},
			{"known datagrams", d.RunFromPod, frame(t, model.UDP, client, service, "", 9), counted{3, 0}},
			{"refused", d.RunFromPod, frame(t, model.TCP, client, empty, "S", 0), counted{7, 1}},
			{"from outside, another's", d.RunFromUplink, frame(t, model.TCP, outside, backend, "A", 0), counted{3, 0}},
			{"from outside, the node's", d.RunFromUplink, frame(t, model.TCP, outside, "192.0.2.1:22", "A", 0), counted{5, 0}},
			{"from outside, a new connection", d.RunFromUplink, frame(t, model.TCP, outside, service, "S", 0), counted{13, 4}},
			{"the same by a Maglev table", d.RunFromUplink, frame(t, model.TCP, "198.51.100.7:4001", "203.0.113.9:80", "S", 0), counted{14, 4}},
			{"its first packet that leaves", d.RunToUplink, frame(t, model.TCP, outside, backend, "S", 0), counted{4, 2}},
			{"its answer", d.RunFromUplink, segment(t, backend, "192.0.2.1:4000", "SA", 9, 2, 0), counted{2, 0}},
			{"its answer that leaves", d.RunToUplink, segment(t, backend, outside, "SA", 9, 2, 0), counted{2, 0}},
			{"what shows that the client is there", d.RunFromUplink, segment(t, outside, service, "A", 2, 10, 0), counted{2, 0}},
			{"from outside, a known connection", d.RunFromUplink, frame(t, model.TCP, outside, service, "A", 9), counted{1, 0}},
			{"its next packet that leaves", d.RunToUplink, frame(t, model.TCP, outside, backend, "A", 9), counted{1, 0}},
		}
	})
}

// TestChecksumsByHelpersAreTheSame compares the way of kernels before 6.2 with that of newer ones.
func TestChecksumsByHelpersAreTheSame(t *testing.T) {
	testkit.NeedKernel(t)
	inline := load(t, "")
	helpers, err := Load(Options{Capacities: small, Flows: 1024, forTests: map[string]any{"inline_checksums": false}})
	check(t, err)
	t.Cleanup(helpers.Close)
	putServices(t, inline)
	putServices(t, helpers)
	for _, p := range []model.Protocol{model.TCP, model.UDP} {
		for _, family := range [][2]string{{"10.1.0.9:4000", "10.96.0."}, {"[fd00:1::9]:4000", "[fd00:96::"}} {
			for _, last := range []string{"1", "9"} {
				to := family[1] + last + "]:80"
				if family[1][0] != '[' {
					to = family[1] + last + ":80"
				}
				for size := range 64 {
					b := frame(t, p, family[0], to, "S", size)
					v1, out1, err := inline.RunFromPod(b, 0)
					check(t, err)
					v2, out2, err := helpers.RunFromPod(b, 0)
					check(t, err)
					if v1 != v2 || !bytes.Equal(out1, out2) {
						t.Fatalf("%v %s → %s of %d bytes: %v by helpers, %v inline\n%x\n%x", p, family[0], to, size, v2, v1, out2, out1)
					}
				}
			}
		}
	}
}

// TestSumsOfWholePacketsStayRight gives packets whose sum the device has taken (CHECKSUM_COMPLETE). The kernel itself
// compares that sum with the packet afterwards, and says EBADMSG if they are not the same.
//
// Trap 1: where the device took the sum of a whole packet, it stays right for TCP and UDP.
func TestSumsOfWholePacketsStayRight(t *testing.T) {
	d := load(t, "")
	putServices(t, d)
	for _, p := range []model.Protocol{model.TCP, model.UDP} {
		for _, c := range [][3]string{
			{"10.1.0.9:4000", "10.96.0.1:80", "10.1.0.1:8080"},
			{"[fd00:1::9]:4000", "[fd00:96::1]:80", "[fd00:1::1]:8080"},
		} {
			for _, way := range []struct{ program, from, to string }{{"from_pod", c[0], c[1]}, {"to_pod", c[2], c[0]}} {
				const complete = 1 << 2 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE, include/uapi/linux/bpf.h
				b := frame(t, p, way.from, way.to, "S", 9)
				out := make([]byte, len(b)+growth)
				_, err := d.pods.Programs[way.program].Run(&ebpf.RunOptions{Data: b, DataOut: out, Flags: complete})
				if errors.Is(err, syscall.EINVAL) {
					t.Skip("this kernel does not compare: that came with Linux 6.12")
				}
				if err != nil {
					t.Errorf("%s, %v %s → %s: %v", way.program, p, way.from, way.to, err)
				}
			}
		}
	}
}
