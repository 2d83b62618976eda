// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strings"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Generators of valid rows of policy.

func genHash() *rapid.Generator[uint64] { return rapid.Uint64Min(1) }

func genIdentity() *rapid.Generator[model.IdentityID] {
	return rapid.Map(rapid.Uint32Range(1, 5), func(n uint32) model.IdentityID { return model.IdentityID(n) })
}

func genDirection() *rapid.Generator[model.Direction] {
	return rapid.SampledFrom([]model.Direction{model.Ingress, model.Egress})
}

func genAction() *rapid.Generator[model.Action] {
	return rapid.SampledFrom([]model.Action{model.ActionAllow, model.ActionDeny, model.ActionIsolate, model.ActionClosed})
}

func genRule() *rapid.Generator[model.Rule] {
	return rapid.Custom(func(t *rapid.T) model.Rule {
		r := model.Rule{
			ID:     model.RuleID(genHash().Draw(t, "id")),
			Policy: model.PolicyName{Kind: model.PolicyKind(rapid.IntRange(1, 3).Draw(t, "kind")), Name: genName(253).Draw(t, "policy")},
			Name:   strings.Repeat("n", rapid.IntRange(0, MaxRuleName).Draw(t, "name")),
			Index:  rapid.Uint16().Draw(t, "index"), Direction: genDirection().Draw(t, "direction"),
			Action: rapid.SampledFrom([]model.Action{model.ActionAllow, model.ActionDeny}).Draw(t, "action"),
		}
		if r.Policy.Kind == model.NetworkPolicy {
			r.Policy.Namespace = genName(63).Draw(t, "namespace")
		}
		return r
	})
}

func genVerdict() *rapid.Generator[model.Verdict] {
	return rapid.Custom(func(t *rapid.T) model.Verdict {
		return model.Verdict{
			VerdictKey: model.VerdictKey{
				RuleSet:  model.RuleSetID(genHash().Draw(t, "rule set")),
				Identity: model.IdentityID(rapid.Uint32().Draw(t, "identity")),
			},
			Ports: model.PortsID(rapid.Uint64().Draw(t, "ports")), Action: genAction().Draw(t, "action"),
			Rule: model.RuleID(rapid.Uint64().Draw(t, "rule")),
		}
	})
}

func genPortVerdict() *rapid.Generator[model.PortVerdict] {
	return rapid.Custom(func(t *rapid.T) model.PortVerdict {
		bits := rapid.Uint8Range(0, 16).Draw(t, "bits")
		return model.PortVerdict{
			PortKey: model.PortKey{
				Ports: model.PortsID(genHash().Draw(t, "ports")), Protocol: genProtocol().Draw(t, "protocol"),
				Port: uint16(rapid.Uint32Range(0, 65535).Draw(t, "port") >> (16 - bits) << (16 - bits)), Bits: bits,
			},
			Action: genAction().Draw(t, "action"), Rule: model.RuleID(rapid.Uint64().Draw(t, "rule")),
		}
	})
}

// drawPolicy adds rows of policy.
func drawPolicy(t *rapid.T, tables *model.Tables) {
	for _, id := range rapid.SliceOfN(genHash(), 0, 10).Draw(t, "rule sets") {
		tables.RuleSets[model.RuleSetID(id)] = model.RuleSet{
			ID: model.RuleSetID(id), Direction: genDirection().Draw(t, "direction"),
			Policies: strings.Repeat("p", rapid.IntRange(0, MaxPolicies).Draw(t, "policies")),
		}
	}
	for _, r := range rapid.SliceOfN(genRule(), 0, 10).Draw(t, "rules") {
		tables.Rules[r.ID] = r
	}
	for _, v := range rapid.SliceOfN(genVerdict(), 0, 20).Draw(t, "verdicts") {
		tables.Verdicts[v.VerdictKey] = v
	}
	for _, v := range rapid.SliceOfN(genPortVerdict(), 0, 20).Draw(t, "port verdicts") {
		tables.PortVerdicts[v.PortKey] = v
	}
	for _, a := range rapid.SliceOfN(genAddr(), 0, 40).Draw(t, "peers") {
		tables.Peers.Put(model.Peer{Addr: a, Identity: genIdentity().Draw(t, "identity")})
	}
	for _, p := range rapid.SliceOfN(genPrefix(), 0, 20).Draw(t, "blocks") {
		tables.Blocks[p] = model.Block{Prefix: p, Identity: model.IdentityID(rapid.Uint32().Draw(t, "identity"))}
	}
}
