// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestServicesAreCounted: flows from outside that begin by how they go on, and drops by reason.
func TestServicesAreCounted(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	putServices(t, d)
	const service, empty = "10.96.0.1:80", "10.96.0.9:80"
	for i := range 5 {
		pod, outside := fmt.Sprintf("10.1.0.9:%d", 4000+i), fmt.Sprintf("198.51.100.7:%d", 4000+i)
		for range 2 { // the second is no new flow
			for _, p := range []struct {
				run   func([]byte, int) (Verdict, []byte, error)
				frame []byte
			}{
				{d.RunFromPod, frame(t, model.TCP, pod, service, "S", 0)},
				{d.RunFromUplink, frame(t, model.TCP, outside, service, "S", 0)},
			} {
				if verdict, _, err := p.run(p.frame, 0); err != nil || verdict != Pass {
					t.Fatalf("%v, %v", verdict, err)
				}
			}
		}
		_, _, err := d.RunFromPod(frame(t, model.TCP, pod, empty, "S", 0), 0)
		check(t, err)
	}
	want := map[abi.CountKey]uint64{
		{Set: 1, Forwarding: abi.ForwardedSNAT}:        5,
		{Set: 3, Reason: uint8(model.ReasonNoBackend)}: 5,
	}
	got, uncounted, err := d.ServiceCounts()
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" || uncounted != 0 {
		t.Errorf("%d uncounted; counts (-want +got):\n%s", uncounted, diff)
	}
	check(t, d.ForgetCounts([]abi.CountKey{{Set: 3, Reason: uint8(model.ReasonNoBackend)}, {Set: 77}}))
	if got, _, err = d.ServiceCounts(); err != nil || len(got) != 1 {
		t.Errorf("after forgetting: %v, %v", got, err)
	}
}

// TestCountsWithoutRoom: the totals miss nothing, and it is said how much Services' own counts miss.
func TestCountsWithoutRoom(t *testing.T) {
	testkit.NeedKernel(t)
	d, err := Load(Options{Capacities: small, Flows: 1024, ServiceCounts: 1})
	check(t, err)
	t.Cleanup(d.Close)
	putServices(t, d)
	const drops = 7
	for i := range drops {
		for _, service := range []string{"10.96.0.9:80", "10.96.0.1:80"} { // the first takes the room there is
			_, _, err := d.RunFromUplink(frame(t, model.TCP, fmt.Sprintf("198.51.100.7:%d", 4000+i), service, "S", 0), 0)
			check(t, err)
		}
	}
	counts, uncounted, err := d.ServiceCounts()
	check(t, err)
	totals, err := d.DropCounts()
	check(t, err)
	if len(counts) != 1 || counts[abi.CountKey{Set: 3, Reason: uint8(model.ReasonNoBackend)}] != drops || uncounted != drops || totals[model.ReasonNoBackend] != drops {
		t.Errorf("counts %v, %d uncounted, totals %v; want %d of each", counts, uncounted, totals, drops)
	}
}

// TestServicesAreCountedByTheirWayToForward: a flow counts once, by where its backend is and how it is got there; what can't go
// on to another node is a drop of its Service.
func TestServicesAreCountedByTheirWayToForward(t *testing.T) {
	testkit.NeedKernel(t)
	const outside, service, backend = "198.51.100.7:4000", "10.96.0.1:80", "10.1.0.1:8080"
	counted := func(f abi.Forwarding) abi.CountKey { return abi.CountKey{Set: 1, Forwarding: f} }
	noWay := abi.CountKey{Set: 1, Reason: uint8(model.ReasonNoWay)}
	for _, c := range []struct {
		name  string
		flags model.FrontendFlags
		node  uint32 // the backend's. This one is 1, and 3 is one that nobody knows
		hops  byte
		want  map[abi.CountKey]uint64 // of two packets of one flow
	}{
		{"local", model.ForwardTunnel, 1, 64, map[abi.CountKey]uint64{counted(abi.ForwardedLocal): 1}},
		{"tunnel", model.ForwardTunnel, 2, 64, map[abi.CountKey]uint64{counted(abi.ForwardedTunnel): 1}},
		{"dsr", model.ForwardDSR, 2, 64, map[abi.CountKey]uint64{counted(abi.ForwardedDSR): 1}},
		{"snat", 0, 2, 64, map[abi.CountKey]uint64{counted(abi.ForwardedSNAT): 1}},
		{"to an unknown node", model.ForwardDSR, 3, 64, map[abi.CountKey]uint64{counted(abi.ForwardedSNAT): 1}},
		{"without hops", model.ForwardDSR, 2, 1, map[abi.CountKey]uint64{counted(abi.ForwardedDSR): 1, noWay: 2}},
	} {
		d, err := Load(Options{Capacities: small, Flows: 1024, Node: 1, Tunnel: Tunnel{VNI: 7}})
		check(t, err)
		t.Cleanup(d.Close)
		putServices(t, d)
		putForwarded(t, d, service, backend, c.node, c.flags)
		check(t, d.TellTunnel(9))
		for _, flags := range []string{"S", "A"} {
			packet := frame(t, model.TCP, outside, service, flags, 9)
			packet[14+8] = c.hops // TTL
			_, _, err := d.RunFromUplink(packet, 0)
			check(t, err)
		}
		got, _, err := d.ServiceCounts()
		check(t, err)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
