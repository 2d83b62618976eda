// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Stage is one revision's changes by layer; none is empty. Tables are whole after it.
type Stage map[model.Layer]*model.Change

// Update takes in what changed and returns how rows change, in order:
//
//  1. pods, namespaces and nodes under the policies that were in force, but for pointers of endpoints that stay;
//  2. refine: classes split by the terms of new policies; no verdict changes;
//  3. switch: endpoints point at the rule sets of the new policies, and of their new labels;
//  4. coarsen: classes merge that only old policies told apart; no verdict changes.
//
// Stages without changes are left out. New endpoints come with the policies that select them now: a pod that is made
// together with its policy passes nothing without it.
func (e *Engine) Update(after *state.Snapshot, changed state.Policed) (stages []Stage) {
	stage := func() {
		if s := e.stage(); len(s) > 0 {
			stages = append(stages, s)
		}
	}
	edits := e.edits(after, changed.Policies)
	e.world(after, changed)
	e.repartition()
	e.depart()
	if len(edits) == 0 {
		e.settleAll(false)
	}
	e.deploy()
	stage()
	for i := range edits {
		edits[i].begin(e)
	}
	e.repartition()
	stage()
	for i := range edits {
		edits[i].enact(e)
	}
	e.settleAll(true)
	e.deploy()
	stage()
	for i := range edits {
		edits[i].end(e)
	}
	e.repartition()
	stage()
	e.tidyNodes()
	return stages
}

// edit is a policy before and after; nil is absent.
type edit struct {
	row      *state.Policy
	old, now *policy
}

func (e *Engine) edits(after *state.Snapshot, names []model.PolicyName) (list []edit) {
	seen := map[model.PolicyName]bool{}
	for _, name := range names {
		row, _ := after.Policy(name)
		old := e.policies[name]
		if seen[name] || row == nil && old == nil || old != nil && old.row == row {
			continue
		}
		seen[name] = true
		list = append(list, edit{row: row, old: old})
	}
	return list
}

func (d *edit) begin(e *Engine) {
	if d.row != nil {
		d.now = e.adopt(d.row)
	}
}

func (d *edit) enact(e *Engine) {
	if d.now != nil {
		e.enact(d.now)
	}
	if d.old != nil {
		e.repeal(d.old)
	}
}

func (d *edit) end(e *Engine) {
	if d.old != nil {
		e.abandon(d.old)
	}
}

// world takes in pods, namespaces and nodes.
func (e *Engine) world(after *state.Snapshot, changed state.Policed) {
	for _, name := range changed.Namespaces {
		if s := e.spaces[name]; s != nil {
			e.relabel(s, after.NamespaceLabels(name))
		}
	}
	for _, name := range changed.Pods {
		row, _ := after.Pod(name)
		e.seePod(after, name, row)
	}
	for _, name := range changed.Nodes {
		row, _ := after.Node(name)
		e.seeNode(name, row)
	}
}

// seePod takes in what a pod is now; nil if it is gone.
func (e *Engine) seePod(after *state.Snapshot, name state.Name, row *state.Pod) {
	if row != nil && len(row.Attached()) == 0 {
		row = nil // neither subject nor peer
	}
	p := e.pods[name]
	if p != nil {
		if p.row == row {
			return
		}
		e.disclaim(p)
		e.shed(p)
		if p.node != nil {
			p.node.pods--
			e.left = append(e.left, p.node)
		}
	}
	if row == nil {
		delete(e.pods, name)
		return
	}
	if p == nil {
		p = &pod{}
		e.pods[name] = p
	}
	p.row, p.node = row, nil
	if row.Node != "" {
		p.node = e.node(row.Node)
		p.node.pods++
	}
	e.wear(p, after.NamespaceLabels(row.Namespace))
	e.claim(p)
}

// depart takes the endpoints of pods away that are gone, or that another pod has the address of.
func (e *Engine) depart() {
	for a := range e.unsettled {
		e.detach(a, func(x *endpoint) bool { return !x.is(a.on(x.node)) })
	}
}

// settleAll makes endpoints of the addresses that may have changed what they should be.
func (e *Engine) settleAll(pointers bool) {
	for a := range e.unsettled {
		if e.settle(a, pointers) {
			delete(e.unsettled, a)
		}
	}
}

// stage returns what changed since the last one.
func (e *Engine) stage() Stage {
	s := Stage{}
	for _, n := range e.dirty {
		if c := n.delta.finish(); !c.Empty() {
			s[model.NodeLayer(n.name)] = c
		}
		n.delta = nil
	}
	e.dirty = nil
	return s
}

// Load compiles everything. It takes over the numbers of identities that nodes' layers, by node, have already, and
// returns their rows of policy, with all endpoints. The engine must be new.
func (e *Engine) Load(snap *state.Snapshot, known map[string]*model.Tables) map[string]*model.Tables {
	for row := range snap.Policies() {
		e.enact(e.adopt(row))
	}
	for row := range snap.Nodes() {
		e.seeNode(row.Name.Name, row)
	}
	for row := range snap.Pods() {
		e.seePod(snap, row.Name, row)
	}
	e.repartition()
	e.renumber(known)
	for _, n := range e.nodes {
		e.delta(n).fresh = model.NewTables()
	}
	e.settleAll(true)
	e.deploy()
	e.unnumberAll()
	tables := map[string]*model.Tables{}
	for _, n := range e.dirty {
		if t := n.delta.whole(); t.Len() > 0 {
			tables[n.name] = t
		}
		n.delta = nil
	}
	e.dirty = nil
	return tables
}

// Selected returns the policies that select a pod, in the order in which they are asked.
func (e *Engine) Selected(name state.Name) (ingress, egress []model.PolicyName) {
	p := e.pods[name]
	if p == nil {
		return nil, nil
	}
	for _, part := range p.shape.selecting(model.Ingress) {
		ingress = append(ingress, part.policy.row.PolicyName)
	}
	for _, part := range p.shape.selecting(model.Egress) {
		egress = append(egress, part.policy.row.PolicyName)
	}
	return ingress, egress
}
