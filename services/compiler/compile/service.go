// SPDX-License-Identifier: Apache-2.0

// Package compile works out what every node's tables must hold: the function from a state and settings to rows.
//
// It is pure. The work is cut into units, each compiled alone: a Service (itself and its slices, into the cluster
// layer, and the layers of nodes where its policies or hints make a difference), a node (what it is and its pods,
// into its layer), a network (a prefix, into the cluster layer) and a number (how the node that has it is reached, into
// the cluster layer). It promises that compiling again only the units that were touched, from the state before and
// after, and applying the difference, gives the same rows as compiling everything, for any order and grouping of
// events. So a unit may read nothing but what state.Changes names it for: before reading more here, make state touch
// the unit when that changes.
//
// Which backends a client may use follows kube-proxy (CategorizeEndpoints in pkg/proxy/topology.go of Kubernetes
// 1.37), in topology.go. An endpoint that several slices have counts at its best: a slice that is late must not take
// a ready endpoint away.
package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// A mistake in one object must not take the memory that all others need.
const (
	// MaxBackends bounds the backends of one Service, endpoints times ports.
	MaxBackends = 1 << 18
	// MaxRanges bounds the source ranges of one Service, times its ports.
	MaxRanges = 1 << 16
)

// compileService compiles one Service; one that is absent, headless or not ours comes to nothing.
func compileService(snap *state.Snapshot, settings *Settings, name state.Name) (c content) {
	svc, found := snap.Service(name)
	if !found || svc.Foreign() {
		return c
	}
	claims := claims{snap: snap, settings: settings, svc: svc}
	claims.addresses()
	if reason := tooLarge(snap, svc); reason != "" {
		claims.lose("%s", reason)
		return content{aside: claims.aside}
	}
	for _, family := range svc.Families() {
		for _, port := range svc.Ports {
			frontends := claims.frontends(port, family)
			if len(frontends) > 0 {
				c.parts = append(c.parts, compilePort(snap, svc, port, family, frontends)...)
			}
		}
	}
	c.refused = claims.won
	c.checks = claims.healthChecks()
	c.aside = claims.aside
	return c
}

func tooLarge(snap *state.Snapshot, svc *state.Service) (reason string) {
	if n := candidatesOf(snap, svc); n > MaxBackends {
		return fmt.Sprintf("its slices come to %d backends, endpoints times ports: at most %d are compiled, so it has no rows", n, MaxBackends)
	}
	if n := len(svc.SourceRanges) * len(svc.Ports); n > MaxRanges {
		return fmt.Sprintf("its source ranges come to %d, ranges times ports: at most %d are compiled, so it has no rows: join some", n, MaxRanges)
	}
	return ""
}

// compilePort compiles one ServicePort in one family.
func compilePort(snap *state.Snapshot, svc *state.Service, port state.Port, family model.Family, frontends []frontend) []part {
	t := topology{
		root: model.SetKey{
			Service: model.ServicePort{Namespace: svc.Namespace, Name: svc.Name.Name, Port: port.Number, Protocol: port.Protocol},
			Family:  family, Scope: model.ScopeAll,
		},
		affinity: svc.AffinitySeconds, local: usesLocal(svc),
	}
	if slices.ContainsFunc(frontends, forCluster) {
		t.external = model.External
	}
	t.read(candidates(snap.SlicesOf(svc.Name), port, family))
	root := t.cluster()
	root.frontends = frontends
	if slices.ContainsFunc(frontends, func(f frontend) bool { return f.flags&model.SourceRanges != 0 }) {
		root.ranges = ofFamily(svc.SourceRanges, family, netip.Prefix.Addr)
	}
	return append(t.nodes(), root)
}

// forCluster says whether clients from outside that dial a frontend get backends of any node.
func forCluster(f frontend) bool {
	return f.kind != model.FrontendClusterIP && f.flags&model.ExternalLocal == 0
}

// usesLocal says whether some clients of a Service get backends of one node alone (UsesLocalEndpoints of kube-proxy),
// or nodes have to tell how many they have.
func usesLocal(svc *state.Service) bool {
	return svc.InternalLocal || svc.ExternalLocal && (externallyAccessible(svc) || svc.HealthCheck() != 0)
}

func externallyAccessible(svc *state.Service) bool {
	return len(svc.ExternalIPs)+len(svc.LoadBalancerIPs) > 0 ||
		slices.ContainsFunc(svc.Ports, func(p state.Port) bool { return p.NodePort != 0 })
}

func setAside(svc *state.Service, reason string) state.SetAside {
	return state.SetAside{
		Object: &schemas.ObjectRef{Kind: state.KindService, Namespace: svc.Namespace, Name: svc.Name.Name}, Reason: reason,
	}
}

// ofFamily returns the elements whose address is of a family.
func ofFamily[E any](all []E, family model.Family, addr func(E) netip.Addr) []E {
	return slices.DeleteFunc(slices.Clone(all), func(e E) bool { return model.FamilyOf(addr(e)) != family })
}
