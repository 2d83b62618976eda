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
}

// Full compiles everything, for those who want to see it all. What has no id yet gets one, in order of names; what alloc knows keeps its id.
func Full(snap *state.Snapshot, alloc *ids.Allocator) Output {
	cluster := model.NewTables()
	out := Output{Layers: map[model.Layer]*model.Tables{model.ClusterLayer: cluster}}
	for row := range snap.SetAside() {
		out.SetAside = append(out.SetAside, *row)
	}
	for svc := range snap.Services() {
		unit := compileService(snap, svc.Name)
		for _, s := range unit.sets {
			putSet(cluster, alloc, model.BackendSet{ID: alloc.Set(s.key), SetKey: s.key}, s)
		}
		out.SetAside = append(out.SetAside, unit.aside...)
	}
	for _, name := range nodesWithPods(snap) {
		unit := compileNode(snap, name)
		out.SetAside = append(out.SetAside, unit.aside...)
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
