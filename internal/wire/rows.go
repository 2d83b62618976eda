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
		Endpoints: list(rows.Endpoints, func(e model.Endpoint) *schemas.Endpoint {
			return &schemas.Endpoint{Address: AddrToProto(e.Addr), Pod: e.Pod}
		}),
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
	)
	return keys, err
}

func keyToProto(k model.FrontendKey) *schemas.FrontendKey {
	return &schemas.FrontendKey{Address: AddrToProto(k.Addr), Port: uint32(k.Port), Protocol: schemas.Protocol(k.Protocol)}
}

func keyFromProto(m *schemas.FrontendKey) (model.FrontendKey, error) {
	addr, errAddr := AddrFromProto(m.GetAddress())
	port, errPort := PortFromProto(m.GetPort())
	protocol, errProtocol := ProtocolFromProto(m.GetProtocol())
	return model.FrontendKey{Addr: addr, Port: port, Protocol: protocol}, first(errAddr, errPort, errProtocol)
}

func frontendToProto(f model.Frontend) *schemas.Frontend {
	return &schemas.Frontend{Key: keyToProto(f.FrontendKey), Set: uint32(f.Set), Kind: schemas.FrontendKind(f.Kind)}
}

func frontendFromProto(m *schemas.Frontend) (model.Frontend, error) {
	key, errKey := keyFromProto(m.GetKey())
	set, errSet := setID(m.GetSet())
	var errKind error
	if m.GetKind() != schemas.FrontendKind_FRONTEND_KIND_CLUSTER_IP {
		errKind = fmt.Errorf("kind %d is unknown here", m.GetKind())
	}
	return model.Frontend{FrontendKey: key, Set: set, Kind: model.FrontendKind(m.GetKind())}, first(errKey, errSet, errKind)
}

func setToProto(s model.BackendSet) *schemas.BackendSet {
	return &schemas.BackendSet{
		Id: uint32(s.ID), Namespace: s.Service.Namespace, Service: s.Service.Name, Port: uint32(s.Service.Port),
		Protocol: schemas.Protocol(s.Service.Protocol), Family: schemas.IPFamily(s.Family), Scope: schemas.Scope(s.Scope),
	}
}

func setFromProto(m *schemas.BackendSet) (model.BackendSet, error) {
	id, errID := setID(m.GetId())
	port, errPort := PortFromProto(m.GetPort())
	protocol, errProtocol := ProtocolFromProto(m.GetProtocol())
	var errFamily, errScope error
	if f := m.GetFamily(); f != schemas.IPFamily_IP_FAMILY_IPV4 && f != schemas.IPFamily_IP_FAMILY_IPV6 {
		errFamily = fmt.Errorf("IP family %d: want 4 or 6", f)
	}
	if m.GetScope() != schemas.Scope_SCOPE_ALL {
		errScope = fmt.Errorf("scope %d is unknown here", m.GetScope())
	}
	return model.BackendSet{ID: id, SetKey: model.SetKey{
		Service: model.ServicePort{Namespace: m.GetNamespace(), Name: m.GetService(), Port: port, Protocol: protocol},
		Family:  model.Family(m.GetFamily()), Scope: model.Scope(m.GetScope()),
	}}, first(errID, Name("namespace", m.GetNamespace()), Name("service", m.GetService()), errPort, errProtocol, errFamily, errScope)
}

func backendToProto(b model.Backend) *schemas.Backend {
	return &schemas.Backend{
		Id: uint32(b.ID), Set: uint32(b.Set), Address: AddrToProto(b.Addr), Port: uint32(b.Port),
		State: schemas.BackendState(b.State),
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
	return model.Backend{
		ID: id, BackendKey: model.BackendKey{Set: set, Addr: addr, Port: port}, State: model.BackendState(m.GetState()),
	}, first(errID, errSet, errAddr, errPort, errState)
}

func endpointFromProto(m *schemas.Endpoint) (model.Endpoint, error) {
	addr, errAddr := AddrFromProto(m.GetAddress())
	var errPod error
	if m.GetPod() == "" {
		errPod = fmt.Errorf("pod is empty")
	}
	return model.Endpoint{Addr: addr, Pod: m.GetPod()}, first(errAddr, errPod, text("pod", m.GetPod(), MaxPod))
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
