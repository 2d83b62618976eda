// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

const benchClient = "10.1.0.9:40000"

// BenchmarkPacket measures what the programs take for a packet, and what the floor takes, in turns; see
// programs/floor.c. The kernel measures, by BPF_PROG_TEST_RUN; one iteration is one round of both. Look at the
// ratio: it holds across machines, the nanoseconds don't.
//
//	go test ./bpf -run '^$' -bench Packet -benchtime 15x
func BenchmarkPacket(b *testing.B) {
	testkit.NeedKernel(b)
	for _, frontends := range []int{10, 10_000} {
		d, floor := benchPrograms(b, frontends)
		name := func(what string) string { return fmt.Sprintf("%s/frontends=%d", what, frontends) }
		known := frame(b, model.TCP, benchClient, vip(0).String(), "A", 0)
		b.Run(name("established"), func(b *testing.B) {
			compare(b, known, 200_000, d.pods.Programs["from_pod"], floor.Programs["floor_established"])
		})
		b.Run(name("established-random-frontend"), func(b *testing.B) {
			compare(b, known, 200_000, floor.Programs["ours_random"], floor.Programs["floor_random"])
		})
		b.Run(name("no-service"), func(b *testing.B) {
			packet := frame(b, model.TCP, benchClient, "10.97.0.1:80", "A", 0)
			compare(b, packet, 200_000, d.pods.Programs["from_pod"], floor.Programs["floor_no_service"])
		})
		b.Run(name("new"), func(b *testing.B) {
			packet := frame(b, model.TCP, benchClient, vip(0).String(), "S", 0)
			compare(b, packet, 50_000, floor.Programs["ours_new"], floor.Programs["floor_new"])
		})
		b.Run(name("refused"), func(b *testing.B) {
			packet := frame(b, model.TCP, benchClient, refusing, "S", 0)
			compare(b, packet, 1, d.pods.Programs["from_pod"], floor.Programs["floor_refused"])
		})
	}
}

// vip is frontend i; its only backend is itself, so that a packet is the same after its translation.
func vip(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)
}

const refusing = "10.98.0.1:80"

func benchPrograms(b *testing.B, frontends int) (*Dataplane, *ebpf.Collection) {
	b.Helper()
	room := uint32(16384)
	capacities := map[abi.Map]uint32{abi.Frontends: room, abi.Sets: room, abi.Slots: room, abi.Backends: room}
	d, err := Load(Options{Flows: 2 * room, Capacities: capacities, RefusalsPerSecond: 1e9})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	spec, err := loadFloor()
	if err != nil {
		b.Fatal(err)
	}
	if err := spec.Variables["floor_frontend_count"].Set(uint32(frontends)); err != nil {
		b.Fatal(err)
	}
	floor, err := d.loadCollection(spec, adoption{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(floor.Close)
	for i := range frontends {
		benchService(b, d, floor, uint32(i+1), vip(i))
	}
	testkit.Put(b, d, testkit.Service{Set: room, Protocol: model.TCP, Frontends: ends(refusing)})
	benchFrontend(b, floor, 0, netip.MustParseAddrPort(refusing))
	return d, floor
}

// benchService writes a Service and a flow to it, for the programs and for the floor.
func benchService(b *testing.B, d *Dataplane, floor *ebpf.Collection, id uint32, at netip.AddrPort) {
	b.Helper()
	testkit.Put(b, d, testkit.Service{Set: id, Protocol: model.TCP, Frontends: []netip.AddrPort{at}, Backends: map[uint32]netip.AddrPort{id: at}})
	if _, _, err := d.RunFromPod(frame(b, model.TCP, benchClient, at.String(), "S", 0), 0); err != nil {
		b.Fatal(err)
	}
	benchFrontend(b, floor, id, at)
	client := netip.MustParseAddrPort(benchClient)
	addr, port := at.Addr().As4(), abi.Port(at.Port())
	clientAddr, clientPort := client.Addr().As4(), abi.Port(client.Port())
	tuple := slices.Concat(clientAddr[:], addr[:], clientPort[:], port[:], []byte{6, 0, 0, 0})
	backend := slices.Concat(addr[:], port[:], []byte{0, 0})
	for m, key := range map[string][]byte{"floor_flows": tuple, "floor_backends": abi.Encode(id)} {
		if err := floor.Maps[m].Put(key, backend); err != nil {
			b.Fatal(err)
		}
	}
}

func benchFrontend(b *testing.B, floor *ebpf.Collection, id uint32, at netip.AddrPort) {
	b.Helper()
	addr, port := at.Addr().As4(), abi.Port(at.Port())
	if err := floor.Maps["floor_frontends"].Put(slices.Concat(addr[:], port[:], []byte{6, 0}), id); err != nil {
		b.Fatal(err)
	}
}

// compare runs both programs in turns and reports their medians and the ratio.
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
