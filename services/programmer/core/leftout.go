// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// leftOut is the key of the fault that policies don't fit. It stands until they do, whatever else is applied.
const leftOut = "policies that don't fit"

// sayLeftOut tells, as fault and event, which policies don't fit, and which pods nothing passes.
func (c *Core) sayLeftOut() {
	out, short := c.state.LeftOut()
	if len(out) == 0 {
		if _, standing := c.report.faults[leftOut]; standing {
			c.clear(leftOut)
			c.event(false, "repaired", "all policies fit; the pods that were closed for want of room are judged by them again")
		}
		return
	}
	l := &c.layers[model.LayerNode]
	f := Fault{Kind: "capacity", Text: closedText(out, short), Since: c.now, Layer: l.Layer, Revision: l.heard}
	old, standing := c.report.faults[leftOut]
	if standing && old.Text == f.Text {
		return
	}
	if standing {
		f.Since = old.Since
	}
	c.report.faults[leftOut] = f
	c.event(true, f.Kind, "%s", f.Text)
	c.report.wanted = true
}

func closedText(out []plan.LeftOut, short string) string {
	var policies, pods []string
	for _, o := range out {
		policies = append(policies, strings.Split(o.RuleSet.Policies, ", ")...)
		for _, pod := range o.Pods {
			pods = append(pods, fmt.Sprintf("%s (%s)", pod, o.RuleSet.Direction))
		}
	}
	slices.Sort(policies)
	slices.Sort(pods)
	return fmt.Sprintf("there is no room for %d rule sets of %s: nothing passes pods %s until there is, everything else is in force; "+
		"%s: give it more room in the programmer's configuration, or make the policies smaller",
		len(out), few(slices.Compact(policies)), few(slices.Compact(pods)), cmp.Or(short, "old and new rows don't fit side by side"))
}
