// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/healthcheck"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// serviceName names a Service, whatever its ports.
type serviceName struct{ namespace, name string }

func nameOf(p model.ServicePort) serviceName { return serviceName{p.Namespace, p.Name} }

// healthChecks returns what the rows say about healthCheckNodePorts: how many ready endpoints of each Service are here.
// A pod counts once, whatever its ports; with addresses of both families the larger number counts.
func healthChecks(state *plan.State) []healthcheck.Check {
	var checks []healthcheck.Check
	var local map[serviceName]int
	for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
		for _, h := range state.Tables(kind).HealthChecks {
			if local == nil {
				local = localEndpoints(state.Tables(model.LayerNode))
			}
			checks = append(checks, healthcheck.Check{
				Port: h.Port, Namespace: h.Namespace, Name: h.Name, Endpoints: local[serviceName{h.Namespace, h.Name}],
			})
		}
	}
	return checks
}

// localEndpoints counts the ready endpoints that a node's layer has for traffic policy Local.
func localEndpoints(rows *model.Tables) map[serviceName]int {
	type family struct {
		serviceName
		model.Family
	}
	addrs := map[family]map[netip.Addr]bool{}
	for m := range rows.Members {
		s, b := rows.Sets[m.Set], rows.Backends[m.Backend]
		if s.Scope != model.ScopeLocal || s.Flags&model.Fallback != 0 || b.State != model.BackendActive {
			continue
		}
		of := family{nameOf(s.Service), s.Family}
		if addrs[of] == nil {
			addrs[of] = map[netip.Addr]bool{}
		}
		addrs[of][b.Addr] = true
	}
	counts := map[serviceName]int{}
	for of, all := range addrs {
		counts[of.serviceName] = max(counts[of.serviceName], len(all))
	}
	return counts
}

// withoutLocal counts the ports of Services whose traffic policy is Local, that have endpoints, and none here: for
// clients inside and for those outside.
func withoutLocal(state *plan.State) (internal, external int) {
	here := map[model.SetID]bool{}
	for key := range state.Tables(model.LayerNode).Views {
		here[key.Set] = here[key.Set] || key.Scope == model.ScopeLocal
	}
	inside, outside := map[model.SetID]bool{}, map[model.SetID]bool{}
	for _, f := range state.Tables(model.LayerCluster).Frontends {
		if here[f.Set] || state.Size(f.Set) == 0 {
			continue
		}
		if f.Flags&model.InternalLocal != 0 {
			inside[f.Set] = true
		}
		if f.Flags&model.ExternalLocal != 0 {
			outside[f.Set] = true
		}
	}
	return len(inside), len(outside)
}
