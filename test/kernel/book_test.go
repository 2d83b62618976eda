// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
)

// book is the rows of one node, written by hand, in the words of internal/model.
type book struct {
	cluster, node *model.Tables
	kernel        *kernelnode.Node
}

// hereNode is the name of the node that the rows are of.
const hereNode = "here"

func newBook(t testing.TB, plane *bpf.Dataplane) *book {
	t.Helper()
	kernel, err := kernelnode.Over(plane, 64)
	check(t, err)
	return &book{model.NewTables(), model.NewTables(), kernel}
}

// write gives the kernel the rows.
func (b *book) write(t testing.TB) {
	t.Helper()
	check(t, b.kernel.Set(model.LayerCluster, b.cluster))
	check(t, b.kernel.Set(model.LayerNode, b.node))
}

// root writes a root set of port 80 with active backends, whose ids are 100 times the set's and what follows.
func (b *book) root(id model.SetID, p model.Protocol, family model.Family, addrs ...string) {
	key := model.SetKey{Service: model.ServicePort{Namespace: "test", Name: "service", Port: 80, Protocol: p}, Family: family, Scope: model.ScopeAll}
	b.cluster.Sets[id] = model.BackendSet{ID: id, SetKey: key, Root: id}
	for i, a := range at(addrs...) {
		b.put(b.cluster, model.BackendID(100*int(id)+i), id, id, a, 0)
	}
}

// part writes a part of a root, which leads to it, with backends of its own where it is in the node's layer.
func (b *book) part(id, root model.SetID, scope model.Scope, zone string, addrs ...string) {
	layer, place, view := b.node, model.PlaceOf(hereNode), model.Place(0)
	if scope == model.ScopeZone {
		layer, place, view = b.cluster, model.PlaceOf(zone), model.PlaceOf(zone)
	}
	key := b.cluster.Sets[root].SetKey
	key.Scope, key.Place = scope, place
	layer.Sets[id] = model.BackendSet{ID: id, SetKey: key, Root: root}
	viewKey := model.ViewKey{Set: root, Scope: scope, Place: view}
	layer.Views[viewKey] = model.View{ViewKey: viewKey, Target: id}
	for i, a := range at(addrs...) {
		if scope != model.ScopeZone {
			b.put(layer, model.BackendID(100*int(id)+i), id, root, a, place)
			continue
		}
		if backend := b.inCluster(root, a); backend != 0 {
			m := model.Member{Set: id, Backend: backend}
			layer.Members[m] = m
		}
	}
}

func (b *book) put(layer *model.Tables, id model.BackendID, set, root model.SetID, a netip.AddrPort, place model.Place) {
	row := model.Backend{
		ID: id, State: model.BackendActive,
		BackendKey: model.BackendKey{Set: root, Addr: a.Addr(), Port: a.Port(), Place: place},
	}
	if place != 0 {
		row.Twin = b.inCluster(root, a)
	}
	layer.Backends[id] = row
	m := model.Member{Set: set, Backend: id}
	layer.Members[m] = m
}

// inCluster returns the id that a backend of a root has in the cluster layer; 0 if it is not there.
func (b *book) inCluster(root model.SetID, a netip.AddrPort) model.BackendID {
	for id, row := range b.cluster.Backends {
		if row.Set == root && row.Addr == a.Addr() && row.Port == a.Port() {
			return id
		}
	}
	return 0
}

// terminate leaves a backend that only finishes what it has; member says that nothing better is there.
func (b *book) terminate(id model.BackendID, set model.SetID, member bool) {
	row := b.cluster.Backends[id]
	row.State = model.BackendTerminating
	b.cluster.Backends[id] = row
	m := model.Member{Set: set, Backend: id}
	delete(b.cluster.Members, m)
	if member {
		b.cluster.Members[m] = m
		root := b.cluster.Sets[set]
		root.Flags |= model.Fallback
		b.cluster.Sets[set] = root
	}
}

// remove takes a backend away.
func (b *book) remove(id model.BackendID, set model.SetID) {
	delete(b.cluster.Backends, id)
	delete(b.cluster.Members, model.Member{Set: set, Backend: id})
}

// front writes a frontend of a set at an exact address.
func (b *book) front(set model.SetID, kind model.FrontendKind, flags model.FrontendFlags, addr string) {
	a := netip.MustParseAddrPort(addr)
	b.frontKey(set, kind, flags, model.FrontendKey{Addr: a.Addr(), Port: a.Port(), Protocol: b.cluster.Sets[set].Service.Protocol})
}

// ownFront writes a frontend of a set at the node's own addresses.
func (b *book) ownFront(set model.SetID, match model.Match, flags model.FrontendFlags, port uint16) {
	s := b.cluster.Sets[set]
	key := model.FrontendKey{Addr: netip.IPv4Unspecified(), Port: port, Protocol: s.Service.Protocol, Match: match}
	if s.Family == model.IPv6 {
		key.Addr = netip.IPv6Unspecified()
	}
	kind := model.FrontendNodePort
	if match == model.MatchHostPort {
		kind = model.FrontendHostPort
	}
	b.frontKey(set, kind, flags, key)
}

func (b *book) frontKey(set model.SetID, kind model.FrontendKind, flags model.FrontendFlags, key model.FrontendKey) {
	b.cluster.Frontends[key] = model.Frontend{FrontendKey: key, Set: set, Kind: kind, Flags: flags}
}

// unpart takes back what part wrote.
func (b *book) unpart(id model.SetID) {
	for key, view := range b.node.Views {
		if view.Target == id {
			delete(b.node.Views, key)
		}
	}
	for m := range b.node.Members {
		if m.Set == id {
			delete(b.node.Members, m)
			delete(b.node.Backends, m.Backend)
		}
	}
	delete(b.node.Sets, id)
}

// network writes a prefix of the cluster.
func (b *book) network(kind model.NetworkKind, prefix string) {
	p := netip.MustParsePrefix(prefix)
	b.cluster.Networks[p] = model.Network{Prefix: p, Kind: kind}
}

// ranges lets only these clients in at a set's frontends that have ranges.
func (b *book) ranges(set model.SetID, prefixes ...string) {
	for _, text := range prefixes {
		r := model.SourceRange{Set: set, Prefix: netip.MustParsePrefix(text)}
		b.cluster.SourceRanges[r] = r
	}
}

// nodeAddresses tells the programs of the fabric's node: its addresses towards the pods, and loopback.
func nodeAddresses(t testing.TB, plane *bpf.Dataplane) {
	t.Helper()
	locals := map[netip.Addr]uint8{
		netip.MustParseAddr("127.0.0.1"): abi.LocalNodePort | abi.LocalLoopback,
		netip.MustParseAddr("::1"):       abi.LocalNodePort | abi.LocalLoopback,
		netip.MustParseAddr(node4):       abi.LocalNodePort,
		netip.MustParseAddr(node6):       abi.LocalNodePort,
		netip.MustParseAddr("10.1.1.1"):  0,
	}
	check(t, plane.SetLocals(locals))
	uplink := abi.Uplink{V4: netip.MustParseAddr(node4).As16(), V6: netip.MustParseAddr(node6).As16()}
	check(t, plane.SetUplinks(map[int]abi.Uplink{int(abi.UplinkAny): uplink}))
}

// The fabric's node, towards the client.
const node4, node6 = "10.1.0.1", "fd00:1::1"
