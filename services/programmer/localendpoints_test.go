// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/healthcheck"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// here is a node's layer with a local part of web's set that has some backends.
func here(flags model.SetFlags, backends ...model.BackendState) *model.Tables {
	t := model.NewTables()
	s := model.BackendSet{ID: 11, Root: 1, Flags: flags, SetKey: model.SetKey{
		Service: model.ServicePort{Namespace: "shop", Name: "web", Port: 80, Protocol: model.TCP},
		Family:  model.IPv4, Scope: model.ScopeLocal, Place: model.PlaceOf("node.a"),
	}}
	t.Sets[s.ID] = s
	v := model.View{ViewKey: model.ViewKey{Set: 1, Scope: model.ScopeLocal}, Target: s.ID}
	t.Views[v.ViewKey] = v
	for i, state := range backends {
		b := model.Backend{ID: model.BackendID(100 + i), State: state, BackendKey: model.BackendKey{
			Set: 1, Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), Port: 8080, Place: s.Place,
		}}
		t.Backends[b.ID] = b
		m := model.Member{Set: s.ID, Backend: b.ID}
		t.Members[m] = m
	}
	return t
}

func stateOf(t *testing.T, cluster, node *model.Tables) *plan.State {
	t.Helper()
	s := plan.Empty()
	for kind, rows := range map[model.LayerKind]*model.Tables{model.LayerCluster: cluster, model.LayerNode: node} {
		if _, err := s.Apply(plan.Capacities{}, plan.LayerChange{Kind: kind, Change: &model.Change{Put: rows.Rows()}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestHealthChecksCountReadyEndpointsOfTheNode(t *testing.T) {
	for _, test := range []struct {
		name string
		node *model.Tables
		want int
	}{
		{"none is here", model.NewTables(), 0},
		{"two are here", here(0, model.BackendActive, model.BackendActive), 2},
		{"one of two terminates", here(0, model.BackendActive, model.BackendTerminating), 1},
		{"all terminate", here(model.Fallback, model.BackendTerminating), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster := web(3)
			cluster.HealthChecks[30100] = model.HealthCheck{Port: 30100, Namespace: "shop", Name: "web"}
			got := healthChecks(stateOf(t, cluster, test.node))
			want := []healthcheck.Check{{Port: 30100, Namespace: "shop", Name: "web", Endpoints: test.want}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServicesWithoutLocalEndpointsAreCounted(t *testing.T) {
	cluster := web(3)
	for key, f := range cluster.Frontends {
		f.Flags = model.InternalLocal
		cluster.Frontends[key] = f
	}
	for name, test := range map[string]struct {
		node *model.Tables
		want int
	}{
		"none is here": {model.NewTables(), 1},
		"one is here":  {here(0, model.BackendActive), 0},
	} {
		if internal, external := withoutLocal(stateOf(t, cluster, test.node)); internal != test.want || external != 0 {
			t.Errorf("%s: %d for inside and %d for outside, want %d and 0", name, internal, external, test.want)
		}
	}
}
