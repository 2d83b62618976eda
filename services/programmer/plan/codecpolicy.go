// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

var peers = &codec[netip.Addr, model.Peer]{
	in: abi.Peers,
	table: &table[netip.Addr, model.Peer]{
		of:      func(t *model.Tables) store[netip.Addr, model.Peer] { return t.Peers },
		puts:    func(r *model.Rows) *[]model.Peer { return &r.Peers },
		removes: func(k *model.Keys) *[]netip.Addr { return &k.Peers },
	},
	key:     (*arena).addr,
	value:   func(a *arena, p model.Peer, kind model.LayerKind) []byte { return a.identity(p.Identity, kind) },
	readKey: func(b []byte) netip.Addr { return abi.Addr([16]byte(b)) },
	read: func(addr netip.Addr, b []byte) (model.Peer, model.LayerKind) {
		return model.Peer{Addr: addr, Identity: model.IdentityID(binary.NativeEndian.Uint32(b))}, model.LayerKind(b[4])
	},
	text: func(_ *State, p model.Peer) string { return fmt.Sprintf("peer %s of identity %d", p.Addr, p.Identity) },
}

var blocks = &codec[netip.Prefix, model.Block]{
	in: abi.Blocks,
	table: &table[netip.Prefix, model.Block]{
		of: func(t *model.Tables) store[netip.Prefix, model.Block] {
			return plain[netip.Prefix, model.Block](t.Blocks)
		},
		puts:    func(r *model.Rows) *[]model.Block { return &r.Blocks },
		removes: func(k *model.Keys) *[]netip.Prefix { return &k.Blocks },
	},
	key:     (*arena).prefix,
	value:   func(a *arena, p model.Block, kind model.LayerKind) []byte { return a.identity(p.Identity, kind) },
	readKey: func(b []byte) netip.Prefix { return prefix(binary.NativeEndian.Uint32(b), [16]byte(b[4:])) },
	read: func(p netip.Prefix, b []byte) (model.Block, model.LayerKind) {
		return model.Block{Prefix: p, Identity: model.IdentityID(binary.NativeEndian.Uint32(b))}, model.LayerKind(b[4])
	},
	text: func(_ *State, p model.Block) string {
		return fmt.Sprintf("block %s of identity %d", p.Prefix, p.Identity)
	},
}

var verdicts = &codec[model.VerdictKey, model.Verdict]{
	in: abi.Verdicts,
	table: &table[model.VerdictKey, model.Verdict]{
		of: func(t *model.Tables) store[model.VerdictKey, model.Verdict] {
			return plain[model.VerdictKey, model.Verdict](t.Verdicts)
		},
		puts:    func(r *model.Rows) *[]model.Verdict { return &r.Verdicts },
		removes: func(k *model.Keys) *[]model.VerdictKey { return &k.Verdicts },
	},
	key:   (*arena).verdictKey,
	value: (*arena).verdict,
	readKey: func(b []byte) model.VerdictKey {
		return model.VerdictKey{
			RuleSet:  model.RuleSetID(binary.NativeEndian.Uint64(b)),
			Identity: model.IdentityID(binary.NativeEndian.Uint32(b[8:])),
		}
	},
	read: func(k model.VerdictKey, b []byte) (model.Verdict, model.LayerKind) {
		return model.Verdict{
			VerdictKey: k, Ports: model.PortsID(binary.NativeEndian.Uint64(b)),
			Rule: model.RuleID(binary.NativeEndian.Uint64(b[8:])), Action: model.Action(b[16]),
		}, model.LayerKind(b[17])
	},
	text: func(s *State, v model.Verdict) string {
		ports := ""
		if v.Ports != 0 {
			ports = fmt.Sprintf(", with ports %016x", uint64(v.Ports))
		}
		return fmt.Sprintf("verdict %s on identity %d by rule set %016x (%s)%s", v.Action, v.Identity, uint64(v.RuleSet), s.policiesOf(v.RuleSet), ports)
	},
}

var portVerdicts = &codec[model.PortKey, model.PortVerdict]{
	in: abi.PortVerdicts,
	table: &table[model.PortKey, model.PortVerdict]{
		of: func(t *model.Tables) store[model.PortKey, model.PortVerdict] {
			return plain[model.PortKey, model.PortVerdict](t.PortVerdicts)
		},
		puts:    func(r *model.Rows) *[]model.PortVerdict { return &r.PortVerdicts },
		removes: func(k *model.Keys) *[]model.PortKey { return &k.PortVerdicts },
	},
	key:   (*arena).portKey,
	value: (*arena).portVerdict,
	readKey: func(b []byte) model.PortKey {
		return model.PortKey{
			Ports: model.PortsID(binary.BigEndian.Uint64(b[4:])), Protocol: model.Protocol(b[12]),
			Port: binary.BigEndian.Uint16(b[14:]), Bits: uint8(binary.NativeEndian.Uint32(b) - portsBits),
		}
	},
	read: func(k model.PortKey, b []byte) (model.PortVerdict, model.LayerKind) {
		return model.PortVerdict{
			PortKey: k, Rule: model.RuleID(binary.NativeEndian.Uint64(b)), Action: model.Action(b[8]),
		}, model.LayerKind(b[9])
	},
	text: func(s *State, v model.PortVerdict) string {
		return fmt.Sprintf("verdict %s on %s port %d/%d in ports %016x (%s)", v.Action, v.Protocol, v.Port, v.Bits, uint64(v.Ports), s.rule(v.Rule))
	},
}

var ruleSets = &codec[model.RuleSetID, model.RuleSet]{
	in: abi.RuleSets,
	table: &table[model.RuleSetID, model.RuleSet]{
		of: func(t *model.Tables) store[model.RuleSetID, model.RuleSet] {
			return plain[model.RuleSetID, model.RuleSet](t.RuleSets)
		},
		puts:    func(r *model.Rows) *[]model.RuleSet { return &r.RuleSets },
		removes: func(k *model.Keys) *[]model.RuleSetID { return &k.RuleSets },
	},
	key:     func(a *arena, id model.RuleSetID) []byte { return a.hash(uint64(id)) },
	value:   (*arena).ruleSet,
	readKey: func(b []byte) model.RuleSetID { return model.RuleSetID(binary.NativeEndian.Uint64(b)) },
	read: func(id model.RuleSetID, b []byte) (model.RuleSet, model.LayerKind) {
		return model.RuleSet{ID: id, Direction: model.Direction(b[0]), Policies: abi.Text(b[8:])}, model.LayerKind(b[1])
	},
	text: func(_ *State, s model.RuleSet) string {
		return fmt.Sprintf("rule set %016x (%s: %s)", uint64(s.ID), s.Direction, s.Policies)
	},
}

var rules = &codec[model.RuleID, model.Rule]{
	in: abi.Rules,
	table: &table[model.RuleID, model.Rule]{
		of:      func(t *model.Tables) store[model.RuleID, model.Rule] { return plain[model.RuleID, model.Rule](t.Rules) },
		puts:    func(r *model.Rows) *[]model.Rule { return &r.Rules },
		removes: func(k *model.Keys) *[]model.RuleID { return &k.Rules },
	},
	key:     func(a *arena, id model.RuleID) []byte { return a.hash(uint64(id)) },
	value:   (*arena).rule,
	readKey: func(b []byte) model.RuleID { return model.RuleID(binary.NativeEndian.Uint64(b)) },
	read: func(id model.RuleID, b []byte) (model.Rule, model.LayerKind) {
		return model.Rule{
			ID: id, Index: binary.NativeEndian.Uint16(b), Policy: policyOf(model.PolicyKind(b[2]), abi.Text(b[8:328])),
			Direction: model.Direction(b[3]), Action: model.Action(b[4]), Name: abi.Text(b[328:]),
		}, model.LayerKind(b[5])
	},
	text: func(_ *State, r model.Rule) string { return fmt.Sprintf("rule %016x (%s)", uint64(r.ID), r) },
}

// policiesOf names the policies of a rule set, as people know it.
func (s *State) policiesOf(id model.RuleSetID) string {
	if row, kind := ruleSets.held(s, id); kind != 0 {
		return row.Policies
	}
	return "unknown"
}

// rule names a rule, as people know it.
func (s *State) rule(id model.RuleID) string {
	if row, kind := rules.held(s, id); kind != 0 {
		return row.String()
	}
	return "no rule"
}
