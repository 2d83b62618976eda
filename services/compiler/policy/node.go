// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// node is a node that has pods, or is known to Kubernetes.
type node struct {
	name  string
	row   *state.Node // nil if unknown
	terms termSet     // of its own addresses
	seen  uint64
	pods  int

	sets  map[*ruleSet]int // endpoints that point at it
	ports map[model.PortsID]*held[*portTable]
	rules map[model.RuleID]*held[model.Rule]
	delta *delta
}

// held is a row that others of the node need, and how many do.
type held[R any] struct {
	row  R
	uses int
}

// endpoint is an address of a pod on its node, as the node's layer has it.
type endpoint struct {
	node            *node
	pod             string
	incarnation     uint32
	ingress, egress *ruleSet
}

func (x *endpoint) row(a *address) model.Endpoint {
	return model.Endpoint{
		Addr: a.addr, Pod: x.pod, Incarnation: x.incarnation, Ingress: x.ingress.ID(), Egress: x.egress.ID(),
	}
}

func (e *Engine) node(name string) *node {
	n := e.nodes[name]
	if n == nil {
		n = &node{
			name: name, sets: map[*ruleSet]int{}, ports: map[model.PortsID]*held[*portTable]{},
			rules: map[model.RuleID]*held[model.Rule]{},
		}
		e.nodes[name] = n
	}
	return n
}

// tidyNodes forgets nodes that nothing is known of any more.
func (e *Engine) tidyNodes() {
	for _, n := range e.left {
		if n.row == nil && n.pods == 0 && e.nodes[n.name] == n {
			delete(e.nodes, n.name)
		}
	}
	e.left = nil
}

// seeNode takes in what a Node is now; nil if it is gone.
func (e *Engine) seeNode(name string, row *state.Node) {
	if row == nil && e.nodes[name] == nil {
		return
	}
	n := e.node(name)
	old := n.row
	n.row = row
	n.terms = e.nodeTerms(n)
	if old != nil {
		for _, addr := range old.Addresses {
			if a := e.addresses[addr]; a != nil {
				a.nodes = slices.DeleteFunc(a.nodes, func(m *node) bool { return m == n })
				e.place(a)
			}
		}
	}
	if row == nil {
		e.left = append(e.left, n)
		return
	}
	for _, addr := range row.Addresses {
		a := e.address(addr)
		if i, found := slices.BinarySearchFunc(a.nodes, n, compareNodes); !found {
			a.nodes = slices.Insert(a.nodes, i, n)
		}
		e.place(a)
	}
}

func (e *Engine) nodeTerms(n *node) termSet {
	if n.row == nil {
		return ""
	}
	var list []term
	for a := range e.nodeAtoms {
		if a.atomKey.nodes.Matches(n.row.Labels) {
			list = append(list, a.term)
		}
	}
	return newTermSet(list)
}

// retermNode moves a node's addresses if atoms that match it came or went.
func (e *Engine) retermNode(n *node) {
	terms := e.nodeTerms(n)
	if terms == n.terms {
		return
	}
	n.terms = terms
	for _, addr := range n.row.Addresses {
		e.place(e.addresses[addr])
	}
}

// settle makes the endpoints of an address what they should be, and says whether they are. Those that stay with their
// pod keep their rule sets, unless pointers may change as well.
func (e *Engine) settle(a *address, pointers bool) (settled bool) {
	settled = true
	e.detach(a, func(x *endpoint) bool { return a.on(x.node) == nil })
	for _, p := range a.pods {
		if p.node != nil && a.on(p.node) == p {
			settled = e.attach(a, p, pointers) && settled
		}
	}
	e.forget(a)
	return settled
}

// detach takes endpoints of an address away.
func (e *Engine) detach(a *address, gone func(*endpoint) bool) {
	a.ends = slices.DeleteFunc(a.ends, func(x *endpoint) bool {
		if !gone(x) {
			return false
		}
		e.delta(x.node).endpoint(a.addr, x.row(a), model.Endpoint{})
		e.point(x, nil, nil)
		return true
	})
}

// forget forgets an address that nobody has.
func (e *Engine) forget(a *address) {
	if len(a.ends)+len(a.pods)+len(a.nodes) == 0 && e.addresses[a.addr] == a {
		delete(e.addresses, a.addr)
	}
}

// is says whether the endpoint is the pod's.
func (x *endpoint) is(p *pod) bool {
	return p != nil && x.pod == p.row.Name.String() && x.incarnation == p.row.Incarnation
}

// on returns the pod that has the address on a node: the first that claims it there.
func (a *address) on(n *node) *pod {
	for _, p := range a.pods {
		if p.node == n {
			return p
		}
	}
	return nil
}

// attach makes the endpoint of a pod, or changes it. It says whether all is as it should be then.
func (e *Engine) attach(a *address, p *pod, pointers bool) bool {
	var old model.Endpoint
	x := &endpoint{node: p.node}
	i := slices.IndexFunc(a.ends, func(x *endpoint) bool { return x.node == p.node })
	if i >= 0 {
		x = a.ends[i]
		old = x.row(a)
	}
	ingress, egress := e.judging(p.shape)
	if stays := i >= 0 && x.is(p); stays {
		switch {
		case x.ingress == ingress && x.egress == egress:
			return true
		case !pointers:
			return false
		}
	}
	if i < 0 {
		a.ends = append(a.ends, x)
	}
	x.pod, x.incarnation = p.row.Name.String(), p.row.Incarnation
	e.point(x, ingress, egress)
	e.delta(x.node).endpoint(a.addr, old, x.row(a))
	return true
}
