// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// exits are what leads out of a node.
type exits struct {
	device   int   // between nodes, by index; 0 or less if there is none
	noDevice error // what is wrong with it
	locals   map[netip.Addr]uint8
	names    map[int]string
	wires    []bpf.Wire
}

// external says how this node passes on what outside clients send. Only the loop may ask.
func (v *service) external() *schemas.External {
	if v.settings.maps != mapsKernel {
		return nil
	}
	var own model.Node
	if state := v.driver.Core.State(); state != nil {
		own = state.Tables(model.LayerCluster).Nodes[v.settings.tunnel.Node]
	}
	return externalOf(*v.settings, v.health.lastExits(), own)
}

// externalOf says it by what leads out of the node, and what nodes are told of its addresses; the zero row is nothing.
func externalOf(s settings, o exits, own model.Node) *schemas.External {
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
	case own == model.Node{}:
		e.Masqueraded = "no node is told this one's address: its Node object has no InternalIP, its name comes to the same number as another's, or the watcher is of a version before such rows"
	case o.strange(own.V4):
		e.Masqueraded = nobodys(own.V4)
	case o.strange(own.V6):
		e.Masqueraded = nobodys(own.V6)
	}
	return e
}

// strange says whether an address is not one of the node's interfaces.
func (o *exits) strange(addr netip.Addr) bool {
	_, own := o.locals[addr]
	return addr.IsValid() && !own
}

func nobodys(addr netip.Addr) string {
	return fmt.Sprintf("nodes are told that this one is at %s, its Node's InternalIP, which none of its interfaces has: nothing leaves from there, "+
		"and what others send there is lost; give the node that address, or the kubelet one of the node's (--node-ip)", addr)
}
