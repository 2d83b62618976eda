// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// external says how this node passes on what outside clients send. Only the loop may ask.
func (v *service) external() *schemas.External {
	if v.settings.maps != mapsKernel {
		return nil
	}
	told := false
	if state := v.driver.Core.State(); state != nil {
		_, told = state.Tables(model.LayerCluster).Nodes[v.settings.tunnel.Node]
	}
	ifindex, err := v.health.lastBetween()
	return externalOf(v.settings.tunnel.Port, ifindex, err, told)
}

// externalOf says it of a node whose device between nodes has an index, 0 if there is none because of err. told says
// whether nodes are told the node's address.
func externalOf(port uint16, ifindex int, err error, told bool) *schemas.External {
	e := &schemas.External{}
	if ifindex > 0 {
		e.Device, e.Port = tunnel.Name, uint32(port)
	}
	switch {
	case port == 0:
		e.Masqueraded = "--tunnel-port is 0"
	case ifindex == 0 && err != nil:
		e.Masqueraded = err.Error()
	case ifindex == 0:
		e.Masqueraded = "the node's interfaces have not been looked at yet"
	case !told:
		e.Masqueraded = "no node is told this one's address: its Node object has no InternalIP, or its name comes to the same number as another's"
	}
	return e
}
