// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// space is a namespace that has pods.
type space struct {
	name   string
	labels state.Labels
	scopes []*scope // that its labels match
	shapes map[*shape]bool
}

// scope is a selector of namespaces that groups have, with the groups found by a label that a pod must have.
type scope struct {
	selector state.Selector
	names    []string // of namespaces, if the selector demands one of some
	spaces   map[*space]bool
	byLabel  map[label][]*group
	others   []*group // that demand no label
	groups   int
}

type label struct{ key, value string }

// space returns the namespace, which is made if it is new.
func (e *Engine) space(name string, labels state.Labels) *space {
	if s := e.spaces[name]; s != nil {
		return s
	}
	s := &space{name: name, labels: labels, shapes: map[*shape]bool{}}
	e.spaces[name] = s
	e.join(s)
	return s
}

// join finds the scopes of a namespace by its labels.
func (e *Engine) join(s *space) {
	for _, c := range e.named[s.name] {
		s.enter(c)
	}
	for c := range e.unnamed {
		s.enter(c)
	}
}

func (s *space) enter(c *scope) {
	if c.selector.Matches(s.labels) {
		s.scopes = append(s.scopes, c)
		c.spaces[s] = true
	}
}

func (e *Engine) dropSpace(s *space) {
	s.leave()
	delete(e.spaces, s.name)
}

func (s *space) leave() {
	for _, c := range s.scopes {
		delete(c.spaces, s)
	}
	s.scopes = nil
}

// relabel gives a namespace other labels; its shapes may be in other groups then.
func (e *Engine) relabel(s *space, labels state.Labels) {
	if s.labels == labels {
		return
	}
	s.labels = labels
	s.leave()
	e.join(s)
	for shape := range s.shapes {
		e.regroup(shape)
	}
}

// scope returns the scope of a selector, which is made if it is new.
func (e *Engine) scope(selector state.Selector) *scope {
	if c := e.scopes[selector]; c != nil {
		return c
	}
	c := &scope{selector: selector, spaces: map[*space]bool{}, byLabel: map[label][]*group{}}
	e.scopes[selector] = c
	for _, t := range selector.Terms() {
		if t.Key == state.NamespaceLabel && t.Operator == state.In {
			c.names = t.Values
		}
	}
	if c.names == nil {
		e.unnamed[c] = true
		for _, s := range e.spaces {
			s.enter(c)
		}
		return c
	}
	for _, name := range c.names {
		e.named[name] = append(e.named[name], c)
		if s := e.spaces[name]; s != nil {
			s.enter(c)
		}
	}
	return c
}

// dropScope forgets a scope without groups.
func (e *Engine) dropScope(c *scope) {
	for s := range c.spaces {
		s.scopes = without(s.scopes, c)
	}
	for _, name := range c.names {
		if e.named[name] = without(e.named[name], c); len(e.named[name]) == 0 {
			delete(e.named, name)
		}
	}
	delete(e.unnamed, c)
	delete(e.scopes, c.selector)
}

// without removes one item of an unordered list.
func without[T comparable](list []T, item T) []T {
	i := slices.Index(list, item)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}
