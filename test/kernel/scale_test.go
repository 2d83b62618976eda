// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// The size of the large cluster: more Services than 16 bits can count, one of them with many endpoints.
const (
	scaleServices  = 70_000
	scaleEndpoints = 10_000
)

// Row 23: 70,000 Services and one of 10,000 endpoints are compiled, fit the maps of one node as they are made without
// any configuration, and are found by packets; what doesn't fit is refused by name before the first write.
func TestLargeClusterInOneNode(t *testing.T) {
	testkit.NeedKernel(t)
	rows := largeCluster(t)
	plane, err := bpf.Load(bpf.Options{Flows: 1 << 16})
	check(t, err)
	t.Cleanup(plane.Close)
	kernel, err := maps.NewKernel(graceful{plane})
	check(t, err)
	var capacities plan.Capacities
	uses, err := kernel.Use()
	check(t, err)
	for _, use := range uses {
		capacities[use.Map] = int(use.Capacity)
	}
	s, begun := plan.Empty(), time.Now()
	p, err := s.Apply(capacities, plan.LayerChange{Kind: model.LayerCluster, Change: model.Diff(model.NewTables(), rows)})
	check(t, err)
	planned := time.Since(begun)
	carryOut(t, kernel, p)
	t.Logf("planned %d writes in %s, written after %s", p.Writes(), planned, time.Since(begun))

	for _, i := range []int{0, 1, 65_535, 65_536, scaleServices - 1} {
		if _, got := fromPod(t, plane, segment{from: "10.1.0.9:40000", to: addressOf(10, i) + ":80", syn: true}); got.to != addressOf(11, i)+":8080" {
			t.Errorf("Service %d reached %s", i, got.to)
		}
	}
	picksAreSpread(t, plane)
	refusedByName(t, kernel, s, capacities)
}

// picksAreSpread dials the Service of many endpoints by many clients.
func picksAreSpread(t *testing.T, plane *bpf.Dataplane) {
	t.Helper()
	const picks = 10_000
	reached := map[netip.Addr]int{}
	for i := range picks {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 14), 9}), uint16(10_000+i&0x3fff)).String()
		_, got := fromPod(t, plane, segment{from: client, to: "10.200.0.1:80", syn: true})
		reached[netip.MustParseAddrPort(got.to).Addr()]++
	}
	for addr, n := range reached {
		if i := indexOf(addr); addr.As4()[0] != 12 || i >= scaleEndpoints || n > 15 { // 1 on average
			t.Errorf("%s got %d of %d connections", addr, n, picks)
		}
	}
	// Of as many picks as endpoints, one in e gets none: 3,679.
	if n := len(reached); n < scaleEndpoints*61/100 || n > scaleEndpoints*66/100 {
		t.Errorf("%d picks reached %d endpoints of %d", picks, n, scaleEndpoints)
	}
}

// refusedByName has one Service more than there is room for.
func refusedByName(t *testing.T, kernel *maps.Kernel, s *plan.State, capacities plan.Capacities) {
	t.Helper()
	const full = 2 * (scaleServices + 1) // each has a frontend for its port, and one for all others
	capacities[abi.Frontends] = full
	writes := kernel.Writes()
	set := model.BackendSet{ID: 1 << 31, Root: 1 << 31, SetKey: model.SetKey{
		Service: model.ServicePort{Namespace: "shop", Name: "last", Port: 80, Protocol: model.TCP}, Family: model.IPv4,
	}}
	_, err := s.Apply(capacities, plan.LayerChange{Kind: model.LayerCluster, Change: &model.Change{Put: model.Rows{
		Sets: []model.BackendSet{set},
		Frontends: []model.Frontend{{
			FrontendKey: model.FrontendKey{Addr: netip.MustParseAddr("10.210.0.1"), Port: 80, Protocol: model.TCP}, Set: set.ID, Kind: model.FrontendClusterIP,
		}},
	}}})
	refusal, ok := errors.AsType[*plan.Refusal](err)
	want := fmt.Sprintf("map frontends_v2 has %d of %[1]d entries in use and the change needs 1 more, such as frontend 10.210.0.1:80/TCP", full)
	if !ok || !strings.Contains(refusal.Error(), want) || !strings.Contains(refusal.Error(), "shop/last:80") {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if kernel.Writes() != writes {
		t.Error("something was written nevertheless")
	}
}

// addressOf is a numbered address in a range; indexOf its number.
func addressOf(first byte, i int) string {
	return netip.AddrFrom4([4]byte{first, byte(i >> 16), byte(i >> 8), byte(i)}).String()
}

func indexOf(addr netip.Addr) int {
	b := addr.As4()
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

// largeCluster compiles what objects of a large cluster come to.
func largeCluster(t *testing.T) *model.Tables {
	t.Helper()
	db := state.New()
	facts := make([]*schemas.Fact, 0, 2*scaleServices+scaleEndpoints)
	for i := range scaleServices {
		name := fmt.Sprintf("s%05d", i)
		facts = append(facts, scaleService(name, addressOf(10, i)), scaleSlice(name, name, 11, i, 1))
	}
	facts = append(facts, scaleService("big", "10.200.0.1"))
	for i := 0; i < scaleEndpoints; i += 100 {
		facts = append(facts, scaleSlice(fmt.Sprint("big-", i), "big", 12, i, 100))
	}
	_, err := db.Apply(facts...)
	check(t, err)
	begun := time.Now()
	out := compile.Full(db.Snapshot(), ids.New(ids.DefaultQuarantine), compile.Settings{})
	t.Logf("compiled %d Services in %s", scaleServices+1, time.Since(begun))
	if len(out.SetAside) > 0 {
		t.Fatalf("%d objects set aside, the first: %v", len(out.SetAside), out.SetAside[0])
	}
	return out.Layers[model.ClusterLayer]
}

func scaleService(name, addr string) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: name},
		State: &schemas.Fact_Service{Service: &schemas.Service{
			Type: "ClusterIP", ClusterIps: [][]byte{netip.MustParseAddr(addr).AsSlice()},
			Ports: []*schemas.ServicePort{{Name: "http", Protocol: schemas.Protocol(model.TCP), Port: 80}},
		}},
	}
}

// scaleSlice has endpoints at numbered addresses of a range.
func scaleSlice(name, service string, first byte, from, count int) *schemas.Fact {
	m := &schemas.EndpointSlice{
		Service: service, Family: schemas.IPFamily(model.IPv4),
		Ports: []*schemas.EndpointPort{{Name: "http", Protocol: schemas.Protocol(model.TCP), Port: 8080}},
	}
	for i := range count {
		m.Endpoints = append(m.Endpoints, &schemas.SliceEndpoint{
			Address: netip.MustParseAddr(addressOf(first, from+i)).AsSlice(), Ready: true, Serving: true, Node: fmt.Sprint("n", i%5000),
		})
	}
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "shop", Name: name + "-a"}, State: &schemas.Fact_EndpointSlice{EndpointSlice: m},
	}
}

// carryOut writes what is planned.
func carryOut(t *testing.T, m maps.Maps, p *plan.Plan) {
	t.Helper()
	for _, phase := range p.Phases {
		if phase.Grace {
			check(t, m.Grace())
		}
		for _, batch := range phase.Batches {
			check(t, m.Write(batch))
		}
	}
}

// graceful gives loaded programs the grace period as a method.
type graceful struct{ *bpf.Dataplane }

func (graceful) Grace() error { return bpf.Grace() }
