// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// viewJSON leads from a Service's set to the part of it that a zone or a node uses.
type viewJSON struct {
	Set     uint32 `json:"set"`
	Service string `json:"service"`
	Scope   string `json:"scope"`
	Place   string `json:"place,omitempty"` // the zone; its number if the name isn't known
	Target  uint32 `json:"target"`
	// Targets is the Service of the target: another than service only if something is wrong.
	Targets string `json:"targetService"`
}

type sourceRangeJSON struct {
	Set     uint32 `json:"set"`
	Service string `json:"service"`
	Prefix  string `json:"prefix"`
}

type networkJSON struct {
	Prefix string `json:"prefix"`
	Kind   string `json:"kind"` // "pods" or "services"
}

type healthCheckJSON struct {
	Port    uint16 `json:"port"`
	Service string `json:"service"` // without a port
}

// nodeJSON is how other nodes reach one.
type nodeJSON struct {
	Node   string `json:"node"` // its number if the name isn't known
	Number uint32 `json:"number"`
	IPv4   string `json:"ipv4,omitempty"`
	IPv6   string `json:"ipv6,omitempty"`
}

type selfJSON struct {
	Zone     string `json:"zone"`
	Draining bool   `json:"draining"`
	Policed  bool   `json:"policed"` // there are policies: connections of pods are judged
}

var frontendKinds = map[model.FrontendKind]string{
	model.FrontendClusterIP: "ClusterIP", model.FrontendNodePort: "NodePort", model.FrontendExternalIP: "ExternalIP",
	model.FrontendLoadBalancer: "LoadBalancer", model.FrontendHostPort: "HostPort", model.FrontendRefused: "Refused",
}

func frontendFlags(flags model.FrontendFlags) (words []string) {
	for _, f := range []struct {
		flag model.FrontendFlags
		word string
	}{
		{model.InternalLocal, "internal-local"},
		{model.ExternalLocal, "external-local"},
		{model.SourceRanges, "source-ranges"},
		{model.ForwardTunnel, "tunnel"},
		{model.ForwardDSR, "dsr"},
	} {
		if flags&f.flag != 0 {
			words = append(words, f.word)
		}
	}
	return words
}

func setFlags(flags model.SetFlags) (words []string) {
	for _, f := range []struct {
		flag model.SetFlags
		word string
	}{{model.NodeHints, "node-hints"}, {model.ZoneHints, "zone-hints"}, {model.Fallback, "fallback"}, {model.External, "external"}} {
		if flags&f.flag != 0 {
			words = append(words, f.word)
		}
	}
	return words
}

func scopeName(s model.Scope) string {
	switch s {
	case model.ScopeAll:
		return "all"
	case model.ScopeZone:
		return "zone"
	case model.ScopeNode:
		return "node"
	case model.ScopeLocal:
		return "local"
	case model.ScopeHostPort:
		return "host-port"
	}
	return "unknown"
}

func networkKind(k model.NetworkKind) string {
	switch k {
	case model.NetworkPods:
		return "pods"
	case model.NetworkServices:
		return "services"
	}
	return "unknown"
}

// addPlace learns the names of zones and nodes.
func (n *names) addPlace(names ...string) {
	for _, name := range names {
		if name != "" {
			n.places[model.PlaceOf(name)] = name
		}
	}
}

// place names a zone or a node; one that isn't known has its number.
func (n *names) place(p model.Place) string {
	if p == 0 {
		return ""
	}
	return cmp.Or(n.places[p], fmt.Sprintf("%016x", uint64(p)))
}

// node names a node; one that isn't known has its number.
func (n *names) node(id model.NodeID) string {
	if id == 0 {
		return ""
	}
	return cmp.Or(n.numbers[id], fmt.Sprintf("%08x", uint32(id)))
}

// addrText writes an address; none is empty.
func addrText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// otherRows fills in the tables that lead from no Service's address to a backend.
func (n *names) otherRows(rows *model.Rows, out *rowsJSON, wanted func(string) bool) {
	if wanted("views") {
		out.Views = new(convertAll(sortedBy(rows.Views, compareViews), func(v model.View) viewJSON {
			return viewJSON{uint32(v.Set), n.service(v.Set), scopeName(v.Scope), n.place(v.Place), uint32(v.Target), n.service(v.Target)}
		}))
	}
	if wanted("source-ranges") {
		out.SourceRanges = new(convertAll(sortedBy(rows.SourceRanges, compareRanges), func(r model.SourceRange) sourceRangeJSON {
			return sourceRangeJSON{uint32(r.Set), n.service(r.Set), r.Prefix.String()}
		}))
	}
	if wanted("networks") {
		byPrefix := func(a, b model.Network) int { return a.Prefix.Compare(b.Prefix) }
		out.Networks = new(convertAll(sortedBy(rows.Networks, byPrefix), func(w model.Network) networkJSON {
			return networkJSON{w.Prefix.String(), networkKind(w.Kind)}
		}))
	}
	if wanted("health-checks") {
		byPort := func(a, b model.HealthCheck) int { return cmp.Compare(a.Port, b.Port) }
		out.HealthChecks = new(convertAll(sortedBy(rows.HealthChecks, byPort), func(h model.HealthCheck) healthCheckJSON {
			return healthCheckJSON{h.Port, h.Namespace + "/" + h.Name}
		}))
	}
	if wanted("nodes") {
		byNumber := func(a, b model.Node) int { return cmp.Compare(a.ID, b.ID) }
		out.Nodes = new(convertAll(sortedBy(rows.Nodes, byNumber), func(row model.Node) nodeJSON {
			return nodeJSON{n.node(row.ID), uint32(row.ID), addrText(row.V4), addrText(row.V6)}
		}))
	}
	if wanted("self") {
		out.Self = new(convertAll(slices.Clone(rows.Selves), func(s model.Self) selfJSON { return selfJSON{s.Zone, s.Draining, s.Policed} }))
	}
}

func compareViews(a, b model.View) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Place, b.Place))
}

func compareRanges(a, b model.SourceRange) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), a.Prefix.Compare(b.Prefix))
}
