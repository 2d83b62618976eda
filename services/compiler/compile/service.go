// SPDX-License-Identifier: Apache-2.0

// Package compile works out what every node's tables must hold: the function from a state to rows.
//
// It is pure. The work is cut into units, each compiled alone: a Service (itself and its slices, into the
// cluster layer) and a node (its pods, into the node's layer). It promises that compiling again only the units
// that were touched, from the state before and after, and applying the difference, gives the same rows as
// compiling everything, for any order and grouping of events. So a unit may read nothing but what
// state.Changes names it for: before reading more here, make state touch the unit when that changes.
//
// Which backends a Service has follows kube-proxy (CategorizeEndpoints in pkg/proxy/topology.go of Kubernetes
// 1.37): the ready ones; if there is none, those that terminate and still serve. An endpoint that several
// slices have counts at its best: a slice that is late must not take a ready endpoint away.
package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// MaxBackends bounds the backends of one Service, endpoints times ports: a mistake in one object must not take
// the memory that all others need.
const MaxBackends = 1 << 18

// service is what one Service comes to, without ids: its sets in order of their keys.
type service struct {
	sets  []set
	aside []state.SetAside
}

// set is one BackendSet with all that belongs to it. Each list is sorted and has nothing twice.
type set struct {
	key       model.SetKey
	frontends []model.FrontendKey
	backends  []backend
}

// backend is a Backend of a set; a member takes new connections.
type backend struct {
	at     netip.AddrPort
	state  model.BackendState
	member bool
}

// compileService compiles one Service; one that is absent, or not ours, comes to nothing.
func compileService(snap *state.Snapshot, name state.Name) service {
	var unit service
	svc, found := snap.Service(name)
	if !found {
		return unit
	}
	won, aside := claims(snap, svc)
	unit.aside = aside
	if svc.ProxyName != "" || svc.Type == "ExternalName" || len(won) == 0 {
		return unit
	}
	if n := candidatesOf(snap, svc); n > MaxBackends {
		unit.aside = append(unit.aside, setAside(svc, fmt.Sprintf(
			"its slices come to %d backends, endpoints times ports: at most %d are compiled, so it has no rows", n, MaxBackends)))
		return unit
	}
	for _, family := range []model.Family{model.IPv4, model.IPv6} {
		addrs := ofFamily(won, family)
		if len(addrs) == 0 {
			continue
		}
		for _, port := range svc.Ports {
			unit.sets = append(unit.sets, compileSet(snap, svc, port, family, addrs))
		}
	}
	slices.SortFunc(unit.sets, func(a, b set) int { return compareSetKeys(a.key, b.key) })
	return unit
}

// compileSet compiles one ServicePort in one family.
func compileSet(
	snap *state.Snapshot, svc *state.Service, port state.Port, family model.Family, addrs []netip.Addr,
) set {
	s := set{key: model.SetKey{
		Service: model.ServicePort{
			Namespace: svc.Namespace, Name: svc.Name.Name, Port: port.Number, Protocol: port.Protocol,
		},
		Family: family, Scope: model.ScopeAll,
	}}
	for _, addr := range addrs {
		s.frontends = append(s.frontends, model.FrontendKey{Addr: addr, Port: port.Number, Protocol: port.Protocol})
	}
	s.backends = backends(snap.SlicesOf(svc.Name), port, family)
	return s
}

// claims returns the addresses that svc has to itself. An address that several Services claim belongs to the
// oldest of them: Kubernetes gives it to one only, so the younger claim is the mistake.
func claims(snap *state.Snapshot, svc *state.Service) (won []netip.Addr, aside []state.SetAside) {
	for _, addr := range svc.ClusterIPs {
		if slices.Contains(won, addr) {
			continue
		}
		oldest := svc
		for other := range snap.Claims(addr) {
			if older(other, oldest) {
				oldest = other
			}
		}
		if oldest == svc {
			won = append(won, addr)
			continue
		}
		aside = append(aside, setAside(svc, fmt.Sprintf(
			"its address %s belongs to Service %s, which is older: give one of them another address", addr, oldest.Name)))
	}
	slices.SortFunc(won, netip.Addr.Compare)
	return won, aside
}

func setAside(svc *state.Service, reason string) state.SetAside {
	return state.SetAside{
		Object: &schemas.ObjectRef{Kind: state.KindService, Namespace: svc.Namespace, Name: svc.Name.Name}, Reason: reason,
	}
}

func older(a, b *state.Service) bool {
	return cmp.Or(a.Created.Compare(b.Created), a.Name.Compare(b.Name)) < 0
}

func ofFamily(addrs []netip.Addr, family model.Family) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return model.FamilyOf(a) != family })
}

func compareSetKeys(a, b model.SetKey) int {
	return cmp.Or(
		cmp.Compare(a.Service.Namespace, b.Service.Namespace), cmp.Compare(a.Service.Name, b.Service.Name),
		cmp.Compare(a.Service.Port, b.Service.Port), cmp.Compare(a.Service.Protocol, b.Service.Protocol),
		cmp.Compare(a.Family, b.Family), cmp.Compare(a.Scope, b.Scope),
	)
}

func compareFrontendKeys(a, b model.FrontendKey) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}
