// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// BenchmarkMapMemory reports what the kernel says that maps take: the tables by the number of Services, of one frontend
// and one backend each, in maps with room for as many; flows and affinities by their capacity, which is taken when
// they are made. Since Linux 6.4 the kernel counts what is there, before it estimates by capacity.
//
//	go test ./bpf -run '^$' -bench MapMemory -benchtime 1x
func BenchmarkMapMemory(b *testing.B) {
	testkit.NeedKernel(b)
	for _, services := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) { benchTables(b, services) })
	}
	for _, flows := range []uint32{1 << 16, 1 << 19, 1 << 22} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) { benchFlowMemory(b, flows) })
	}
	b.Run("policy", benchPolicyMemory)
}

// benchPolicyMemory has what a node with 100 pods is told in a cluster of 100,000 pods and 10,000 policies (BenchmarkNode of
// services/compiler/policy), in maps of the default capacities.
func benchPolicyMemory(b *testing.B) {
	const endpoints, peers, verdicts, ports = 100, 11_000, 1800, 700
	d, err := Load(Options{Flows: 1024})
	check(b, err)
	defer d.Close()
	for b.Loop() {
		for i := range peers {
			testkit.PutPolicy(b, d, model.Peer{Addr: vip(i).Addr(), Identity: model.IdentityID(i%200 + 1)})
		}
		for i := range verdicts {
			testkit.PutPolicy(b, d, model.Verdict{
				VerdictKey: model.VerdictKey{RuleSet: model.RuleSetID(i/4 + 1), Identity: model.IdentityID(i%4 + 1)}, Action: model.ActionAllow,
			})
		}
		for i := range ports {
			testkit.PutPolicy(b, d, model.PortVerdict{
				PortKey: model.PortKey{Ports: model.PortsID(i + 1), Protocol: model.TCP, Port: 80, Bits: 16}, Action: model.ActionAllow,
			})
		}
		for i := range endpoints {
			testkit.PutPolicy(b, d, testkit.Pod{Addr: vip(i).Addr(), Ingress: 1, Egress: 2})
		}
	}
	all := 0.0
	for _, m := range []abi.Map{abi.Endpoints, abi.Peers, abi.Verdicts, abi.PortVerdicts} {
		size := mapMegabytes(b, d.Map(m))
		all += size
		b.ReportMetric(size, m.String()+"-MB")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(all, "MB")
	b.ReportMetric(mapMegabytes(b, d.maps[connectionsMap])*1e6/float64(d.maps[connectionsMap].MaxEntries()), "bytes/connection")
}

func benchTables(b *testing.B, services int) {
	b.Helper()
	d, err := Load(Options{Flows: 1024, Capacities: benchCapacities(uint32(services))})
	check(b, err)
	defer d.Close()
	for b.Loop() {
		for i := range services {
			id := uint32(i + 1)
			testkit.Put(b, d, testkit.Service{
				Set: id, Protocol: model.TCP, Frontends: []netip.AddrPort{vip(i)}, Backends: map[uint32]netip.AddrPort{id: vip(i)},
			})
		}
	}
	all := 0.0
	for _, m := range []abi.Map{abi.Frontends, abi.Sets, abi.Slots, abi.Backends} {
		size := mapMegabytes(b, d.Map(m))
		all += size
		b.ReportMetric(size, m.String()+"-MB")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(all, "MB")
	b.ReportMetric(all*1e6/float64(services), "bytes/service")
}

func benchFlowMemory(b *testing.B, flows uint32) {
	b.Helper()
	d, err := Load(Options{Flows: flows})
	check(b, err)
	defer d.Close()
	var size float64
	for b.Loop() {
		size = mapMegabytes(b, d.maps[flowsMap])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(size, "MB")
	b.ReportMetric(size*1e6/float64(d.maps[flowsMap].MaxEntries()), "bytes/entry")
}

// mapMegabytes returns what a map takes, of 10^6 bytes.
func mapMegabytes(b *testing.B, m *ebpf.Map) float64 {
	b.Helper()
	info, err := m.Info()
	check(b, err)
	bytes, ok := info.Memlock()
	if !ok {
		b.Skip("this kernel does not tell what maps take")
	}
	return float64(bytes) / 1e6
}
