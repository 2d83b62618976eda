// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// exits are what leads out of a node.
type exits struct {
	device   int   // between nodes, by index; 0 or less if there is none
	noDevice error // what is wrong with it
	names    map[int]string
	wires    []bpf.Wire
}

// external says how this node passes on what outside clients send. Only the loop may ask.
func (v *service) external() *schemas.External {
	if v.settings.maps != mapsKernel {
		return nil
	}
	told := false
	if state := v.driver.Core.State(); state != nil {
		_, told = state.Tables(model.LayerCluster).Nodes[v.settings.tunnel.Node]
	}
	e := externalOf(*v.settings, v.health.lastExits(), told)
	return e
}

// externalOf says it by what leads out of the node. told says whether nodes are told the node's address.
func externalOf(s settings, o exits, told bool) *schemas.External {
	e := &schemas.External{MaglevSlots: s.maglevSize}
	for _, w := range o.wires[:min(len(o.wires), schemas.MaxUplinks)] {
		e.Uplinks = append(e.Uplinks, &schemas.Uplink{Interface: o.names[w.Ifindex], Xdp: string(w.Mode), Reason: w.Reason})
	}
	if o.device > 0 {
		e.Device, e.Port, e.Vni = tunnel.Name, uint32(s.tunnel.Port), s.tunnelVNI
	}
	switch {
	case s.tunnel.Port == 0:
		e.Masqueraded = "--tunnel-port is 0"
	case o.device <= 0 && o.noDevice != nil:
		e.Masqueraded = o.noDevice.Error()
	case o.device <= 0:
		e.Masqueraded = "the node's interfaces have not been looked at yet"
	case !told:
		e.Masqueraded = "no node is told this one's address: its Node object has no InternalIP, its name comes to the same number as another's, or the watcher is of a version before such rows"
	}
	return e
}
