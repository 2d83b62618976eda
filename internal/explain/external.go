// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// External is how a client from outside gets to the backends that may take its connection.
type External struct {
	Mode      string    `json:"mode"`      // tunnel, dsr or snat; local where externalTrafficPolicy keeps clients on the first node
	FirstNode string    `json:"firstNode"` // that the client's packets come to
	Backends  []Reached `json:"backends"`  // in the order of candidates
}

// Reached is how one backend is reached from the first node.
type Reached struct {
	Backend string `json:"backend"`
	Node    string `json:"node"`         // the backend's; empty if nothing says where it is
	Wrapped bool   `json:"wrapped"`      // the first node sends the client's packets on in VXLAN, as they came
	To      string `json:"to,omitempty"` // the addresses of the backend's node, of which packets are wrapped for one
	ID      uint32 `json:"id,omitempty"` // of the backend, in the wrapped packet
	Source  string `json:"source"`       // the address that the backend sees
	Back    string `json:"back"`         // the node that sends answers to the client
	Why     string `json:"why"`          // a sentence's end
}

// external tells it of connections from outside to what is there for them; nil of all others.
func (w *World) external(c connection, o outcome) *External {
	if o.Frontend == nil || o.Root == nil || len(o.Candidates) == 0 || w.node(c.node).Inside(c.dialler()) ||
		!slices.Contains(externalKinds, o.Frontend.Kind) {
		return nil
	}
	e := &External{FirstNode: c.node}
	for i, b := range o.Candidates {
		way := w.node(c.node).Reach(c.dialler(), o.Decision, b)
		e.Mode = way.Mode.String()
		r := Reached{
			Backend: refmodel.AddrPort(b).String(), Node: w.placeOf(b), Wrapped: way.Wraps(), Source: c.source.Addr().String(), Back: c.node,
			Why: w.why(c, o, b, way),
		}
		if way.Wraps() {
			r.To, r.ID = way.To.Text(), uint32(b.ID)
		}
		if o.masqueraded[i] {
			r.Source = w.masquerade(c).String()
		}
		if way.Wraps() && way.Mode == refmodel.ModeDSR {
			r.Back = r.Node
		}
		e.Backends = append(e.Backends, r)
	}
	if o.KeepsAddress {
		e.Mode = "local"
	}
	slices.SortFunc(e.Backends, func(a, b Reached) int {
		return netip.MustParseAddrPort(a.Backend).Compare(netip.MustParseAddrPort(b.Backend))
	})
	return e
}

// externalKinds are the frontends that are there for clients from outside too.
var externalKinds = []model.FrontendKind{model.FrontendNodePort, model.FrontendExternalIP, model.FrontendLoadBalancer}

// placeOf names the node of a backend, empty if it isn't known.
func (w *World) placeOf(b model.Backend) string {
	if at := w.numbered(b.Node); len(at) > 0 {
		return strings.Join(at, " or ")
	}
	own := w.owners[b.Addr]
	if own.pod != "" {
		return w.pods[own.pod].GetPod().GetNode()
	}
	return own.node
}

// rowOf is how other nodes reach one.
func (w *World) rowOf(node string) model.Node {
	cluster, _ := w.layers(node)
	return cluster.Nodes[model.NodeIDOf(node)]
}

// numbered returns the nodes that packets name by a number: more than one share it.
func (w *World) numbered(id model.NodeID) (names []string) {
	for _, name := range w.Nodes() {
		if id != 0 && model.NodeIDOf(name) == id {
			names = append(names, name)
		}
	}
	return names
}

// why says why a backend is reached as it is.
func (w *World) why(c connection, o outcome, b model.Backend, way refmodel.Way) string {
	switch way.Obstacle {
	case refmodel.ObstacleNone:
		return fmt.Sprintf("%s, and the backend is on another node", w.asked(o, way.Mode))
	case refmodel.ObstacleLocal:
		return "externalTrafficPolicy is Local: only backends on the first node count"
	case refmodel.ObstacleHere:
		return "the backend is on the first node"
	case refmodel.ObstacleMode:
		return w.asked(o, way.Mode)
	case refmodel.ObstaclePlace:
		return "no EndpointSlice says on which node the backend is, so there is nobody to wrap for"
	case refmodel.ObstacleAddress:
		names := w.numbered(b.Node)
		switch len(names) {
		case 0:
			return "the backend's node isn't known, so there is nobody to wrap for"
		case 1:
			return fmt.Sprintf("node %s has no InternalIP of a family that node %s has, so there is nobody to wrap for", names[0], c.node)
		}
		return fmt.Sprintf("nodes %s share the number %d, so nothing is wrapped for either", strings.Join(names, " and "), b.Node)
	case refmodel.ObstacleSelf:
		return fmt.Sprintf("node %s has no InternalIP of its own, or shares its number with another, so that nobody would believe what it wraps", c.node)
	case refmodel.ObstacleSender:
		return "the client is the backend's node itself"
	}
	return fmt.Sprintf("node %s has no device that wraps", c.node)
}

// asked says who chose the mode.
func (w *World) asked(o outcome, mode refmodel.Mode) string {
	name := o.Root.Service.Namespace + "/" + o.Root.Service.Name
	if w.services[name].GetService().GetForwarding() == mode.String() {
		return fmt.Sprintf("the Service's annotation deltaplane.io/forwarding is %s", mode)
	}
	return fmt.Sprintf("the cluster's forwarding is %s", mode)
}

// reached tells people the same, a step a way.
func (e *External) reached(client, dialled netip.AddrPort) (steps []string) {
	type group struct{ how, why string }
	var order []group
	of := map[group][]string{}
	for _, r := range e.Backends {
		var how string
		switch {
		case r.Wrapped && r.Back == e.FirstNode:
			how = fmt.Sprintf("node %s wraps its packets for node %s (%s), which unwraps them: the backend sees the client's own address %s. Answers go back wrapped, and leave node %s with source %s",
				e.FirstNode, r.Node, r.To, r.Source, e.FirstNode, dialled)
		case r.Wrapped:
			how = fmt.Sprintf("node %s wraps its packets for node %s (%s), which unwraps them: the backend sees the client's own address %s. Node %s answers the client itself, with source %s",
				e.FirstNode, r.Node, r.To, r.Source, r.Back, dialled)
		case r.Source == client.Addr().String():
			how = fmt.Sprintf("the backend sees the client's own address %s, and answers through node %s", r.Source, e.FirstNode)
		default:
			how = fmt.Sprintf("its packets leave node %s with that node's address %s, so that answers come back this way", e.FirstNode, r.Source)
		}
		g := group{how, r.Why}
		if of[g] == nil {
			order = append(order, g)
		}
		of[g] = append(of[g], r.Backend)
	}
	for _, g := range order {
		steps = append(steps, fmt.Sprintf("%s: %s (%s)", strings.Join(firstOf(of[g], namedBackends), ", "), g.how, g.why))
	}
	return steps
}
