// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// tableless is the key of the fault that sets lack a Maglev table. It hinders nothing but that a connection from outside goes on
// when it comes to another node: its kind is Pressure.
const tableless = "sets without a Maglev table"

// sayTableless tells, as fault and event, which Services' clients from outside are spread at random.
func (c *Core) sayTableless() {
	left, large := c.state.Tableless()
	if left.Sets+large.Sets == 0 {
		c.clear(tableless)
		return
	}
	var texts []string
	if left.Sets > 0 {
		texts = append(texts, fmt.Sprintf("there is no Maglev table left for %s: give more by --max-maglev-tables", c.setsText(left)))
	}
	if large.Sets > 0 {
		texts = append(texts, fmt.Sprintf("a Maglev table has fewer slots than %s have backends: give more by --maglev-size", c.setsText(large)))
	}
	text := strings.Join(texts, "; ") + "; until then their clients from outside are spread at random, and other nodes choose otherwise"
	old, standing := c.report.faults[tableless]
	if standing && old.Text == text {
		return
	}
	f := Fault{Kind: Pressure, Text: text, Since: c.now}
	if standing {
		f.Since = old.Since
	} else {
		c.event(true, f.Kind, "%s", f.Text)
	}
	c.report.faults[tableless] = f
	c.report.wanted = true
}

func (c *Core) setsText(lack plan.Lacking) string {
	service, _ := c.state.Service(lack.Such)
	if lack.Sets == 1 {
		return "the set of " + service.String()
	}
	return fmt.Sprintf("%d sets, such as that of %s", lack.Sets, service)
}
