// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Output is what a whole state comes to.
type Output struct {
	// Layers has the cluster layer, and the layer of each node that has rows.
	Layers map[model.Layer]*model.Tables
	// SetAside are the objects that aren't compiled, or not wholly: those that are invalid, and those that
	// lost an address to another.
	SetAside []state.SetAside
	// Refused are the policies that are set aside and close the pods that they select, each with why.
	Refused map[model.PolicyName]string
}

// Full compiles everything, for those who want to see it all. What has no id yet gets one, in order of names; what
// alloc knows keeps its id.
func Full(snap *state.Snapshot, alloc *ids.Allocator, settings Settings) Output {
	return FullFrom(snap, alloc, settings, nil)
}

// FullFrom is Full with the identities that rows of nodes' layers in held have.
func FullFrom(snap *state.Snapshot, alloc *ids.Allocator, settings Settings, held map[model.Layer]*model.Tables) Output {
	out := Output{Layers: map[model.Layer]*model.Tables{model.ClusterLayer: model.NewTables()}}
	for row := range snap.SetAside() {
		out.SetAside = append(out.SetAside, *row)
	}
	engine := policy.New(settings.Policy)
	for node, tables := range engine.Load(snap, ofNodes(held)) {
		out.Layers[model.NodeLayer(node)] = tables
	}
	out.SetAside, out.Refused = append(out.SetAside, engine.SetAside()...), engine.Refused()
	for unit := range allUnits(snap, &settings) {
		now := compileUnit(snap, &settings, unit)
		out.SetAside = append(out.SetAside, now.aside...)
		for layer, rows := range now.rows(unit, alloc) {
			if rows.Len() == 0 {
				continue
			}
			if out.Layers[layer] == nil {
				out.Layers[layer] = model.NewTables()
			}
			putRows(out.Layers[layer], rows)
		}
	}
	return out
}

// ofNodes returns those of layers that are nodes', by node.
func ofNodes(layers map[model.Layer]*model.Tables) map[string]*model.Tables {
	nodes := make(map[string]*model.Tables, len(layers))
	for layer, tables := range layers {
		if layer.Kind == model.LayerNode {
			nodes[layer.Name] = tables
		}
	}
	return nodes
}

// putRows is Tables.Apply without its digest, for the rows of units.
func putRows(t *model.Tables, r *model.Rows) {
	put(t.Frontends, r.Frontends)
	put(t.Sets, r.Sets)
	put(t.Backends, r.Backends)
	put(t.Members, r.Members)
	put(t.Views, r.Views)
	put(t.SourceRanges, r.SourceRanges)
	put(t.Networks, r.Networks)
	put(t.HealthChecks, r.HealthChecks)
	put(t.Nodes, r.Nodes)
	put(t.Selves, r.Selves)
}

func put[K comparable, R keyed[K]](table map[K]R, rows []R) {
	for _, row := range rows {
		table[row.Key()] = row
	}
}
