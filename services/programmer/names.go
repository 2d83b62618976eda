// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// names tell people what the numbers in the kernel are. Those of what is not there are empty. Only the loop may use
// them.
type names struct {
	state    *plan.State    // nil before the maps were first read
	revision model.Revision // of the node's layer
}

func (v *service) names() names {
	c := v.driver.Core
	return names{c.State(), c.Positions()[model.NodeLayer(v.settings.node)].Revision}
}

// tables are those of the node's own layer; policies, pods and what is named after them are nowhere else.
func (n names) tables() *model.Tables {
	if n.state == nil {
		return &model.Tables{}
	}
	return n.state.Tables(model.LayerNode)
}

func (n names) pod(addr netip.Addr) string { return n.tables().Endpoints[addr].Pod }

func (n names) policies(id model.RuleSetID) string { return n.tables().RuleSets[id].Policies }

func (n names) rule(id model.RuleID) string {
	if r, held := n.tables().Rules[id]; held {
		return r.String()
	}
	return ""
}

// service is of a set of either layer.
func (n names) service(id model.SetID) string {
	if n.state == nil || id == 0 {
		return ""
	}
	if port, held := n.state.Service(id); held {
		return port.String()
	}
	return ""
}
