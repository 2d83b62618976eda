// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func setToProto(s model.BackendSet) *schemas.BackendSet {
	return &schemas.BackendSet{
		Id: uint32(s.ID), Namespace: s.Service.Namespace, Service: s.Service.Name, Port: uint32(s.Service.Port),
		Protocol: schemas.Protocol(s.Service.Protocol), Family: schemas.IPFamily(s.Family), Scope: schemas.Scope(s.Scope),
		Place: uint64(s.Place), Root: uint32(s.Root), NodeHints: s.Flags&model.NodeHints != 0,
		ZoneHints: s.Flags&model.ZoneHints != 0, Fallback: s.Flags&model.Fallback != 0, AffinitySeconds: s.Affinity,
		External: s.Flags&model.External != 0,
	}
}

func setFromProto(m *schemas.BackendSet) (model.BackendSet, error) {
	id, errID := setID(m.GetId())
	port, errPort := PortFromProto(m.GetPort())
	protocol, errProtocol := ProtocolFromProto(m.GetProtocol())
	var errFamily error
	if f := m.GetFamily(); f != schemas.IPFamily_IP_FAMILY_IPV4 && f != schemas.IPFamily_IP_FAMILY_IPV6 {
		errFamily = fmt.Errorf("IP family %d: want 4 or 6", f)
	}
	scope, errScope := enum[model.Scope]("scope", m.GetScope())
	s := model.BackendSet{
		ID: id, SetKey: model.SetKey{
			Service: model.ServicePort{Namespace: m.GetNamespace(), Name: m.GetService(), Port: port, Protocol: protocol},
			Family:  model.Family(m.GetFamily()), Scope: scope, Place: model.Place(m.GetPlace()),
		},
		Root: model.SetID(m.GetRoot()), Affinity: m.GetAffinitySeconds(),
		Flags: flag(m.GetNodeHints(), model.NodeHints) | flag(m.GetZoneHints(), model.ZoneHints) | flag(m.GetFallback(), model.Fallback) |
			flag(m.GetExternal(), model.External),
	}
	return s, first(errID, Name("namespace", m.GetNamespace()), Name("service", m.GetService()), errPort, errProtocol,
		errFamily, errScope, checkSet(s))
}

// checkSet says whether a root has what only its parts have, or the other way round.
func checkSet(s model.BackendSet) error {
	switch s.Scope {
	case model.ScopeAll, model.ScopeHostPort:
		if s.Root != s.ID {
			return fmt.Errorf("set %d of scope %d has root %d: want its own id", s.ID, s.Scope, s.Root)
		}
	case model.ScopeZone, model.ScopeNode, model.ScopeLocal:
		switch {
		case s.Root == 0 || s.Root == s.ID:
			return fmt.Errorf("set %d of scope %d has root %d: want another set's id", s.ID, s.Scope, s.Root)
		case s.Place == 0:
			return fmt.Errorf("set %d of scope %d has no place", s.ID, s.Scope)
		case s.Flags&(model.NodeHints|model.ZoneHints) != 0:
			return fmt.Errorf("set %d of scope %d says what hints its root has", s.ID, s.Scope)
		}
	default:
		return fmt.Errorf("scope %d is unknown here", s.Scope)
	}
	if s.Flags&model.External != 0 && s.Scope != model.ScopeAll && s.Scope != model.ScopeZone {
		return fmt.Errorf("set %d of scope %d is for clients from outside of any node", s.ID, s.Scope)
	}
	if s.Affinity > MaxAffinity {
		return fmt.Errorf("affinity of %d seconds: at most %d", s.Affinity, MaxAffinity)
	}
	return nil
}

func viewKeyToProto(k model.ViewKey) *schemas.ViewKey {
	return &schemas.ViewKey{Set: uint32(k.Set), Scope: schemas.Scope(k.Scope), Place: uint64(k.Place)}
}

func viewKeyFromProto(m *schemas.ViewKey) (model.ViewKey, error) {
	set, err := setID(m.GetSet())
	key := model.ViewKey{Set: set, Scope: model.Scope(m.GetScope()), Place: model.Place(m.GetPlace())}
	var errScope error
	switch m.GetScope() {
	case schemas.Scope_SCOPE_ZONE:
		if key.Place == 0 {
			errScope = fmt.Errorf("the view of a zone has no place")
		}
	case schemas.Scope_SCOPE_NODE, schemas.Scope_SCOPE_LOCAL:
		if key.Place != 0 {
			errScope = fmt.Errorf("the view of scope %d has place %d: want none, since it is in the node's layer", key.Scope, key.Place)
		}
	default:
		errScope = fmt.Errorf("scope %d leads to no part of a set", m.GetScope())
	}
	return key, first(err, errScope)
}

func viewToProto(v model.View) *schemas.View {
	return &schemas.View{Key: viewKeyToProto(v.ViewKey), Target: uint32(v.Target)}
}

func viewFromProto(m *schemas.View) (model.View, error) {
	key, errKey := viewKeyFromProto(m.GetKey())
	target, errTarget := setID(m.GetTarget())
	if errTarget == nil && target == key.Set {
		errTarget = fmt.Errorf("the view of set %d leads to itself", target)
	}
	return model.View{ViewKey: key, Target: target}, first(errKey, errTarget)
}

func sourceRangeToProto(r model.SourceRange) *schemas.SourceRange {
	return &schemas.SourceRange{Set: uint32(r.Set), Prefix: prefixToProto(r.Prefix)}
}

func sourceRangeFromProto(m *schemas.SourceRange) (model.SourceRange, error) {
	set, errSet := setID(m.GetSet())
	prefix, errPrefix := prefixFromProto(m.GetPrefix())
	return model.SourceRange{Set: set, Prefix: prefix}, first(errSet, errPrefix)
}

func prefixToProto(p netip.Prefix) *schemas.Prefix {
	return &schemas.Prefix{Address: AddrToProto(p.Addr()), Bits: uint32(p.Bits())}
}

// prefixFromProto reads a prefix that has no bit set behind it and is not IPv4-mapped: there is one way to write each.
func prefixFromProto(m *schemas.Prefix) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(m.GetAddress())
	if !ok || addr.Is4In6() {
		return netip.Prefix{}, fmt.Errorf("prefix with an address of %d bytes: want 4, or 16 that are not IPv4-mapped", len(m.GetAddress()))
	}
	if m.GetBits() > uint32(addr.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("prefix %s/%d: at most %d bits", addr, m.GetBits(), addr.BitLen())
	}
	p := netip.PrefixFrom(addr, int(m.GetBits()))
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("prefix %s has bits set behind it: want %s", p, p.Masked())
	}
	return p, nil
}
