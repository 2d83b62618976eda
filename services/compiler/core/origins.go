// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// causesOf returns the causes of a change that was found by comparing rows, not by compiling units: those that
// wait for the objects whose rows change, and the objects themselves where none does (what changed while no
// compiler led).
func (c *Core) causesOf(l model.Layer, change *model.Change) causes {
	units := c.unitsOf(l, change)
	found := gather(c.pending.ofUnits(units))
	for _, u := range units {
		if c.pending.units[u] == nil {
			found.add(c.objectOf(u))
		}
	}
	if policed(change) {
		c.policyCauses(&found, l, change)
	}
	return found
}

// objectOf returns the object that a unit is about, as a cause.
func (c *Core) objectOf(u compile.Unit) model.Cause {
	switch {
	case u.Number != 0:
		for node := range c.compiled.NodesNumbered(u.Number) {
			return model.Cause{Kind: state.KindNode, Name: node.Name.Name}
		}
		return model.Cause{Kind: state.KindCluster, Name: "cluster"} // which name had it isn't known any more
	case u.Network.IsValid():
		for node := range c.compiled.NodesWith(u.Network) {
			return model.Cause{Kind: state.KindNode, Name: node.Name.Name}
		}
		return model.Cause{Kind: state.KindCluster, Name: "cluster"}
	case u.Node != "":
		return model.Cause{Kind: state.KindNode, Name: u.Node}
	}
	_, exists := c.compiled.Service(u.Service)
	return model.Cause{Kind: state.KindService, Namespace: u.Service.Namespace, Name: u.Service.Name, Deleted: !exists}
}

// unitsOf returns the units whose rows a change of one layer puts or removes, in order.
func (c *Core) unitsOf(l model.Layer, change *model.Change) []compile.Unit {
	o := origins{layer: l, before: c.rows(l), cluster: c.rows(model.ClusterLayer), units: map[compile.Unit]bool{}}
	o.put = make(map[model.SetID]model.BackendSet, len(change.Put.Sets))
	for _, s := range change.Put.Sets {
		o.put[s.ID] = s
	}
	o.rows(&change.Put)
	o.keys(&change.Remove)
	return slices.SortedFunc(maps.Keys(o.units), compile.Unit.Compare)
}

// origins finds the units that rows of one layer come from.
type origins struct {
	layer           model.Layer
	before, cluster *model.Tables
	put             map[model.SetID]model.BackendSet
	units           map[compile.Unit]bool
}

// set adds the unit of a set, as it was and as it will be. A node's layer has rows of roots in the cluster's.
func (o *origins) set(id model.SetID) {
	for _, s := range []model.BackendSet{o.before.Sets[id], o.put[id], o.cluster.Sets[id]} {
		switch {
		case s.ID == 0:
		case s.Scope == model.ScopeHostPort:
			o.units[compile.NodeUnit(o.layer.Name)] = true
		default:
			o.service(s.Service.Namespace, s.Service.Name)
		}
	}
}

func (o *origins) service(namespace, name string) {
	o.units[compile.ServiceUnit(state.Name{Namespace: namespace, Name: name})] = true
}

func (o *origins) rows(r *model.Rows) {
	for _, row := range r.Sets {
		o.set(row.ID)
	}
	for _, row := range r.Frontends {
		o.set(row.Set)
	}
	for _, row := range r.Backends {
		o.set(row.Set)
	}
	for _, row := range r.Members {
		o.set(row.Set)
	}
	for _, row := range r.Views {
		o.set(row.Set)
	}
	for _, row := range r.SourceRanges {
		o.set(row.Set)
	}
	for _, row := range r.HealthChecks {
		o.service(row.Namespace, row.Name)
	}
	for _, row := range r.Networks {
		o.network(row.Prefix)
	}
	for _, row := range r.Nodes {
		o.number(row.ID)
	}
	o.node(len(r.Selves))
}

func (o *origins) keys(k *model.Keys) {
	for _, id := range k.Sets {
		o.set(id)
	}
	for _, key := range k.Frontends {
		o.set(o.before.Frontends[key].Set)
	}
	for _, id := range k.Backends {
		o.set(o.before.Backends[id].Set)
	}
	for _, m := range k.Members {
		o.set(m.Set)
	}
	for _, v := range k.Views {
		o.set(v.Set)
	}
	for _, r := range k.SourceRanges {
		o.set(r.Set)
	}
	for _, port := range k.HealthChecks {
		if row, held := o.before.HealthChecks[port]; held {
			o.service(row.Namespace, row.Name)
		}
	}
	for _, prefix := range k.Networks {
		o.network(prefix)
	}
	for _, id := range k.Nodes {
		o.number(id)
	}
	o.node(len(k.Selves))
}

func (o *origins) network(prefix netip.Prefix) { o.units[compile.NetworkUnit(prefix)] = true }

func (o *origins) number(id model.NodeID) { o.units[compile.NumberUnit(id)] = true }

func (o *origins) node(rows int) {
	if rows > 0 && o.layer.Kind == model.LayerNode {
		o.units[compile.NodeUnit(o.layer.Name)] = true
	}
}
