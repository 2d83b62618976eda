// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// id is a hash or a number of which 0 names nothing.
type id interface{ ~uint32 | ~uint64 }

// idFromProto reads an id that is never 0.
func idFromProto[T, F id](what string, f F) (T, error) {
	if f == 0 {
		return 0, fmt.Errorf("%s id 0 is no %s", what, what)
	}
	return T(f), nil
}

func ruleSetID(f uint64) (model.RuleSetID, error) { return idFromProto[model.RuleSetID]("rule set", f) }

func ruleID(f uint64) (model.RuleID, error) { return idFromProto[model.RuleID]("rule", f) }

// known reads an enum whose values are from 1 to last.
func known[T ~uint8, E ~int32](what string, e E, last T) (T, error) {
	if e < 1 || e > E(last) {
		return 0, fmt.Errorf("%s %d is unknown here", what, e)
	}
	return T(e), nil
}

func ruleSetToProto(s model.RuleSet) *schemas.RuleSet {
	return &schemas.RuleSet{Id: uint64(s.ID), Direction: schemas.Direction(s.Direction), Policies: s.Policies}
}

func ruleSetFromProto(m *schemas.RuleSet) (model.RuleSet, error) {
	id, errID := ruleSetID(m.GetId())
	direction, errDirection := known("direction", m.GetDirection(), model.Egress)
	return model.RuleSet{ID: id, Direction: direction, Policies: m.GetPolicies()},
		first(errID, errDirection, text("policies", m.GetPolicies(), MaxPolicies))
}

func ruleToProto(r model.Rule) *schemas.Rule {
	return &schemas.Rule{
		Id: uint64(r.ID), Kind: schemas.PolicyKind(r.Policy.Kind), Namespace: r.Policy.Namespace, Policy: r.Policy.Name,
		Direction: schemas.Direction(r.Direction), Index: uint32(r.Index), Name: r.Name, Action: schemas.Action(r.Action),
	}
}

func ruleFromProto(m *schemas.Rule) (model.Rule, error) {
	id, errID := ruleID(m.GetId())
	kind, errKind := known("policy kind", m.GetKind(), model.BaselinePolicy)
	direction, errDirection := known("direction", m.GetDirection(), model.Egress)
	action, errAction := known("a rule's action", m.GetAction(), model.ActionDeny)
	var errIndex, errNamespace error
	if m.GetIndex() > 65535 {
		errIndex = fmt.Errorf("index %d: at most 65535", m.GetIndex())
	}
	if kind == model.NetworkPolicy {
		errNamespace = Name("namespace", m.GetNamespace())
	} else if m.GetNamespace() != "" {
		errNamespace = fmt.Errorf("namespace %.64q: a ClusterNetworkPolicy has none", m.GetNamespace())
	}
	r := model.Rule{
		ID: id, Policy: model.PolicyName{Kind: kind, Namespace: m.GetNamespace(), Name: m.GetPolicy()},
		Direction: direction, Index: uint16(m.GetIndex()), Name: m.GetName(), Action: action,
	}
	return r, first(errID, errKind, errNamespace, Name("policy", m.GetPolicy()), errDirection, errIndex, errAction,
		text("name", m.GetName(), MaxRuleName))
}

func verdictKeyToProto(k model.VerdictKey) *schemas.VerdictKey {
	return &schemas.VerdictKey{RuleSet: uint64(k.RuleSet), Identity: uint32(k.Identity)}
}

func verdictKeyFromProto(m *schemas.VerdictKey) (model.VerdictKey, error) {
	set, err := ruleSetID(m.GetRuleSet())
	return model.VerdictKey{RuleSet: set, Identity: model.IdentityID(m.GetIdentity())}, err
}

func verdictToProto(v model.Verdict) *schemas.Verdict {
	return &schemas.Verdict{
		Key: verdictKeyToProto(v.VerdictKey), Ports: uint64(v.Ports), Action: schemas.Action(v.Action), Rule: uint64(v.Rule),
	}
}

func verdictFromProto(m *schemas.Verdict) (model.Verdict, error) {
	key, errKey := verdictKeyFromProto(m.GetKey())
	action, errAction := known("action", m.GetAction(), model.ActionClosed)
	return model.Verdict{
		VerdictKey: key, Ports: model.PortsID(m.GetPorts()), Action: action, Rule: model.RuleID(m.GetRule()),
	}, first(errKey, errAction)
}

func portKeyToProto(k model.PortKey) *schemas.PortKey {
	return &schemas.PortKey{
		Ports: uint64(k.Ports), Protocol: schemas.Protocol(k.Protocol), Port: uint32(k.Port), Bits: uint32(k.Bits),
	}
}

// portKeyFromProto reads a range of ports that has no bit set behind it: there is one way to write each.
func portKeyFromProto(m *schemas.PortKey) (model.PortKey, error) {
	ports, errPorts := idFromProto[model.PortsID]("port table", m.GetPorts())
	protocol, errProtocol := ProtocolFromProto(m.GetProtocol())
	var errRange error
	switch port, bits := m.GetPort(), m.GetBits(); {
	case bits > 16:
		errRange = fmt.Errorf("ports %d/%d: at most 16 bits", port, bits)
	case port > 65535:
		errRange = fmt.Errorf("port %d: at most 65535", port)
	case port&(1<<(16-bits)-1) != 0:
		errRange = fmt.Errorf("ports %d/%d have bits set behind them", port, bits)
	}
	return model.PortKey{Ports: ports, Protocol: protocol, Port: uint16(m.GetPort()), Bits: uint8(m.GetBits())},
		first(errPorts, errProtocol, errRange)
}

func portVerdictToProto(v model.PortVerdict) *schemas.PortVerdict {
	return &schemas.PortVerdict{Key: portKeyToProto(v.PortKey), Action: schemas.Action(v.Action), Rule: uint64(v.Rule)}
}

func portVerdictFromProto(m *schemas.PortVerdict) (model.PortVerdict, error) {
	key, errKey := portKeyFromProto(m.GetKey())
	action, errAction := known("action", m.GetAction(), model.ActionClosed)
	return model.PortVerdict{PortKey: key, Action: action, Rule: model.RuleID(m.GetRule())}, first(errKey, errAction)
}

// peersToProto groups peers by identity, in the order in which identities first appear.
func peersToProto(peers []model.Peer) []*schemas.Peers {
	var groups []*schemas.Peers
	byIdentity := map[model.IdentityID]*schemas.Peers{}
	for _, p := range peers {
		group := byIdentity[p.Identity]
		if group == nil {
			group = &schemas.Peers{Identity: uint32(p.Identity)}
			byIdentity[p.Identity] = group
			groups = append(groups, group)
		}
		group.Addresses = append(group.Addresses, AddrToProto(p.Addr))
	}
	return groups
}

func peersInto(peers *[]model.Peer, groups []*schemas.Peers) error {
	for i, group := range groups {
		identity, err := idFromProto[model.IdentityID]("identity", group.GetIdentity())
		if err != nil {
			return fmt.Errorf("peers %d: %w", i, err)
		}
		for _, address := range group.GetAddresses() {
			addr, err := AddrFromProto(address)
			if err != nil {
				return fmt.Errorf("peers of identity %d: %w", identity, err)
			}
			*peers = append(*peers, model.Peer{Addr: addr, Identity: identity})
		}
	}
	return nil
}

func blockToProto(b model.Block) *schemas.Block {
	return &schemas.Block{Prefix: prefixToProto(b.Prefix), Identity: uint32(b.Identity)}
}

func blockFromProto(m *schemas.Block) (model.Block, error) {
	prefix, err := prefixFromProto(m.GetPrefix())
	return model.Block{Prefix: prefix, Identity: model.IdentityID(m.GetIdentity())}, err
}
