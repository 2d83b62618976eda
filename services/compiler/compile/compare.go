// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Compare compiles everything and returns what turns the rows there are into that: the same as comparing them
// with Full, without holding everything a second time. It is for the start, where rows come from the log, and
// for checks. The SetAside of the result has only units that have something set aside.
func Compare(snap *state.Snapshot, alloc *ids.Allocator, rows map[model.Layer]*model.Tables) Difference {
	d := Difference{Changes: map[model.Layer]*model.Change{}, SetAside: map[Unit][]state.SetAside{}}
	cluster := comparison{rows: tables(rows, model.ClusterLayer), alloc: alloc, change: d.change(model.ClusterLayer), frontends: map[model.FrontendKey]bool{}}
	for svc := range snap.Services() {
		unit := compileService(snap, svc.Name)
		for _, s := range unit.sets {
			cluster.set(s)
		}
		d.compiled(ServiceUnit(svc.Name), unit.aside)
	}
	cluster.leftOver()
	named := nodesWithPods(snap)
	for _, name := range named {
		unit := compileNode(snap, name)
		d.compareNode(tables(rows, model.NodeLayer(name)), name, unit.endpoints)
		d.compiled(NodeUnit(name), unit.aside)
	}
	for layer := range rows {
		if layer.Kind == model.LayerNode && d.Changes[layer] == nil {
			d.compareNode(rows[layer], layer.Name, nil)
		}
	}
	d.tidy()
	return d
}

func (d *Difference) compiled(unit Unit, aside []state.SetAside) {
	d.Units++
	if len(aside) > 0 {
		d.SetAside[unit] = aside
	}
}

func (d *Difference) compareNode(rows *model.Tables, name string, endpoints []model.Endpoint) {
	c := d.change(model.NodeLayer(name))
	wanted := make(map[netip.Addr]bool, len(endpoints))
	for _, e := range endpoints {
		wanted[e.Addr] = true
		if rows.Endpoints[e.Addr] != e {
			c.Put.Endpoints = append(c.Put.Endpoints, e)
		}
	}
	for addr := range rows.Endpoints {
		if !wanted[addr] {
			c.Remove.Endpoints = append(c.Remove.Endpoints, addr)
		}
	}
}

func tables(rows map[model.Layer]*model.Tables, l model.Layer) *model.Tables {
	if t := rows[l]; t != nil {
		return t
	}
	return &model.Tables{}
}

// comparison is the rows of the cluster layer and which of them are wanted. Ids are dense, so that a bit each
// does.
type comparison struct {
	rows   *model.Tables
	alloc  *ids.Allocator
	change *model.Change

	frontends               map[model.FrontendKey]bool
	sets, backends, members bits
}

func (c *comparison) set(s set) {
	row := model.BackendSet{ID: c.alloc.Set(s.key), SetKey: s.key}
	c.sets.add(uint32(row.ID))
	if c.rows.Sets[row.ID] != row {
		c.change.Put.Sets = append(c.change.Put.Sets, row)
	}
	for _, key := range s.frontends {
		c.frontends[key] = true
		if f := frontendRow(key, row.ID); c.rows.Frontends[key] != f {
			c.change.Put.Frontends = append(c.change.Put.Frontends, f)
		}
	}
	for _, b := range s.backends {
		c.backend(row.ID, b)
	}
}

func (c *comparison) backend(set model.SetID, b backend) {
	row := backendRow(c.alloc, set, b)
	c.backends.add(uint32(row.ID))
	if c.rows.Backends[row.ID] != row {
		c.change.Put.Backends = append(c.change.Put.Backends, row)
	}
	if !b.member {
		return
	}
	c.members.add(uint32(row.ID))
	member := model.Member{Set: set, Backend: row.ID}
	if _, held := c.rows.Members[member]; !held {
		c.change.Put.Members = append(c.change.Put.Members, member)
	}
}

// leftOver removes the rows that nothing wanted.
func (c *comparison) leftOver() {
	gone := &c.change.Remove
	moved := map[model.BackendID]model.SetID{}
	for _, row := range c.change.Put.Backends {
		if held, is := c.rows.Backends[row.ID]; is && held.Set != row.Set {
			moved[row.ID] = row.Set
		}
	}
	for key := range c.rows.Frontends {
		if !c.frontends[key] {
			gone.Frontends = append(gone.Frontends, key)
		}
	}
	for id := range c.rows.Sets {
		if !c.sets.has(uint32(id)) {
			gone.Sets = append(gone.Sets, id)
		}
	}
	for id := range c.rows.Backends {
		if !c.backends.has(uint32(id)) {
			gone.Backends = append(gone.Backends, id)
		}
	}
	for m := range c.rows.Members {
		set, other := moved[m.Backend]
		if !other {
			set = c.rows.Backends[m.Backend].Set
		}
		if !c.members.has(uint32(m.Backend)) || m.Set != set {
			gone.Members = append(gone.Members, m)
		}
	}
}

// bits is a set of small numbers.
type bits struct{ words []uint64 }

func (b *bits) add(n uint32) {
	for int(n/64) >= len(b.words) {
		b.words = append(b.words, 0)
	}
	b.words[n/64] |= 1 << (n % 64)
}

func (b *bits) has(n uint32) bool {
	return int(n/64) < len(b.words) && b.words[n/64]&(1<<(n%64)) != 0
}
