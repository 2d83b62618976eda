// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Output is what a whole state comes to.
type Output struct {
	// Layers has the cluster layer, and the layer of each node that has rows.
	Layers map[model.Layer]*model.Tables
	// SetAside are the objects that aren't compiled, or not wholly: those that are invalid, and those that
	// lost an address to another.
	SetAside []state.SetAside
	// ByUnit has those of SetAside that are due to one unit.
	ByUnit map[Unit][]state.SetAside
	// Units counts the units compiled.
	Units int
}

// Full compiles everything. What has no id yet gets one, in order of names; what alloc knows keeps its id.
func Full(snap *state.Snapshot, alloc *ids.Allocator) Output {
	cluster := model.NewTables()
	out := Output{
		Layers: map[model.Layer]*model.Tables{model.ClusterLayer: cluster}, ByUnit: map[Unit][]state.SetAside{},
	}
	for row := range snap.SetAside() {
		out.SetAside = append(out.SetAside, *row)
	}
	for svc := range snap.Services() {
		unit := compileService(snap, svc.Name)
		for _, s := range unit.sets {
			putSet(cluster, alloc, model.BackendSet{ID: alloc.Set(s.key), SetKey: s.key}, s)
		}
		out.add(ServiceUnit(svc.Name), unit.aside)
	}
	for _, name := range nodesWithPods(snap) {
		unit := compileNode(snap, name)
		out.add(NodeUnit(name), unit.aside)
		if len(unit.endpoints) == 0 {
			continue
		}
		tables := model.NewTables()
		for _, e := range unit.endpoints {
			tables.Endpoints[e.Addr] = e
		}
		out.Layers[model.NodeLayer(name)] = tables
	}
	return out
}

func (o *Output) add(unit Unit, aside []state.SetAside) {
	o.Units++
	if len(aside) > 0 {
		o.SetAside = append(o.SetAside, aside...)
		o.ByUnit[unit] = aside
	}
}

func putSet(t *model.Tables, alloc *ids.Allocator, row model.BackendSet, s set) {
	t.Sets[row.ID] = row
	for _, key := range s.frontends {
		t.Frontends[key] = frontendRow(key, row.ID)
	}
	for _, b := range s.backends {
		r := backendRow(alloc, row.ID, b)
		t.Backends[r.ID] = r
		if b.member {
			m := model.Member{Set: row.ID, Backend: r.ID}
			t.Members[m] = m
		}
	}
}

func frontendRow(key model.FrontendKey, set model.SetID) model.Frontend {
	return model.Frontend{FrontendKey: key, Set: set, Kind: model.FrontendClusterIP}
}

func backendRow(alloc *ids.Allocator, set model.SetID, b backend) model.Backend {
	key := backendKey(set, b)
	return model.Backend{ID: alloc.Backend(key), BackendKey: key, State: b.state}
}

func backendKey(set model.SetID, b backend) model.BackendKey {
	return model.BackendKey{Set: set, Addr: b.at.Addr(), Port: b.at.Port()}
}

func nodesWithPods(snap *state.Snapshot) []string {
	names := map[string]bool{}
	for pod := range snap.Pods() {
		if pod.Node != "" {
			names[pod.Node] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func cutPod(pod string) (namespace, name string) {
	namespace, name, _ = strings.Cut(pod, "/")
	return namespace, name
}
