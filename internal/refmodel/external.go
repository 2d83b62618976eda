// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Mode is how clients from outside get to a Service's backends on other nodes, under externalTrafficPolicy Cluster.
type Mode uint8

// The modes.
const (
	// ModeSNAT gives them the address of the node that they reached, as kube-proxy does.
	ModeSNAT Mode = iota
	// ModeTunnel wraps their packets for the backend's node; answers come back wrapped, and leave by the node they reached.
	ModeTunnel
	// ModeDSR wraps their packets too; the backend's node answers by itself.
	ModeDSR
)

// String returns the word of the annotation deltaplane.io/forwarding.
func (m Mode) String() string { return [...]string{"snat", "tunnel", "dsr"}[m] }

// modeOf returns what a frontend asks for.
func modeOf(f model.Frontend) Mode {
	switch {
	case f.Flags&model.ForwardDSR != 0:
		return ModeDSR
	case f.Flags&model.ForwardTunnel != 0:
		return ModeTunnel
	}
	return ModeSNAT
}

// forwards says whether a frontend's clients from outside may go wrapped.
func forwards(f model.Frontend) bool {
	return modeOf(f) != ModeSNAT && f.Kind != model.FrontendClusterIP && f.Flags&model.ExternalLocal == 0
}

// Obstacle is why the packets of a connection aren't wrapped for the backend's node.
type Obstacle uint8

// The obstacles, in the order in which they count.
const (
	// ObstacleNone wraps them.
	ObstacleNone Obstacle = iota
	// ObstacleInside is a client of the cluster, or one at a frontend for these.
	ObstacleInside
	// ObstacleLocal is a policy that keeps clients on the node that they reached.
	ObstacleLocal
	// ObstacleHere is a backend on the node that was reached.
	ObstacleHere
	// ObstacleMode is a frontend that asks for snat.
	ObstacleMode
	// ObstaclePlace is a backend of which no one says where it is.
	ObstaclePlace
	// ObstacleAddress is a backend's node without a row: it has no address, or shares its number with another node; or one
	// that has no address of a family of this node's.
	ObstacleAddress
	// ObstacleSelf is a node without a row of its own: no other node would believe what it wraps. Or its row says an address
	// that is not its own, from which its kernel sends nothing.
	ObstacleSelf
	// ObstacleSender is a client that is the backend's node itself, which takes no packet from its own address.
	ObstacleSender
	// ObstacleDevice is a node without a device that wraps.
	ObstacleDevice
)

// Way is how a client's packets get to a backend.
type Way struct {
	Mode     Mode
	Obstacle Obstacle
	To       model.Node // that they are wrapped for; without an obstacle
}

// Wraps says that packets go wrapped.
func (w Way) Wraps() bool { return w.Obstacle == ObstacleNone }

// Reach returns how the packets of who's new connection get to one of d's candidates. They go wrapped, so that the backend
// sees the client's address, where a client from outside, kept on no node by a policy, gets a backend of another node, and
// the frontend asks for it (annotation deltaplane.io/forwarding). Else that node's answer would need this node's address in
// place of the client's.
func (n *Node) Reach(who Dialler, d Decision, b model.Backend) Way {
	w := Way{}
	if d.Frontend != nil {
		w.Mode = modeOf(*d.Frontend)
	}
	row, known := n.peer(b.Node)
	own, believed := n.peer(n.Number)
	here := b.Node != 0 && b.Node == n.Number || (b.Node == 0 || n.Number == 0) && n.StaysHere(b.Addr)
	switch {
	case d.Frontend == nil || who.Via != UplinkPacket || n.Inside(who) || d.Frontend.Kind == model.FrontendClusterIP:
		w.Obstacle = ObstacleInside
	case d.KeepsAddress:
		w.Obstacle = ObstacleLocal
	case here:
		w.Obstacle = ObstacleHere
	case w.Mode == ModeSNAT:
		w.Obstacle = ObstacleMode
	case b.Node == 0:
		w.Obstacle = ObstaclePlace
	case !n.Tunnel || n.Number == 0:
		w.Obstacle = ObstacleDevice
	case !believed:
		w.Obstacle = ObstacleSelf
	case !known || !n.reaches(b.Node):
		w.Obstacle = ObstacleAddress
	case !n.mayUse(own, row):
		w.Obstacle = ObstacleSelf
	case who.Addr == row.V4 || who.Addr == row.V6:
		w.Obstacle = ObstacleSender
	default:
		w.To = row
	}
	return w
}

// reaches says whether what is wrapped for a node gets there: both have a row, with addresses of one family. Nobody believes
// a node that sends from another address than its row's.
func (n *Node) reaches(id model.NodeID) bool {
	own, believed := n.peer(n.Number)
	to, known := n.peer(id)
	return n.Tunnel && believed && known && (own.V4.IsValid() && to.V4.IsValid() || own.V6.IsValid() && to.V6.IsValid())
}

// mayUse says whether the node's own address towards another, of IPv4 if both have it, is one of its interfaces'.
func (n *Node) mayUse(own, to model.Node) bool {
	from := own.V6
	if own.V4.IsValid() && to.V4.IsValid() {
		from = own.V4
	}
	_, has := n.Locals[from]
	return has
}

// peer returns how another node is reached.
func (n *Node) peer(id model.NodeID) (model.Node, bool) {
	return first(n, func(l *Layer) (model.Node, bool) { r, has := l.tables.Nodes[id]; return r, has })
}

// Wrapping is what goes with a wrapped packet: who sends it to whom, and for which backend; 0 is an answer that goes back
// to the node that the client reached.
type Wrapping struct {
	From, To model.NodeID
	Backend  model.BackendID
}

// Believes says whether what claims to be wrapped by a node may be: it came from one of that node's addresses (the outer
// source; its number is in the frame). Nobody else may have this node deliver packets with any source they like.
func (n *Node) Believes(from model.NodeID, outer netip.Addr) bool {
	row, known := n.peer(from)
	return known && outer.IsValid() && (outer == row.V4 || outer == row.V6)
}

// serving returns the backend of this node that a wrapped packet names, if it is one of the Service that the packet is for.
// The node that the client reached has chosen it, and has asked source ranges: neither is done again. It is remembered by
// the id that lasts.
func (n *Node) serving(id model.BackendID, f model.Frontend) (model.Backend, bool) {
	b, known := n.backend(id)
	return n.lasting(b), known && b.Set == f.Set && b.Node == n.Number && n.Number != 0
}

// findWrapped returns the frontend that a client dialled at another node: what is served by its own address, else a
// NodePort of whichever address the other node has. HostPorts are never wrapped.
func (n *Node) findWrapped(protocol model.Protocol, destination netip.AddrPort) (model.Frontend, bool) {
	key := model.FrontendKey{Addr: destination.Addr(), Port: destination.Port(), Protocol: protocol}
	if f, found := n.frontend(key); found && f.Kind != model.FrontendHostPort {
		return f, true
	}
	key.Addr, key.Match = netip.IPv4Unspecified(), model.MatchNodePort
	if destination.Addr().Is6() {
		key.Addr = netip.IPv6Unspecified()
	}
	return n.frontend(key)
}
