// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// BenchmarkPacketPolicy measures what policy costs a packet: the same programs and packets without any, and with a pod
// that is isolated but for its peer, in turns.
//
//	go test ./bpf -run '^$' -bench PacketPolicy -benchtime 15x
func BenchmarkPacketPolicy(b *testing.B) {
	testkit.NeedKernel(b)
	d, err := Load(Options{Connections: 65536, Flows: 65536, Capacities: small})
	check(b, err)
	b.Cleanup(d.Close)
	spec, err := loadFloor()
	check(b, err)
	varied, err := d.loadCollection(spec, adoption{})
	check(b, err)
	b.Cleanup(varied.Close)
	putServices(b, d)
	putPolicy(b, d)
	const pod, peer, service, stranger = "10.1.0.9:40000", "10.1.0.1:8080", "10.96.0.1:80", "192.0.2.7:8080"
	begin := func(run func([]byte, int) (Verdict, []byte, error), packet []byte) {
		verdict, _, err := run(packet, 0)
		if err != nil || verdict != Pass {
			b.Fatal(verdict, err)
		}
	}
	for _, policed := range []bool{false, true} {
		check(b, d.Judge(policed))
		begin(d.RunFromPod, frame(b, model.TCP, pod, peer, "S", 0))
		begin(d.RunFromPod, frame(b, model.TCP, "10.1.0.9:40001", service, "S", 0))
	}
	pods, begun := d.pods.Programs, varied.Programs
	for _, c := range []struct {
		name    string
		program *ebpf.Program
		packet  []byte
		repeat  int
	}{
		{"pod-in/established", pods["from_pod"], frame(b, model.TCP, pod, peer, "A", 0), 200_000},
		{"pod-in/datagrams", pods["from_pod"], frame(b, model.UDP, pod, peer, "", 8), 200_000},
		{"pod-out/established", pods["to_pod"], frame(b, model.TCP, peer, pod, "A", 0), 200_000},
		{"pod-in/new", begun["ours_new_direct"], frame(b, model.TCP, pod, peer, "S", 0), 50_000},
		{"pod-in/new-by-block-and-port", begun["ours_new_direct"], frame(b, model.TCP, pod, stranger, "S", 0), 50_000},
		{"pod-out/new", begun["ours_new_to_pod"], frame(b, model.TCP, peer, pod, "S", 0), 50_000},
	} {
		b.Run(c.name, func(b *testing.B) { withAndWithout(b, d, c.program, c.packet, c.repeat) })
	}
}

// withAndWithout runs a program in turns, and reports medians and what policy adds.
func withAndWithout(b *testing.B, d *Dataplane, program *ebpf.Program, packet []byte, repeat int) {
	b.Helper()
	var off, on []float64
	for b.Loop() {
		check(b, d.Judge(false))
		off = append(off, round(b, program, packet, repeat))
		check(b, d.Judge(true))
		on = append(on, round(b, program, packet, repeat))
	}
	slices.Sort(off)
	slices.Sort(on)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(off[len(off)/2], "off-ns/packet")
	b.ReportMetric(on[len(on)/2], "on-ns/packet")
	b.ReportMetric(on[len(on)/2]-off[len(off)/2], "added-ns/packet")
	b.ReportMetric(on[0]-off[0], "added-ns-of-least")
}
