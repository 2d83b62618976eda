// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// shape is pods that no selector tells apart: they have the namespace, the labels and the named ports in common.
type shape struct {
	shapeKey
	space  *space
	named  []state.Port
	groups []*group
	terms  termSet
	pods   []*pod

	// sets judge the pods, if known; nil is no policy.
	ingress, egress *ruleSet
	known           bool
}

type shapeKey struct {
	namespace string
	labels    state.Labels
	ports     string // packed
}

// pod is a pod that is subject and peer: it has addresses of its own.
type pod struct {
	row   *state.Pod
	shape *shape
	slot  int // in the shape's list
	node  *node
}

func packPorts(ports []state.Port) string {
	if len(ports) == 0 {
		return ""
	}
	var b []byte
	for _, p := range ports {
		b = append(b, byte(p.Protocol), byte(p.Number>>8), byte(p.Number))
		b = append(append(b, p.Name...), 0)
	}
	return string(b)
}

// number returns the number of a named port; 0 if the pods have none of that name and protocol.
func (s *shape) number(port portName) uint16 {
	for _, p := range s.named {
		if p.Name == port.name && p.Protocol == port.protocol {
			return p.Number
		}
	}
	return 0
}

// wear puts a pod into its shape, which is made if it is new.
func (e *Engine) wear(p *pod, namespace state.Labels) {
	key := shapeKey{p.row.Namespace, p.row.Labels, packPorts(p.row.Ports)}
	s := e.shapes[key]
	if s == nil {
		s = &shape{shapeKey: key, named: p.row.Ports, space: e.space(key.namespace, namespace)}
		e.shapes[key] = s
		s.space.shapes[s] = true
		e.enter(s)
		s.terms = e.termsOf(s)
	}
	p.shape, p.slot = s, len(s.pods)
	s.pods = append(s.pods, p)
}

// shed takes a pod out of its shape, which goes with its last pod.
func (e *Engine) shed(p *pod) {
	s, last := p.shape, len(p.shape.pods)-1
	s.pods[p.slot] = s.pods[last]
	s.pods[p.slot].slot = p.slot
	s.pods[last] = nil
	s.pods = s.pods[:last]
	p.shape = nil
	if last > 0 {
		return
	}
	e.unjudge(s)
	e.leave(s)
	delete(s.space.shapes, s)
	delete(e.shapes, s.shapeKey)
	if len(s.space.shapes) == 0 {
		e.dropSpace(s.space)
	}
}

func (e *Engine) enter(s *shape) {
	for _, c := range s.space.scopes {
		s.groups = c.match(s, s.groups)
	}
	for _, g := range s.groups {
		g.shapes[s] = true
	}
}

func (e *Engine) leave(s *shape) {
	for _, g := range s.groups {
		delete(g.shapes, s)
	}
	s.groups = nil
}

// regroup finds a shape's groups anew: its namespace has other labels.
func (e *Engine) regroup(s *shape) {
	e.leave(s)
	e.enter(s)
	e.reterm(s)
	e.rejudge(s)
}

// retermLater notes that atoms of a group came or went. A policy may bring thousands that are about the same pods: the
// next repartition moves these once.
func (e *Engine) retermLater(g *group) {
	for s := range g.shapes {
		e.partition.shapes[s] = true
	}
}

// reterm moves a shape's addresses if atoms that match them came or went.
func (e *Engine) reterm(s *shape) {
	terms := e.termsOf(s)
	if terms == s.terms {
		return
	}
	s.terms = terms
	for _, p := range s.pods {
		for _, addr := range p.row.Addresses {
			if a := e.addresses[addr]; a != nil && a.owner() == p {
				e.place(a)
			}
		}
	}
}

// rejudge says that other policies may select a shape's pods than did.
func (e *Engine) rejudge(s *shape) {
	e.unjudge(s)
	for _, p := range s.pods {
		for _, addr := range p.row.Addresses {
			if a := e.addresses[addr]; a != nil {
				e.unsettled[a] = true
			}
		}
	}
}

// termsOf returns what atoms in force say about a shape.
func (e *Engine) termsOf(s *shape) termSet {
	var list []term
	for _, g := range s.groups {
		if g.peers != nil {
			list = append(list, g.peers.term)
		}
		for port, a := range g.ports {
			if number := s.number(port); number != 0 {
				list = append(list, e.numbered(a, number))
			}
		}
	}
	return newTermSet(list)
}

// term stands for an atom; if that is about a named port, together with a number of it.
type term uint32

// termSet is terms in order, each once, 4 bytes each, so that it can be compared and be a key.
type termSet string

func newTermSet(list []term) termSet {
	slices.Sort(list)
	var b []byte
	for _, t := range slices.Compact(list) {
		b = binary.BigEndian.AppendUint32(b, uint32(t))
	}
	return termSet(b)
}

func (s termSet) len() int { return len(s) / 4 }

func (s termSet) at(i int) term {
	b := s[4*i : 4*i+4]
	return term(b[0])<<24 | term(b[1])<<16 | term(b[2])<<8 | term(b[3])
}

// selecting returns the policies in force that select a shape in one direction, in the order in which they are asked.
func (s *shape) selecting(d model.Direction) (parts []*part) {
	for _, g := range s.groups {
		for p := range g.subjects {
			if part := p.part(d); part != nil {
				parts = append(parts, part)
			}
		}
	}
	slices.SortFunc(parts, func(a, b *part) int { return a.policy.row.Compare(b.policy.row) })
	return parts
}
