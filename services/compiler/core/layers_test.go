// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// TestPoliciesAreInTheLayersOfTheNodesThatHaveBackends changes one endpoint of a Service with policy Local.
func TestPoliciesAreInTheLayersOfTheNodesThatHaveBackends(t *testing.T) {
	w := shop(t, Options{}, 100, 1)
	w.facts(openService(7, true), placed(sliceFact(7, 0, 6, start)))
	w.pass(time.Second)
	w.checkConverged()
	w.forget()
	units := w.core.Stats().Units
	w.facts(placed(sliceFact(7, 0, 7, w.now))) // the seventh is on n0
	w.pass(time.Second)
	w.checkConverged()
	if n := w.core.Stats().Units - units; n != 1 {
		t.Errorf("%d units were compiled for one endpoint, want 1", n)
	}
	for _, test := range []struct {
		layer  model.Layer
		deltas int
	}{{model.ClusterLayer, 1}, {model.NodeLayer("n0"), 1}, {model.NodeLayer("n1"), 0}, {model.NodeLayer("n2"), 0}} {
		heard := w.heard(test.layer)
		if len(heard) != test.deltas {
			t.Errorf("%d deltas of layer %s, want %d", len(heard), test.layer, test.deltas)
			continue
		}
		for _, d := range heard {
			if causes := d.GetCauses(); len(causes) != 1 || causes[0].GetObject().GetName() != "s7-abcde" {
				t.Errorf("the delta of layer %s has causes %v, want the slice", test.layer, causes)
			}
		}
	}
}

// TestViewsReachNodesBeforeWhatCountsOnThem edits a traffic policy, there and back.
func TestViewsReachNodesBeforeWhatCountsOnThem(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	slice := sliceFact(1, 0, 2, start)
	for i, e := range slice.GetEndpointSlice().GetEndpoints() {
		e.Node = fmt.Sprint("n", i)
	}
	w.facts(openService(1, false), slice)
	w.pass(time.Second)
	for _, test := range []struct {
		local bool
		want  []string
	}{{true, []string{"node.n0", "node.n1", "cluster"}}, {false, []string{"cluster", "node.n0", "node.n1"}}} {
		w.forget()
		w.facts(openService(1, test.local))
		w.pass(time.Second)
		w.checkConverged()
		var got []string
		for _, m := range w.published {
			if layer, is := strings.CutPrefix(m.Subject, "deltaplane.v1.apply."); is {
				got = append(got, layer)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("layers in order, local %v (-want +got):\n%s", test.local, diff)
		}
	}
}

// TestEachRowThatChangedUnseenNamesItsObject changes objects while no compiler leads.
func TestEachRowThatChangedUnseenNamesItsObject(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	before := append(shopFacts(3, 1), nodeFact("n0", "z0"), nodeFact("n1", "z0"), hostPortFact("h", "n1", 8080))
	before = append(before, openService(1, true), placed(sliceFact(1, 0, 2, start)))
	w.facts(before...)
	w.pass(time.Second)
	w.restart(Options{})
	w.forget()
	w.facts(before...)
	w.facts(openService(1, false), nodeFact("n1", "z1"), &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Cluster", Name: "cluster"},
		State:  &schemas.Fact_Cluster{Cluster: &schemas.Cluster{ServiceCidrs: []*schemas.Found{{Value: "10.96.0.0/12"}}}},
	})
	w.core.pending = pending{} // as if none of them had been heard of
	w.ready()
	w.pass(time.Second)
	w.checkConverged()
	for layer, want := range map[model.Layer][]string{
		model.ClusterLayer: {"Cluster cluster", "Service s1"}, model.NodeLayer("n0"): {"Service s1"}, model.NodeLayer("n1"): {"Node n1", "Service s1"},
	} {
		var got []string
		for _, d := range w.heard(layer) {
			for _, c := range d.GetCauses() {
				got = append(got, c.GetObject().GetKind()+" "+c.GetObject().GetName())
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("causes of layer %s (-want +got):\n%s", layer, diff)
		}
	}
}
