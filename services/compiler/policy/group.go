// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// group is the pods that a selector of namespaces and one of pods select together, for policies that have them as
// subjects or as peers.
type group struct {
	state.PodPeer
	scope    *scope
	demand   []label // the pods have one of these labels; none is no demand
	shapes   map[*shape]bool
	subjects map[*policy]bool // the policies in force that select it
	peers    *atom            // of those who name the pods
	ports    map[portName]*atom
}

// portName is a named port; all pods together may have different numbers for it.
type portName struct {
	name     string
	protocol model.Protocol
}

// group returns the group of a selection, which is made if it is new. Who doesn't use it then must drop it.
func (e *Engine) group(peer state.PodPeer) *group {
	if g := e.groups[peer]; g != nil {
		return g
	}
	g := &group{
		PodPeer: peer, scope: e.scope(peer.Namespaces), demand: demandOf(peer.Pods), shapes: map[*shape]bool{},
		subjects: map[*policy]bool{}, ports: map[portName]*atom{},
	}
	e.groups[peer] = g
	g.scope.add(g)
	for s := range g.scope.spaces {
		for shape := range s.shapes {
			if g.Pods.Matches(shape.labels) {
				shape.groups = append(shape.groups, g)
				g.shapes[shape] = true
			}
		}
	}
	return g
}

// tidy forgets a group that nobody uses.
func (e *Engine) tidy(g *group) {
	if len(g.subjects) > 0 || g.peers != nil || len(g.ports) > 0 {
		return
	}
	for shape := range g.shapes {
		shape.groups = without(shape.groups, g)
	}
	g.scope.remove(g)
	delete(e.groups, g.PodPeer)
	if g.scope.groups == 0 {
		e.dropScope(g.scope)
	}
}

// demandOf returns the labels of which a selector demands one: those of its term with the fewest values.
func demandOf(selector state.Selector) (labels []label) {
	for _, t := range selector.Terms() {
		if t.Operator != state.In || labels != nil && len(t.Values) >= len(labels) {
			continue
		}
		labels = labels[:0]
		for _, value := range t.Values {
			labels = append(labels, label{t.Key, value})
		}
	}
	return labels
}

func (c *scope) add(g *group) {
	c.groups++
	if len(g.demand) == 0 {
		c.others = append(c.others, g)
	}
	for _, l := range g.demand {
		c.byLabel[l] = append(c.byLabel[l], g)
	}
}

func (c *scope) remove(g *group) {
	c.groups--
	c.others = without(c.others, g)
	for _, l := range g.demand {
		if c.byLabel[l] = without(c.byLabel[l], g); len(c.byLabel[l]) == 0 {
			delete(c.byLabel, l)
		}
	}
}

// match appends the groups of a scope that a shape is in.
func (c *scope) match(s *shape, groups []*group) []*group {
	for _, g := range c.others {
		if g.Pods.Matches(s.labels) {
			groups = append(groups, g)
		}
	}
	if len(c.byLabel) == 0 {
		return groups
	}
	for key, value := range s.labels.All() {
		for _, g := range c.byLabel[label{key, value}] {
			if g.Pods.Matches(s.labels) {
				groups = append(groups, g)
			}
		}
	}
	return groups
}
