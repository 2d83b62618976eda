// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Via is where a new connection is seen first.
type Via uint8

// The places.
const (
	// PodPacket is a packet at a pod's interface.
	PodPacket Via = iota + 1
	// UplinkPacket is a packet at any other interface.
	UplinkPacket
	// PodSocket is a connect or a datagram of a process in a pod's network namespace.
	PodSocket
	// HostSocket is one of a process in the node's own network namespace.
	HostSocket
)

// Dialler is who opens a connection.
type Dialler struct {
	Via  Via
	Addr netip.Addr // a packet's source; a socket may have none yet
}

// Decision is what becomes of something new: no flow and no socket has a say in it yet.
type Decision struct {
	Verdict    Verdict
	Reason     model.DropReason
	Frontend   *model.Frontend   // what was dialled, nil if it is no Service's
	Root       *model.BackendSet // all backends of the ServicePort, nil if there is none
	Set        *model.BackendSet // those that were looked at last: Root, or a part of it
	Candidates []model.Backend   // what may be chosen, in order of id; empty if untranslated
	// KeepsAddress says that Local policy chose for a client from outside: it is never masqueraded.
	KeepsAddress bool
	// LeftToPackets says that a socket isn't translated: only its packets show who it is, or can be masqueraded.
	LeftToPackets bool
}

// Inside says whether a dialler counts as one of the cluster, to which other traffic policy applies than to clients
// from outside: pods, wherever they run, and nodes' own processes. (kube-proxy's "local traffic": iptables
// proxier.go writeServiceToEndpointRules and its detectLocal; KEP-2086.)
func (n *Node) Inside(d Dialler) bool {
	_, own := n.Locals[d.Addr]
	return d.Via != UplinkPacket || own || n.network(d.Addr) == model.NetworkPods
}

// find returns the frontend that destination stands for. What is dialled by its own address comes first; then, on the
// node's own addresses, NodePorts where they are served, and hostPorts. (KEP-3866: service-ips, then service-nodeports
// for addresses that are local; CNI's portmap for hostPorts, which kube-proxy's rules come before.) A loopback address
// is the node's only to its own processes. A hostPort's hostIP counts on the node that has it (portmap's dst-type LOCAL).
func (n *Node) find(via Via, protocol model.Protocol, destination netip.AddrPort) (model.Frontend, bool) {
	if via == HostSocket {
		destination = netip.AddrPortFrom(meantByHost(destination.Addr()), destination.Port())
	}
	flags, own := n.Locals[destination.Addr()]
	own = own && (flags&LocalLoopback == 0 || via == HostSocket)
	packet := via == PodPacket || via == UplinkPacket
	if packet && own && protocol == model.UDP && n.TunnelPort != 0 && destination.Port() == n.TunnelPort {
		return model.Frontend{}, false // other nodes' wrapped packets, which no Service takes
	}
	key := model.FrontendKey{Addr: destination.Addr(), Port: destination.Port(), Protocol: protocol}
	if f, found := n.frontend(key); found && (own || f.Kind != model.FrontendHostPort) {
		return f, true
	}
	if !own {
		return model.Frontend{}, false
	}
	key.Addr = netip.IPv4Unspecified()
	if destination.Addr().Is6() {
		key.Addr = netip.IPv6Unspecified()
	}
	if key.Match = model.MatchNodePort; flags&LocalNodePort != 0 {
		if f, found := n.frontend(key); found {
			return f, true
		}
	}
	key.Match = model.MatchHostPort
	return n.frontend(key)
}

// findHere is find for packets.
func (n *Node) findHere(protocol model.Protocol, destination netip.AddrPort) (model.Frontend, bool) {
	return n.find(PodPacket, protocol, destination)
}

// meantByHost returns what a process of the node reaches by an address: all of 127.0.0.0/8 and the unspecified
// addresses are the node (RFC 1122 3.2.1.3; connect(2) to INADDR_ANY in Linux).
func meantByHost(a netip.Addr) netip.Addr {
	switch {
	case a.Is4() && (a.IsLoopback() || a.IsUnspecified()):
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case a.IsUnspecified():
		return netip.IPv6Loopback()
	}
	return a
}

// Decide decides about the first packet, or the connect, to destination.
//
//  1. What no frontend stands for passes untranslated, unless it is a Service's address: see unserved.
//  2. A client outside loadBalancerSourceRanges is dropped, pods and nodes too; the frontend's own address as the
//     source is let through. (API: Service.spec.loadBalancerSourceRanges; kube-proxy's KUBE-FW chains and their rule
//     for "requests from the node itself".)
//  3. Without a usable endpoint anywhere the client is refused: kube-proxy's no-endpoint-services map, "reject";
//     upstream's e2e test "should be rejected when no endpoints exist".
//  4. Where a Local policy applies only this node's backends count, and without one the client is dropped, so that
//     it, or a load balancer, tries elsewhere. (KEP-2086 internalTrafficPolicy, KEP-1669 for the fallback to those
//     that terminate; topology.go CategorizeEndpoints: hints are ignored.)
//  5. Else topology hints narrow the choice: to the node's own if all ready endpoints have such hints and one is for
//     this node, then to the zone's likewise. (KEP-2433, KEP-3015, KEP-4444; topology.go topologyModeFromHints.)
//  6. Any member of the set that is left may be chosen, all alike; Affinities may narrow that to one.
//
// A row that points at a missing one is a fault in the tables: dropped, with that reason, never sent by guess.
func (n *Node) Decide(who Dialler, protocol model.Protocol, destination netip.AddrPort) Decision {
	destination = netip.AddrPortFrom(destination.Addr().Unmap(), destination.Port())
	frontend, dialled := n.find(who.Via, protocol, destination)
	if who.Via == PodSocket && n.MasqueradeAll && (dialled || n.network(destination.Addr()) == model.NetworkServices) {
		return Decision{Verdict: Forward, LeftToPackets: true}
	}
	if !dialled {
		return n.unserved(destination.Addr())
	}
	return n.serve(who, frontend)
}

// serve is Decide for who dials a frontend.
func (n *Node) serve(who Dialler, frontend model.Frontend) Decision {
	d := Decision{Frontend: &frontend}
	root, there := n.set(frontend.Set)
	if !there {
		return d.stop(Drop, model.ReasonStaleTables)
	}
	d.Root, d.Set = &root, &root
	if frontend.Flags&model.SourceRanges != 0 {
		switch {
		case who.Via == PodSocket:
			return Decision{Verdict: Forward, LeftToPackets: true}
		case !n.takes(who, frontend):
			return d.stop(Drop, model.ReasonSourceRange)
		}
	}
	if len(n.members(root.ID)) == 0 {
		return d.stop(Reject, model.ReasonNoBackend)
	}
	if n.localApplies(who, frontend) {
		d.KeepsAddress = !n.Inside(who)
		view, some := n.view(model.ViewKey{Set: root.ID, Scope: model.ScopeLocal})
		if !some {
			return d.stop(Drop, model.ReasonNoLocalBackend)
		}
		return n.choose(d, view.Target, model.ReasonNoLocalBackend)
	}
	return n.choose(d, n.hinted(root), model.ReasonStaleTables)
}

// unserved decides about what no frontend stands for. An address that a Service has refuses other ports than the
// Service's; one of the service range that none has is dropped, or the default route would send it round in circles.
// (KEP-3866: the nftables proxy's cluster-ips-check chain, "reject" and "drop"; upstream's e2e test "should reject
// when there are no endpoints" has the ports.)
func (n *Node) unserved(destination netip.Addr) Decision {
	if n.network(destination) != model.NetworkServices {
		return Decision{Verdict: Forward}
	}
	if refused, has := n.frontend(model.FrontendKey{Addr: destination}); has {
		return Decision{Verdict: Reject, Reason: model.ReasonWrongPort, Frontend: &refused}
	}
	return Decision{Verdict: Drop, Reason: model.ReasonUnallocated}
}

// takes says whether source ranges let a dialler in. A process of the node has no address before it is routed: the
// node's counts.
func (n *Node) takes(who Dialler, f model.Frontend) bool {
	clients := []netip.Addr{who.Addr}
	if who.Via == HostSocket {
		clients = n.Uplinks[UplinkAny]
	}
	return slices.ContainsFunc(clients, func(c netip.Addr) bool { return c == f.Addr || n.inRanges(f.Set, c) })
}

// localApplies says whether only this node's backends may be chosen. A ClusterIP that is dialled from outside has no
// external policy: the internal one counts.
func (n *Node) localApplies(who Dialler, f model.Frontend) bool {
	if n.Inside(who) || f.Kind == model.FrontendClusterIP {
		return f.Flags&model.InternalLocal != 0
	}
	return f.Flags&model.ExternalLocal != 0
}

// hinted returns the part of a root that topology hints leave.
func (n *Node) hinted(root model.BackendSet) model.SetID {
	if root.Flags&model.NodeHints != 0 {
		if v, has := n.view(model.ViewKey{Set: root.ID, Scope: model.ScopeNode}); has {
			return v.Target
		}
	}
	if zone := n.zone(); root.Flags&model.ZoneHints != 0 && zone != 0 {
		if v, has := n.view(model.ViewKey{Set: root.ID, Scope: model.ScopeZone, Place: zone}); has {
			return v.Target
		}
	}
	return root.ID
}

// choose collects the members of a set; whenNone is the reason if there are none.
func (n *Node) choose(d Decision, from model.SetID, whenNone model.DropReason) Decision {
	set, there := n.set(from)
	if !there {
		return d.stop(Drop, model.ReasonStaleTables)
	}
	d.Set = &set
	members := n.members(from)
	if len(members) == 0 {
		return d.stop(Drop, whenNone)
	}
	for _, id := range members {
		if b, known := n.backend(id); known && b.Set == d.Root.ID {
			d.Candidates = append(d.Candidates, n.lasting(b))
		}
	}
	if len(d.Candidates) == 0 {
		return d.stop(Drop, model.ReasonStaleTables)
	}
	d.Verdict = Forward
	return d
}

func (d Decision) stop(v Verdict, reason model.DropReason) Decision {
	d.Verdict, d.Reason = v, reason
	return d
}

// MayChoose says whether a new connection may be sent to chosen.
func (d *Decision) MayChoose(chosen netip.AddrPort) bool {
	_, may := candidate(*d, chosen)
	return may
}

// Masquerades says whether a connection of who to one of d's candidates leaves with another source address: needed
// where the answer would else not come back through this node, that is where the connection came from elsewhere and
// goes elsewhere, and where a pod reaches itself. Local policy for clients from outside keeps their address (KEP-2086;
// API: externalTrafficPolicy "preserves the client source IP"); so does wrapping, see Reach.
func (n *Node) Masquerades(who Dialler, d Decision, b model.Backend) bool {
	if d.KeepsAddress || who.Via == PodSocket || who.Via == HostSocket {
		return false
	}
	if b.Addr == who.Addr {
		return true
	}
	return (who.Via == UplinkPacket || n.MasqueradeAll) && !n.StaysHere(b.Addr) && !n.Reach(who, d, b).Wraps()
}
