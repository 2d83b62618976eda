// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Unit names a unit: a number if Number is set, a network if Network is valid, else a node if Node is set, else a Service.
type Unit struct {
	Service state.Name
	Node    string
	Network netip.Prefix
	Number  model.NodeID
}

// ServiceUnit names the unit of one Service.
func ServiceUnit(name state.Name) Unit { return Unit{Service: name} }

// NodeUnit names the unit of one node.
func NodeUnit(node string) Unit { return Unit{Node: node} }

// NetworkUnit names the unit of one prefix of the cluster.
func NetworkUnit(prefix netip.Prefix) Unit { return Unit{Network: prefix} }

// NumberUnit names the unit of the nodes that have one number: one node, unless two names come to the same.
func NumberUnit(number model.NodeID) Unit { return Unit{Number: number} }

// Touched returns the units that a change of an object touches.
func Touched(touch *state.Touch) []Unit {
	var units []Unit
	for _, name := range touch.Services {
		units = append(units, ServiceUnit(name))
	}
	for _, node := range touch.Nodes {
		units = append(units, NodeUnit(node))
	}
	for _, prefix := range touch.Networks {
		units = append(units, NetworkUnit(prefix))
	}
	for _, number := range touch.Numbers {
		units = append(units, NumberUnit(number))
	}
	return units
}

// Compare orders units: Services by name, then nodes by name, then networks, then numbers.
func (u Unit) Compare(v Unit) int {
	return cmp.Or(cmp.Compare(u.Number, v.Number), u.Network.Compare(v.Network), cmp.Compare(u.Node, v.Node), u.Service.Compare(v.Service))
}

// layer returns the layer of the unit's own rows; backends and sets of a Service may be in nodes' layers too.
func (u Unit) layer() model.Layer {
	if u.Node != "" {
		return model.NodeLayer(u.Node)
	}
	return model.ClusterLayer
}

// content is what a unit comes to, without ids. Each list is sorted and has nothing twice.
type content struct {
	parts []part // by layer, then root
	// In the cluster layer:
	refused  []netip.Addr // cluster addresses, which refuse what no port of theirs serves
	checks   []model.HealthCheck
	networks []model.Network
	nodes    []model.Node
	// In the node's layer:
	selves []model.Self
	aside  []state.SetAside
}

// compileUnit compiles one unit; one that is absent comes to nothing.
func compileUnit(snap *state.Snapshot, settings *Settings, unit Unit) content {
	var c content
	switch {
	case unit.Number != 0:
		c = compileNumber(snap, unit.Number)
	case unit.Network.IsValid():
		c.networks = compileNetwork(snap, settings, unit.Network)
	case unit.Node != "":
		c = compileNode(snap, settings, unit.Node)
	default:
		c = compileService(snap, settings, unit.Service)
	}
	slices.SortFunc(c.parts, comparePartKeys)
	c.aside = tidyAside(c.aside)
	return c
}

// tidyAside names each reason once: many ports of a Service may have the same.
func tidyAside(aside []state.SetAside) []state.SetAside {
	compare := func(a, b state.SetAside) int {
		return cmp.Or(cmp.Compare(a.Object.GetKind(), b.Object.GetKind()), cmp.Compare(a.Object.GetNamespace(), b.Object.GetNamespace()),
			cmp.Compare(a.Object.GetName(), b.Object.GetName()), cmp.Compare(a.Reason, b.Reason))
	}
	slices.SortFunc(aside, compare)
	return slices.CompactFunc(aside, func(a, b state.SetAside) bool { return compare(a, b) == 0 })
}

// allUnits iterates over the units of a state, in order.
func allUnits(snap *state.Snapshot, settings *Settings) iter.Seq[Unit] {
	return func(yield func(Unit) bool) {
		for svc := range snap.Services() {
			if !yield(ServiceUnit(svc.Name)) {
				return
			}
		}
		for _, name := range nodeNames(snap) {
			if !yield(NodeUnit(name)) {
				return
			}
		}
		for _, prefix := range networks(snap, settings) {
			if !yield(NetworkUnit(prefix)) {
				return
			}
		}
		for _, number := range nodeNumbers(snap) {
			if !yield(NumberUnit(number)) {
				return
			}
		}
	}
}
