// SPDX-License-Identifier: Apache-2.0

// Package policy compiles policies: it knows which pods each one selects, gives numbers to classes of addresses that no
// rule tells apart, makes rule sets of the policies that select a pod, and works out which of all this a node needs.
//
//	pod ─► shape (namespace, labels, ports) ─► rule sets ─► endpoints' pointers
//	        │
//	        ▼ terms                blocks that
//	address ─► cell ─► class ◄──── hold a region ◄─ region (prefix)
//
// It promises that its rows are a function of the state alone, up to the numbers of classes, and that these are a function
// of the rows that there were and of how far counting had come (see numbers.go); that an Update costs what
// it changes; and that between two of its stages every verdict is what it was or what it will be. It is pure, and used
// by one goroutine.
//
// The one thing to know before changing it: there is no table of rows in here. Which rows a node has follows from who
// uses what (rule sets on nodes, atoms in rule sets, atoms in classes), so whoever changes one of these says what
// rows were and are: partition.go where addresses change classes, usage.go where nodes use other rule sets.
package policy

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Limits bound what policies may cost. A zero field takes its default.
type Limits struct {
	// Combinations bounds a policy's rules × peers × prefixes of ports in one direction.
	Combinations int // 16,384
	// Peers bounds a policy's peers by selector in one direction: each is asked about every pod that comes.
	Peers int // 1,024
	// Ports bounds the exceptions by port of one rule set for one identity.
	Ports int // 4,096
	// Blocks bounds a policy's blocks and what they except.
	Blocks int // 4,096
}

func (l Limits) withDefaults() Limits {
	number := func(n *int, usual int) {
		if *n == 0 {
			*n = usual
		}
	}
	number(&l.Combinations, 16_384)
	number(&l.Peers, 1024)
	number(&l.Ports, 4096)
	number(&l.Blocks, 4096)
	return l
}

// Engine holds what policies come to. It begins empty.
type Engine struct {
	limits Limits

	spaces map[string]*space
	scopes map[state.Selector]*scope
	// named are the scopes that select namespaces by name, under each name; unnamed are all others.
	named   map[string][]*scope
	unnamed map[*scope]bool
	groups  map[state.PodPeer]*group
	shapes  map[shapeKey]*shape
	pods    map[state.Name]*pod

	atoms     map[atomKey]*atom
	terms     []*atom  // by term
	names     []uint64 // what each means
	freeTerms []term
	nodeAtoms map[*atom]bool

	regions   regions
	addresses map[netip.Addr]*address
	cells     map[cellKey]*cell
	classes   map[classKey]*class
	next      model.IdentityID
	taken     map[model.IdentityID]*class // numbers in use when counting began anew; nil before
	partition partition

	policies map[model.PolicyName]*policy
	refused  map[*policy]bool // that exceed a limit
	ruleSets map[model.RuleSetID]*ruleSet
	overfull map[*ruleSet]bool // with verdicts that do
	nodes    map[string]*node
	left     []*node // by pods, or by Kubernetes
	// stamp marks nodes and others as seen in one walk.
	stamp uint64
	// unsettled are addresses whose endpoints may have to change.
	unsettled map[*address]bool
	usage     map[*node]map[*ruleSet]bool
	dirty     []*node
	scratch   []hit
	key       []byte
}

// New returns an empty engine.
func New(limits Limits) *Engine {
	e := &Engine{
		limits: limits.withDefaults(), terms: make([]*atom, 1), names: make([]uint64, 1), // no term is 0
		spaces: map[string]*space{}, scopes: map[state.Selector]*scope{},
		named: map[string][]*scope{}, unnamed: map[*scope]bool{}, groups: map[state.PodPeer]*group{},
		shapes: map[shapeKey]*shape{}, pods: map[state.Name]*pod{}, atoms: map[atomKey]*atom{},
		nodeAtoms: map[*atom]bool{}, addresses: map[netip.Addr]*address{}, cells: map[cellKey]*cell{},
		classes: map[classKey]*class{}, policies: map[model.PolicyName]*policy{},
		ruleSets: map[model.RuleSetID]*ruleSet{}, nodes: map[string]*node{}, unsettled: map[*address]bool{},
		usage: map[*node]map[*ruleSet]bool{}, refused: map[*policy]bool{}, overfull: map[*ruleSet]bool{},
	}
	e.regions.init()
	e.partition.reset()
	return e
}
