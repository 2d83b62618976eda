// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// bounds are where the ports of rules begin, and where those after them do; from 0 to allPorts. Between two that follow
// each other no rule tells ports apart.
type bounds []uint32

const allPorts = 1 << 16

var wholeRange = bounds{0, allPorts}

func boundsOf(list []matched, protocol model.Protocol) bounds {
	b := slices.Clone(wholeRange)
	for _, m := range list {
		for _, p := range m.ports {
			if p.Protocol == protocol {
				b = append(b, uint32(p.First), uint32(p.Last)+1)
			}
		}
	}
	slices.Sort(b)
	return slices.Compact(b)
}

func mentions(list []matched, protocol model.Protocol) bool {
	for _, m := range list {
		for _, p := range m.ports {
			if p.Protocol == protocol {
				return true
			}
		}
	}
	return false
}

// find returns which interval begins at a port.
func (b bounds) find(port uint32) int {
	i, _ := slices.BinarySearch(b, port)
	return i
}

// paint decides each interval of a protocol's ports, tier by tier: a rule decides what none before it has.
func (r *ruleSet) paint(list []matched, protocol model.Protocol, b bounds) []decision {
	c := canvas{decided: make([]decision, len(b)-1), next: make([]int, len(b))}
	for number, t := range r.tiers {
		c.begin()
		for len(list) > 0 && list[0].tier == number {
			m := list[0]
			list = list[1:]
			if m.every {
				c.paint(0, len(b)-1, m)
				continue
			}
			for _, p := range m.ports {
				if p.Protocol == protocol {
					c.paint(b.find(uint32(p.First)), b.find(uint32(p.Last)+1), m)
				}
			}
		}
		if t.isolates {
			c.fill(decision{action: model.ActionIsolate})
		}
	}
	c.fill(decision{action: model.ActionAllow})
	return c.decided
}

// canvas is intervals, of which some are decided. Next leads from an interval to the first from it on that the present
// tier has not dealt with.
type canvas struct {
	decided []decision
	next    []int
}

func (c *canvas) begin() {
	for i := range c.next {
		c.next[i] = i
		if i < len(c.decided) && c.decided[i].action != 0 {
			c.next[i] = i + 1
		}
	}
}

func (c *canvas) open(i int) int {
	for c.next[i] != i {
		c.next[i] = c.next[c.next[i]]
		i = c.next[i]
	}
	return i
}

func (c *canvas) paint(from, to int, m matched) {
	for i := c.open(from); i < to; i = c.open(i) {
		c.next[i] = i + 1
		if m.action != state.Pass {
			c.decided[i] = decision{m.Action, m.ID}
		}
	}
}

func (c *canvas) fill(d decision) {
	for i := range c.decided {
		if c.decided[i].action == 0 {
			c.decided[i] = d
		}
	}
}
