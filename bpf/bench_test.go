// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// benchSizes are numbers of Services. A million takes 2 GB and 20 seconds: ask for it.
var benchSizes = flag.String("bench.services", "10,10000", "how many Services to measure with, comma-separated")

// benchActive is the most flows that have many packets a second.
const benchActive = 50_000

const (
	benchClient  = "10.1.0.9:40000"
	benchOutside = "198.51.100.7:20000" // a port that a masqueraded flow may keep
	refusing     = "10.95.0.1:80"
)

// vip is frontend i; its only backend is itself, so that a packet is the same after its translation.
func vip(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}), 80)
}

// BenchmarkPacket measures what the programs take for a packet, and what the floor takes, in turns; see
// programs/floor.c. The kernel measures, by BPF_PROG_TEST_RUN; one iteration is one round of both. Look at the
// ratio: it holds across machines, the nanoseconds don't.
//
//	go test ./bpf -run '^$' -bench Packet -benchtime 15x -bench.services=10,10000,1000000
func BenchmarkPacket(b *testing.B) {
	testkit.NeedKernel(b)
	for size := range strings.SplitSeq(*benchSizes, ",") {
		services, err := strconv.Atoi(size)
		if err != nil {
			b.Fatal(err)
		}
		d, floor := benchPrograms(b, services)
		for _, c := range benchCases(b, d, floor) {
			b.Run(fmt.Sprintf("%s/services=%d", c.name, services), func(b *testing.B) {
				compare(b, c.frame, c.repeat, c.ours, floor.Programs[c.floor])
			})
		}
	}
}

type benchCase struct {
	name   string
	frame  []byte
	repeat int
	ours   *ebpf.Program
	floor  string
}

// benchCases are in an order: new connections push known flows out.
func benchCases(b *testing.B, d *Dataplane, floor *ebpf.Collection) []benchCase {
	b.Helper()
	service := vip(0).String()
	pods, uplinks, varied := d.pods.Programs, d.uplinks.Programs, floor.Programs
	known := frame(b, model.TCP, benchClient, service, "A", 0)
	outside := frame(b, model.TCP, benchOutside, service, "A", 0)
	return []benchCase{
		{"pod-in/established", known, 200_000, pods["from_pod"], "floor_established"},
		{"pod-in/established-random", known, 200_000, varied["ours_random"], "floor_random"},
		{"pod-in/established-random-all", known, 200_000, varied["ours_random_all"], "floor_random_all"},
		{"pod-in/datagrams", frame(b, model.UDP, benchClient, service, "", 8), 200_000, pods["from_pod"], "floor_datagram"},
		{"pod-out/reply", frame(b, model.TCP, service, benchClient, "A", 0), 200_000, pods["to_pod"], "floor_established"},
		{"uplink-in/established", outside, 200_000, uplinks["from_uplink"], "floor_established"},
		{"uplink-out/masqueraded", outside, 200_000, uplinks["to_uplink"], "floor_established"},
		{"pod-in/no-service-random", known, 200_000, varied["ours_no_service"], "floor_no_service"},
		{"pod-in/new-random", frame(b, model.TCP, benchClient, service, "S", 0), 50_000, varied["ours_new"], "floor_new"},
		{"pod-in/refused", frame(b, model.TCP, benchClient, refusing, "S", 0), 1, pods["from_pod"], "floor_refused"},
	}
}

func benchPrograms(b *testing.B, services int) (*Dataplane, *ebpf.Collection) {
	b.Helper()
	room := uint32(max(16384, services+services/8))
	d, err := Load(Options{Flows: 4 * room, Capacities: benchCapacities(room), RefusalsPerSecond: 1e9})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	spec, err := loadFloor()
	if err != nil {
		b.Fatal(err)
	}
	check(b, spec.Variables["floor_frontend_count"].Set(uint32(services)))
	check(b, spec.Variables["floor_active_count"].Set(uint32(min(services, benchActive))))
	for name, entries := range map[string]uint32{"floor_flows": 4 * room, "floor_frontends": room, "floor_backends": room} {
		spec.Maps[name].MaxEntries = entries
	}
	floor, err := d.loadCollection(spec, adoption{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(floor.Close)
	for i := range services {
		benchService(b, d, floor, uint32(i+1), vip(i))
	}
	testkit.Put(b, d, testkit.Service{Set: room, Protocol: model.TCP, Frontends: ends(refusing)})
	benchFrontend(b, floor, 0, netip.MustParseAddrPort(refusing))
	benchOthers(b, d, floor)
	return d, floor
}

func benchCapacities(room uint32) map[abi.Map]uint32 {
	return map[abi.Map]uint32{abi.Frontends: room, abi.Sets: room, abi.Slots: room, abi.Backends: room}
}

// benchService writes a Service and a flow to it, for the programs and for the floor.
func benchService(b *testing.B, d *Dataplane, floor *ebpf.Collection, id uint32, at netip.AddrPort) {
	b.Helper()
	testkit.Put(b, d, testkit.Service{Set: id, Protocol: model.TCP, Frontends: []netip.AddrPort{at}, Backends: map[uint32]netip.AddrPort{id: at}})
	if _, _, err := d.RunFromPod(frame(b, model.TCP, benchClient, at.String(), "S", 0), 0); err != nil {
		b.Fatal(err)
	}
	benchFrontend(b, floor, id, at)
	benchFlow(b, floor, model.TCP, benchClient, at.String())
	if err := floor.Maps["floor_backends"].Put(id, floorEnd(at)); err != nil {
		b.Fatal(err)
	}
}

// benchOthers begins flows of other kinds to the first Service: datagrams, and a connection from outside that is
// masqueraded as what it is already, and whose client has shown that it hears answers.
func benchOthers(b *testing.B, d *Dataplane, floor *ebpf.Collection) {
	b.Helper()
	service := vip(0).String()
	frontend := model.FrontendKey{Addr: vip(0).Addr(), Port: vip(0).Port(), Protocol: model.UDP}
	row := abi.Frontend{Set: 1, Kind: uint8(model.FrontendClusterIP), Layer: uint8(model.LayerCluster)}
	check(b, d.Map(abi.Frontends).Put(abi.Encode(abi.KeyOfFrontend(frontend)), abi.Encode(row)))
	check(b, d.SetUplinks(map[int]abi.Uplink{1: {V4: netip.MustParseAddrPort(benchOutside).Addr().As16()}}))
	acknowledging := frame(b, model.TCP, benchOutside, service, "A", 0)
	binary.BigEndian.PutUint32(acknowledging[14+20+8:], 2) // the SYN-ACK is 1
	for _, step := range []struct {
		run   func([]byte, int) (Verdict, []byte, error)
		frame []byte
	}{
		{d.RunFromPod, frame(b, model.UDP, benchClient, service, "", 8)},
		{d.RunFromUplink, frame(b, model.TCP, benchOutside, service, "S", 0)},
		{d.RunToUplink, frame(b, model.TCP, benchOutside, service, "S", 0)},
		{d.RunFromUplink, frame(b, model.TCP, service, benchOutside, "SA", 0)},
		{d.RunToUplink, frame(b, model.TCP, service, benchOutside, "SA", 0)},
		{d.RunFromUplink, acknowledging},
	} {
		if verdict, _, err := step.run(step.frame, 0); err != nil || verdict != Pass {
			b.Fatal(verdict, err)
		}
	}
	benchFlow(b, floor, model.UDP, benchClient, service)
	benchFlow(b, floor, model.TCP, service, benchClient)
	benchFlow(b, floor, model.TCP, benchOutside, service)
}

// benchFlow writes a flow for the floor: packets are the same afterwards.
func benchFlow(b *testing.B, floor *ebpf.Collection, protocol model.Protocol, from, to string) {
	b.Helper()
	source, destination := floorEnd(netip.MustParseAddrPort(from)), floorEnd(netip.MustParseAddrPort(to))
	key := slices.Concat(source[:4], destination[:4], source[4:6], destination[4:6], []byte{byte(protocol), 0, 0, 0})
	check(b, floor.Maps["floor_flows"].Put(key, destination))
}

// floorEnd is an address and a port as the floor has them.
func floorEnd(at netip.AddrPort) []byte {
	addr, port := at.Addr().As4(), abi.Port(at.Port())
	return slices.Concat(addr[:], port[:], []byte{0, 0})
}

func benchFrontend(b *testing.B, floor *ebpf.Collection, id uint32, at netip.AddrPort) {
	b.Helper()
	end := floorEnd(at)
	check(b, floor.Maps["floor_frontends"].Put(slices.Concat(end[:6], []byte{6, 0}), id))
}

// compare runs both programs in turns and reports their medians, and the ratios of medians and of the shortest rounds,
// which a busy machine disturbs least.
func compare(b *testing.B, packet []byte, repeat int, ours, floor *ebpf.Program) {
	b.Helper()
	var a, f []float64
	for b.Loop() {
		a = append(a, round(b, ours, packet, repeat))
		f = append(f, round(b, floor, packet, repeat))
	}
	slices.Sort(a)
	slices.Sort(f)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(a[len(a)/2], "ns/packet")
	b.ReportMetric(f[len(f)/2], "floor-ns/packet")
	b.ReportMetric(a[len(a)/2]/f[len(f)/2], "ratio")
	b.ReportMetric(a[0]/f[0], "ratio-of-least")
}

// round returns ns a packet. A packet that comes out as another kind, as a refusal does, is given anew each time.
func round(b *testing.B, program *ebpf.Program, packet []byte, repeat int) float64 {
	b.Helper()
	runs := 1
	if repeat == 1 {
		runs = 2000
	}
	var times []time.Duration
	for range runs {
		_, d, err := program.Benchmark(packet, repeat, nil)
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, d)
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds())
}
