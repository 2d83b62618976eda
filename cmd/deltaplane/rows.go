// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// tableNames are the tables that can be asked for.
var tableNames = []string{
	"frontends", "views", "sets", "backends", "members", "endpoints", "source-ranges", "networks", "health-checks", "nodes", "self",
	"rule-sets", "rules", "verdicts", "ports", "peers", "blocks",
}

// rowsJSON are rows with names beside numbers. A table that wasn't asked for is left out. Scripts read it.
type rowsJSON struct {
	Frontends *[]frontendJSON `json:"frontends,omitempty"`
	Sets      *[]setJSON      `json:"sets,omitempty"`
	Backends  *[]backendJSON  `json:"backends,omitempty"`
	Members   *[]memberJSON   `json:"members,omitempty"`
	Endpoints *[]endpointJSON `json:"endpoints,omitempty"`

	Views        *[]viewJSON        `json:"views,omitempty"`
	SourceRanges *[]sourceRangeJSON `json:"sourceRanges,omitempty"`
	Networks     *[]networkJSON     `json:"networks,omitempty"`
	HealthChecks *[]healthCheckJSON `json:"healthChecks,omitempty"`
	Nodes        *[]nodeJSON        `json:"nodes,omitempty"`
	Self         *[]selfJSON        `json:"self,omitempty"`

	policyRowsJSON
}

type frontendJSON struct {
	Address  string   `json:"address"` // 0.0.0.0 or :: for the node's own
	Port     uint16   `json:"port"`    // 0 with kind Refused
	Protocol string   `json:"protocol"`
	Kind     string   `json:"kind"`
	Flags    []string `json:"flags,omitempty"`
	Set      uint32   `json:"set"`
	Service  string   `json:"service"`
	key      string
}

type setJSON struct {
	ID       uint32 `json:"id"`
	Service  string `json:"service"`
	Protocol string `json:"protocol"`
	Family   int    `json:"family"`
	Scope    string `json:"scope"`
	Place    string `json:"place,omitempty"` // the zone or node of the scope; its number if the name isn't known
	Root     uint32 `json:"root"`            // the set that this one is a part of, or itself
	// Flags may have "node-hints", "zone-hints", "fallback" and "external".
	Flags    []string `json:"flags,omitempty"`
	Affinity uint32   `json:"affinitySeconds,omitempty"`
	Backends int      `json:"backends"`
}

type backendJSON struct {
	ID      uint32 `json:"id"`
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	State   string `json:"state"`
	Pod     string `json:"pod"`
	Set     uint32 `json:"set"`
	Service string `json:"service"`
	Twin    uint32 `json:"twin,omitempty"` // the same backend in the cluster layer, of one in a node's
	Node    string `json:"node,omitempty"` // where it is; a number if the name isn't known
	Weight  uint16 `json:"weight"`         // its share of clients from outside, 1 to 100
}

type memberJSON struct {
	Set     uint32 `json:"set"`
	Service string `json:"service"`
	Backend uint32 `json:"backend"`
	Address string `json:"address"`
	Pod     string `json:"pod"`
}

type endpointJSON struct {
	Address string `json:"address"`
	Pod     string `json:"pod"`
	// Ingress and Egress are the rule sets that judge it, with the policies of each; empty if none does.
	Ingress         string `json:"ingress,omitempty"`
	IngressPolicies string `json:"ingressPolicies,omitempty"`
	Egress          string `json:"egress,omitempty"`
	EgressPolicies  string `json:"egressPolicies,omitempty"`
}

// names gives words to numbers: Services to sets, addresses to backends, pods to addresses. What it has not heard of
// is an empty word.
type names struct {
	sets     map[model.SetID]model.BackendSet
	backends map[model.BackendID]model.Backend
	pods     map[netip.Addr]string
	nodes    map[string]bool
	places   map[model.Place]string // zones and nodes
	numbers  map[model.NodeID]string
	policy   policyNames
}

func newNames() *names {
	return &names{
		sets: map[model.SetID]model.BackendSet{}, backends: map[model.BackendID]model.Backend{},
		pods: map[netip.Addr]string{}, nodes: map[string]bool{}, places: map[model.Place]string{},
		numbers: map[model.NodeID]string{},
	}
}

// readFacts learns nodes and the pods' addresses from the facts on the bus.
func (n *names) readFacts(ctx context.Context, conn *bus.Conn) error {
	return conn.Read(ctx, bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState}}, func(r bus.Record) error {
		var fact schemas.Fact
		if wire.Unmarshal(r.Data, &fact) != nil {
			return nil // nothing to learn from what is no fact
		}
		n.addFact(&fact)
		return nil
	})
}

func (n *names) addFact(fact *schemas.Fact) {
	if node := fact.GetNode(); node != nil {
		n.nodes[fact.GetObject().GetName()] = true
		n.addPlace(fact.GetObject().GetName(), node.GetZone())
		n.numbers[model.NodeIDOf(fact.GetObject().GetName())] = fact.GetObject().GetName()
	}
	for _, e := range fact.GetEndpointSlice().GetEndpoints() {
		n.addPlace(e.GetZoneHints()...)
	}
	pod := fact.GetPod()
	if pod == nil || pod.GetHostNetwork() || pod.GetFinished() {
		return
	}
	for _, raw := range pod.GetAddresses() {
		if a, err := wire.AddrFromProto(raw); err == nil {
			n.pods[a] = fact.GetObject().GetNamespace() + "/" + fact.GetObject().GetName()
		}
	}
}

func (n *names) addRows(rows *model.Rows) {
	for _, s := range rows.Sets {
		n.sets[s.ID] = s
	}
	for _, b := range rows.Backends {
		n.backends[b.ID] = b
	}
	for _, e := range rows.Endpoints {
		n.pods[e.Addr] = e.Pod
	}
	n.addPolicy(rows)
}

func (n *names) service(id model.SetID) string {
	if s, known := n.sets[id]; known {
		return s.Service.String()
	}
	return ""
}

func (n *names) address(id model.BackendID) string {
	if b, known := n.backends[id]; known {
		return netip.AddrPortFrom(b.Addr, b.Port).String()
	}
	return ""
}

// rows puts names beside rows, sorted by key. tables says which; none is all.
func (n *names) rows(rows *model.Rows, tables ...string) rowsJSON {
	var out rowsJSON
	wanted := func(table string) bool { return len(tables) == 0 || slices.Contains(tables, table) }
	if wanted("frontends") {
		out.Frontends = new(convertAll(sortedBy(rows.Frontends, compareFrontends), n.frontend))
	}
	if wanted("sets") {
		count := map[model.SetID]int{}
		for _, m := range rows.Members {
			count[m.Set]++
		}
		out.Sets = new(convertAll(sortedBy(rows.Sets, func(a, b model.BackendSet) int { return cmp.Compare(a.ID, b.ID) }),
			func(s model.BackendSet) setJSON {
				return setJSON{
					uint32(s.ID), s.Service.String(), s.Service.Protocol.String(), int(s.Family), scopeName(s.Scope), n.place(s.Place),
					uint32(s.Root), setFlags(s.Flags), s.Affinity, count[s.ID],
				}
			}))
	}
	if wanted("backends") {
		out.Backends = new(convertAll(sortedBy(rows.Backends, func(a, b model.Backend) int { return cmp.Compare(a.ID, b.ID) }), n.backend))
	}
	if wanted("members") {
		out.Members = new(convertAll(sortedBy(rows.Members, compareMembers), n.member))
	}
	if wanted("endpoints") {
		out.Endpoints = new(convertAll(sortedBy(rows.Endpoints, compareEndpoints), n.policy.endpoint))
	}
	n.otherRows(rows, &out, wanted)
	n.policyRows(rows, &out, wanted)
	return out
}

func (n *names) frontend(f model.Frontend) frontendJSON {
	protocol := ""
	if f.Protocol != 0 {
		protocol = f.Protocol.String()
	}
	return frontendJSON{
		f.Addr.String(), f.Port, protocol, cmp.Or(frontendKinds[f.Kind], "unknown"), frontendFlags(f.Flags), uint32(f.Set), n.service(f.Set),
		f.FrontendKey.String(),
	}
}

func (n *names) backend(b model.Backend) backendJSON {
	return backendJSON{
		uint32(b.ID), b.Addr.String(), b.Port, stateName(b.State), n.pods[b.Addr], uint32(b.Set), n.service(b.Set), uint32(b.Twin),
		n.node(b.Node), b.Share(),
	}
}

func (n *names) member(m model.Member) memberJSON {
	return memberJSON{uint32(m.Set), n.service(m.Set), uint32(m.Backend), n.address(m.Backend), n.pods[n.backends[m.Backend].Addr]}
}

func stateName(s model.BackendState) string {
	switch s {
	case model.BackendActive:
		return "active"
	case model.BackendTerminating:
		return "terminating"
	}
	return "unknown"
}

func compareFrontends(a, b model.Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Match, b.Match))
}

func compareMembers(a, b model.Member) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Backend, b.Backend))
}

func sortedBy[T any](list []T, compare func(a, b T) int) []T {
	list = slices.Clone(list)
	slices.SortFunc(list, compare)
	return list
}
