// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// RowsToProto returns rows as a message; nil if there are none.
func RowsToProto(rows model.Rows) *schemas.Rows {
	if rows.Len() == 0 {
		return nil
	}
	return &schemas.Rows{
		Frontends: list(rows.Frontends, frontendToProto),
		Sets:      list(rows.Sets, setToProto),
		Backends:  list(rows.Backends, backendToProto),
		Members:   membersToProto(rows.Members),
		Endpoints: list(rows.Endpoints, endpointToProto),

		Views:        list(rows.Views, viewToProto),
		SourceRanges: list(rows.SourceRanges, sourceRangeToProto),
		Networks: list(rows.Networks, func(n model.Network) *schemas.Network {
			return &schemas.Network{Prefix: prefixToProto(n.Prefix), Kind: schemas.NetworkKind(n.Kind)}
		}),
		HealthChecks: list(rows.HealthChecks, func(h model.HealthCheck) *schemas.HealthCheck {
			return &schemas.HealthCheck{Port: uint32(h.Port), Namespace: h.Namespace, Service: h.Name}
		}),
		Nodes: list(rows.Nodes, nodeToProto),
		Selves: list(rows.Selves, func(s model.Self) *schemas.Self {
			return &schemas.Self{Zone: s.Zone, Draining: s.Draining, Policed: s.Policed}
		}),
		RuleSets:     list(rows.RuleSets, ruleSetToProto),
		Rules:        list(rows.Rules, ruleToProto),
		Verdicts:     list(rows.Verdicts, verdictToProto),
		PortVerdicts: list(rows.PortVerdicts, portVerdictToProto),
		Peers:        peersToProto(rows.Peers),
		Blocks:       list(rows.Blocks, blockToProto),
	}
}

// RowsFromProto checks and returns the rows of a message.
func RowsFromProto(m *schemas.Rows) (model.Rows, error) {
	var rows model.Rows
	err := first(
		into(&rows.Frontends, "frontend", m.GetFrontends(), frontendFromProto),
		into(&rows.Sets, "set", m.GetSets(), setFromProto),
		into(&rows.Backends, "backend", m.GetBackends(), backendFromProto),
		membersInto(&rows.Members, m.GetMembers()),
		into(&rows.Endpoints, "endpoint", m.GetEndpoints(), endpointFromProto),
		into(&rows.Views, "view", m.GetViews(), viewFromProto),
		into(&rows.SourceRanges, "source range", m.GetSourceRanges(), sourceRangeFromProto),
		into(&rows.Networks, "network", m.GetNetworks(), networkFromProto),
		into(&rows.HealthChecks, "health check", m.GetHealthChecks(), healthCheckFromProto),
		into(&rows.Nodes, "node", m.GetNodes(), nodeFromProto),
		into(&rows.Selves, "self", m.GetSelves(), selfFromProto),
		into(&rows.RuleSets, "rule set", m.GetRuleSets(), ruleSetFromProto),
		into(&rows.Rules, "rule", m.GetRules(), ruleFromProto),
		into(&rows.Verdicts, "verdict", m.GetVerdicts(), verdictFromProto),
		into(&rows.PortVerdicts, "port verdict", m.GetPortVerdicts(), portVerdictFromProto),
		peersInto(&rows.Peers, m.GetPeers()),
		into(&rows.Blocks, "block", m.GetBlocks(), blockFromProto),
	)
	return rows, err
}

// KeysToProto returns keys as a message; nil if there are none.
func KeysToProto(keys model.Keys) *schemas.Keys {
	if keys.Len() == 0 {
		return nil
	}
	return &schemas.Keys{
		Frontends: list(keys.Frontends, keyToProto),
		Sets:      list(keys.Sets, func(id model.SetID) uint32 { return uint32(id) }),
		Backends:  list(keys.Backends, func(id model.BackendID) uint32 { return uint32(id) }),
		Members:   membersToProto(keys.Members),
		Endpoints: list(keys.Endpoints, AddrToProto),

		Views:        list(keys.Views, viewKeyToProto),
		SourceRanges: list(keys.SourceRanges, sourceRangeToProto),
		Networks:     list(keys.Networks, prefixToProto),
		HealthChecks: list(keys.HealthChecks, func(port uint16) uint32 { return uint32(port) }),
		Nodes:        list(keys.Nodes, func(id model.NodeID) uint32 { return uint32(id) }),
		Self:         len(keys.Selves) > 0,
		RuleSets:     list(keys.RuleSets, func(id model.RuleSetID) uint64 { return uint64(id) }),
		Rules:        list(keys.Rules, func(id model.RuleID) uint64 { return uint64(id) }),
		Verdicts:     list(keys.Verdicts, verdictKeyToProto),
		PortVerdicts: list(keys.PortVerdicts, portKeyToProto),
		Peers:        list(keys.Peers, AddrToProto),
		Blocks:       list(keys.Blocks, prefixToProto),
	}
}

// KeysFromProto checks and returns the keys of a message.
func KeysFromProto(m *schemas.Keys) (model.Keys, error) {
	var keys model.Keys
	err := first(
		into(&keys.Frontends, "frontend key", m.GetFrontends(), keyFromProto),
		into(&keys.Sets, "set", m.GetSets(), setID),
		into(&keys.Backends, "backend", m.GetBackends(), backendID),
		membersInto(&keys.Members, m.GetMembers()),
		into(&keys.Endpoints, "endpoint", m.GetEndpoints(), AddrFromProto),
		into(&keys.Views, "view key", m.GetViews(), viewKeyFromProto),
		into(&keys.SourceRanges, "source range", m.GetSourceRanges(), sourceRangeFromProto),
		into(&keys.Networks, "network", m.GetNetworks(), prefixFromProto),
		into(&keys.HealthChecks, "health check", m.GetHealthChecks(), PortFromProto),
		into(&keys.Nodes, "node", m.GetNodes(), nodeID),
		into(&keys.RuleSets, "rule set", m.GetRuleSets(), ruleSetID),
		into(&keys.Rules, "rule", m.GetRules(), ruleID),
		into(&keys.Verdicts, "verdict key", m.GetVerdicts(), verdictKeyFromProto),
		into(&keys.PortVerdicts, "port key", m.GetPortVerdicts(), portKeyFromProto),
		into(&keys.Peers, "peer", m.GetPeers(), AddrFromProto),
		into(&keys.Blocks, "block", m.GetBlocks(), prefixFromProto),
	)
	if m.GetSelf() {
		keys.Selves = []model.SelfKey{{}}
	}
	return keys, err
}

func backendToProto(b model.Backend) *schemas.Backend {
	return &schemas.Backend{
		Id: uint32(b.ID), Set: uint32(b.Set), Address: AddrToProto(b.Addr), Port: uint32(b.Port),
		State: schemas.BackendState(b.State), Place: uint64(b.Place),
		Twin: uint32(b.Twin), Node: uint32(b.Node), Weight: uint32(b.Weight),
	}
}

func backendFromProto(m *schemas.Backend) (model.Backend, error) {
	id, errID := backendID(m.GetId())
	set, errSet := setID(m.GetSet())
	addr, errAddr := AddrFromProto(m.GetAddress())
	port, errPort := PortFromProto(m.GetPort())
	var errState error
	if s := m.GetState(); s != schemas.BackendState_BACKEND_STATE_ACTIVE && s != schemas.BackendState_BACKEND_STATE_TERMINATING {
		errState = fmt.Errorf("state %d is unknown here", s)
	}
	var errWeight error
	if w := m.GetWeight(); w == 1 || w > model.MaxWeight {
		errWeight = fmt.Errorf("weight %d: want 0, which is 1, or 2 to %d", w, model.MaxWeight)
	}
	return model.Backend{
		ID: id, State: model.BackendState(m.GetState()),
		BackendKey: model.BackendKey{Set: set, Addr: addr, Port: port, Place: model.Place(m.GetPlace())},
		Twin:       model.BackendID(m.GetTwin()), Node: model.NodeID(m.GetNode()), Weight: uint16(m.GetWeight()),
	}, first(errID, errSet, errAddr, errPort, errState, errWeight)
}

func endpointToProto(e model.Endpoint) *schemas.Endpoint {
	return &schemas.Endpoint{
		Address: AddrToProto(e.Addr), Pod: e.Pod, Incarnation: e.Incarnation,
		Ingress: uint64(e.Ingress), Egress: uint64(e.Egress),
	}
}

func endpointFromProto(m *schemas.Endpoint) (model.Endpoint, error) {
	addr, errAddr := AddrFromProto(m.GetAddress())
	var errPod error
	if m.GetPod() == "" {
		errPod = fmt.Errorf("pod is empty")
	}
	return model.Endpoint{
		Addr: addr, Pod: m.GetPod(), Incarnation: m.GetIncarnation(),
		Ingress: model.RuleSetID(m.GetIngress()), Egress: model.RuleSetID(m.GetEgress()),
	}, first(errAddr, errPod, text("pod", m.GetPod(), MaxPod))
}

// membersToProto groups members by set, in the order in which sets first appear.
func membersToProto(members []model.Member) []*schemas.Members {
	var groups []*schemas.Members
	bySet := map[model.SetID]*schemas.Members{}
	for _, m := range members {
		group := bySet[m.Set]
		if group == nil {
			group = &schemas.Members{Set: uint32(m.Set)}
			bySet[m.Set] = group
			groups = append(groups, group)
		}
		group.Backends = append(group.Backends, uint32(m.Backend))
	}
	return groups
}

func membersInto(members *[]model.Member, groups []*schemas.Members) error {
	for i, group := range groups {
		set, err := setID(group.GetSet())
		if err != nil {
			return fmt.Errorf("members %d: %w", i, err)
		}
		*members = slices.Grow(*members, len(group.GetBackends()))
		for _, backend := range group.GetBackends() {
			id, err := backendID(backend)
			if err != nil {
				return fmt.Errorf("members of set %d: %w", set, err)
			}
			*members = append(*members, model.Member{Set: set, Backend: id})
		}
	}
	return nil
}

// ProtocolFromProto reads a protocol that carries Services.
func ProtocolFromProto(p schemas.Protocol) (model.Protocol, error) {
	switch p {
	case schemas.Protocol_PROTOCOL_TCP, schemas.Protocol_PROTOCOL_UDP, schemas.Protocol_PROTOCOL_SCTP:
		return model.Protocol(p), nil
	}
	return 0, fmt.Errorf("protocol %d: want 6 (TCP), 17 (UDP) or 132 (SCTP)", p)
}

func setID(id uint32) (model.SetID, error) {
	if id == 0 {
		return 0, fmt.Errorf("set id 0 is no set")
	}
	return model.SetID(id), nil
}

func backendID(id uint32) (model.BackendID, error) {
	if id == 0 {
		return 0, fmt.Errorf("backend id 0 is no backend")
	}
	return model.BackendID(id), nil
}

// list turns each of from into what to makes of it; nil stays nil.
func list[F, T any](from []F, to func(F) T) []T {
	if from == nil {
		return nil
	}
	all := make([]T, len(from))
	for i, f := range from {
		all[i] = to(f)
	}
	return all
}

// into reads each of from into rows and says which one is wrong.
func into[F, T any](rows *[]T, what string, from []F, read func(F) (T, error)) error {
	if len(from) == 0 {
		return nil
	}
	*rows = make([]T, len(from))
	for i, f := range from {
		r, err := read(f)
		if err != nil {
			return fmt.Errorf("%s %d: %w", what, i, err)
		}
		(*rows)[i] = r
	}
	return nil
}

// first returns the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
