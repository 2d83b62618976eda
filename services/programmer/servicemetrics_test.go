// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// countingPlane counts for Services.
type countingPlane struct{ inMemory }

func (countingPlane) serviceCounts() (map[abi.CountKey]uint64, uint64, error) {
	return map[abi.CountKey]uint64{{Set: 1, Forwarding: abi.ForwardedTunnel}: 2, {Set: 1, Reason: uint8(model.ReasonSourceRange)}: 4}, 3, nil
}

func TestCountsOfServicesAreAnswered(t *testing.T) {
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	c.commit(web(3), false)
	startProgrammer(t, server.URL(), countingPlane{memoryPlane()})
	c.converged()
	request, err := proto.Marshal(&schemas.FlowsRequest{OnlyServices: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = c.conn.RequestMany(t.Context(), schemas.FlowsSubject("node.a"), request, bus.AnswerWithin, func(data []byte) (bool, error) {
		var reply schemas.FlowsReply
		if err := wire.Unmarshal(data, &reply); err != nil {
			return false, err
		}
		for _, s := range reply.GetServices() {
			got = append(got, fmt.Sprintf("%s %s%s %d", s.GetService(), s.GetReason(), s.GetForwarding(), s.GetCount()))
		}
		return !reply.GetLast(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shop/web:80 source_range 4", "shop/web:80 tunnel 2"}, got); diff != "" {
		t.Errorf("answered (-want +got):\n%s", diff)
	}
}

func TestCountsOfServicesThatAreGone(t *testing.T) {
	state := plan.Empty()
	sets := state.Tables(model.LayerCluster).Sets
	for id, set := range web(1).Sets {
		sets[id] = set
		set.Family = model.IPv6
		sets[id+1] = set
	}
	gone := abi.CountKey{Set: 9999, Reason: uint8(model.ReasonNoBackend)}
	counts, forget := names{state, 41}.serviceCounts(map[abi.CountKey]uint64{
		gone: 5, {Set: 1, Forwarding: abi.ForwardedLocal}: 2, {Set: 2, Forwarding: abi.ForwardedLocal}: 3,
	})
	if diff := cmp.Diff([]*schemas.ServiceCount{{Service: "shop/web:80", Forwarding: "local", Count: 5}}, counts, protocmp.Transform()); diff != "" {
		t.Errorf("counts of both families (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]abi.CountKey{gone}, forget); diff != "" {
		t.Errorf("gone (-want +got):\n%s", diff)
	}
	if counts, forget := (names{}).serviceCounts(map[abi.CountKey]uint64{gone: 5}); counts != nil || forget != nil {
		t.Errorf("before the maps are read: %v, %v", counts, forget)
	}
}

func TestServicesWithMetricsAreBounded(t *testing.T) {
	m := newServiceMetrics()
	var counts []*schemas.ServiceCount
	for i := range 2 * servicesMost {
		counts = append(counts, &schemas.ServiceCount{Service: fmt.Sprintf("shop/%04d:80", i), Reason: "no_backend", Count: 1})
	}
	m.set(summedUp(counts), 3)
	if got := testutil.CollectAndCount(m, "deltaplane_service_drops_total"); got != servicesMost+1 {
		t.Errorf("%d series, want one each of %d Services and one of the others", got, servicesMost)
	}
}

// A Service keeps the metrics that it has when others come whose names are before its own; one that comes late gets some
// when another is gone.
func TestServicesKeepTheirMetrics(t *testing.T) {
	m := newServiceMetrics()
	count := func(name string) *schemas.ServiceCount {
		return &schemas.ServiceCount{Service: name, Reason: "no_backend", Count: 1}
	}
	var counts []*schemas.ServiceCount
	for i := range servicesMost {
		counts = append(counts, count(fmt.Sprintf("shop/%04d:80", i)))
	}
	last := counts[servicesMost-1].GetService()
	m.set(counts, 0)
	for _, step := range []struct {
		name  string
		told  []*schemas.ServiceCount
		own   []string
		other []string
	}{
		{"an early name comes", append([]*schemas.ServiceCount{count("early/a:80")}, counts...), []string{last}, []string{"early/a:80"}},
		{"one goes, another comes", append([]*schemas.ServiceCount{count("early/a:80"), count("early/b:80")}, counts[1:]...), []string{last, "early/b:80"}, []string{"early/a:80"}},
	} {
		m.set(step.told, 0)
		for _, name := range step.own {
			if !m.own[name] {
				t.Errorf("%s: %s has no metrics of its own", step.name, name)
			}
		}
		for _, name := range step.other {
			if m.own[name] {
				t.Errorf("%s: %s has metrics of its own", step.name, name)
			}
		}
		if m.owned != servicesMost {
			t.Errorf("%s: %d have metrics of their own", step.name, m.owned)
		}
	}
	m.set(counts[1:], 0) // both that came late are gone, of which one was summed up
	if diff := cmp.Diff([]*schemas.ServiceCount{{Reason: "no_backend", Count: 1}}, m.ended, protocmp.Transform()); diff != "" {
		t.Errorf("summed up of those that are gone (-want +got):\n%s", diff)
	}
}
