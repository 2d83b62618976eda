// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// randomTables is some sets, each with backends, of which some are members, and frontends.
func randomTables(t *rapid.T) *model.Tables {
	tables := model.NewTables()
	for id := model.SetID(1); id <= 6; id++ {
		if rapid.Bool().Draw(t, "set") {
			continue
		}
		tables.Sets[id] = model.BackendSet{ID: id, SetKey: model.SetKey{Family: model.IPv4, Scope: model.ScopeAll}, Root: id}
		for n := range rapid.IntRange(0, 8).Draw(t, "backends") {
			b := model.Backend{
				ID:         model.BackendID(int(id)*10 + n),
				BackendKey: model.BackendKey{Set: id, Addr: ip(10, 1, byte(id), byte(n)), Port: 80},
				State:      model.BackendState(rapid.IntRange(1, 2).Draw(t, "state")),
			}
			tables.Backends[b.ID] = b
			if rapid.Bool().Draw(t, "member") {
				m := model.Member{Set: id, Backend: b.ID}
				tables.Members[m] = m
			}
		}
		if rapid.Bool().Draw(t, "zone") {
			randomZone(t, tables, id, id+100)
		}
		for n := range rapid.IntRange(0, 3).Draw(t, "ranges") {
			r := model.SourceRange{Set: id, Prefix: netip.PrefixFrom(ip(203, 0, byte(n), 0), 24)}
			tables.SourceRanges[r] = r
		}
		randomRuleSet(t, tables, model.RuleSetID(id))
		key := model.FrontendKey{Addr: ip(10, 96, 0, byte(rapid.IntRange(1, 3).Draw(t, "address"))), Port: 80, Protocol: model.TCP}
		tables.Frontends[key] = model.Frontend{FrontendKey: key, Set: id, Kind: model.FrontendClusterIP}
	}
	for id := range rapid.IntRange(0, 5).Draw(t, "nodes") {
		row := model.Node{ID: model.NodeID(1 + id), V4: ip(192, 168, 0, byte(rapid.IntRange(1, 3).Draw(t, "node address")))}
		tables.Nodes[row.ID] = row
	}
	return tables
}

// randomZone is a view of some of a root's backends.
func randomZone(t *rapid.T, tables *model.Tables, root, id model.SetID) {
	tables.Sets[id] = model.BackendSet{ID: id, SetKey: model.SetKey{Family: model.IPv4, Scope: model.ScopeZone, Place: 7}, Root: root}
	key := model.ViewKey{Set: root, Scope: model.ScopeZone, Place: 7}
	tables.Views[key] = model.View{ViewKey: key, Target: id}
	for _, backend := range slices.Sorted(maps.Keys(tables.Backends)) {
		if b := tables.Backends[backend]; b.Set == root && rapid.Bool().Draw(t, "zone member") {
			m := model.Member{Set: id, Backend: b.ID}
			tables.Members[m] = m
		}
	}
}

// randomRuleSet judges one endpoint: what it says of some identities, by ports or not, has rules.
func randomRuleSet(t *rapid.T, tables *model.Tables, id model.RuleSetID) {
	tables.RuleSets[id] = model.RuleSet{ID: id, Direction: model.Ingress}
	for identity := range model.IdentityID(rapid.IntRange(1, 4).Draw(t, "identities")) {
		rule := model.RuleID(rapid.IntRange(1, 5).Draw(t, "rule"))
		tables.Rules[rule] = model.Rule{ID: rule, Direction: model.Ingress, Action: model.ActionAllow}
		v := model.Verdict{VerdictKey: model.VerdictKey{RuleSet: id, Identity: identity}, Action: model.ActionAllow, Rule: rule}
		if rapid.Bool().Draw(t, "ports") {
			v.Ports = model.PortsID(rule)
			key := model.PortKey{Ports: v.Ports, Protocol: model.TCP, Port: 80, Bits: 16}
			tables.PortVerdicts[key] = model.PortVerdict{PortKey: key, Action: model.ActionAllow, Rule: rule}
		}
		tables.Verdicts[v.VerdictKey] = v
		if identity > 0 {
			peer := model.Peer{Addr: ip(10, 2, byte(id), byte(identity)), Identity: identity}
			tables.Peers.Put(peer)
			block := model.Block{Prefix: netip.PrefixFrom(ip(10, byte(id), byte(identity), 0), 24), Identity: identity}
			tables.Blocks[block.Prefix] = block
		}
	}
	addr := ip(10, 200, 0, byte(id))
	tables.Endpoints[addr] = model.Endpoint{Addr: addr, Pod: "shop/web", Ingress: id}
}

// TestEachPieceOfACutLeavesWholeTables applies a change piece by piece: nothing may point at nothing, no piece
// may be too large, and all together must be the change.
func TestEachPieceOfACutLeavesWholeTables(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := randomTables(t), randomTables(t)
		change := model.Diff(from, to)
		most := rapid.IntRange(500, 2000).Draw(t, "most")
		now := from.Clone()
		for _, piece := range cut(change, most) {
			if size(piece) > most {
				t.Fatalf("a piece of %d bytes, the bound is %d", size(piece), most)
			}
			now.Apply(piece, model.Digest{})
			if lacking := policyLacks(now); lacking != "" {
				t.Fatalf("a piece leaves %s", lacking)
			}
			for _, f := range now.Frontends {
				if _, held := now.Sets[f.Set]; !held {
					t.Fatalf("frontend %v points at no set", f)
				}
			}
			for _, v := range now.Views {
				if _, held := now.Sets[v.Target]; !held {
					t.Fatalf("view %v points at no set", v)
				}
			}
			for _, f := range now.Frontends {
				for r := range to.SourceRanges {
					if _, held := now.SourceRanges[r]; r.Set == f.Set && !held && to.Frontends[f.FrontendKey] == f && from.Frontends[f.FrontendKey] != f {
						t.Fatalf("frontend %v comes before range %v", f, r)
					}
				}
			}
			for m := range now.Members {
				if _, held := now.Backends[m.Backend]; !held {
					t.Fatalf("member %v points at no backend", m)
				}
			}
			for m := range from.Members {
				_, stays := to.Members[m]
				if _, held := now.Members[m]; stays && !held {
					t.Fatalf("member %v is missing in between", m)
				}
			}
		}
		if rest := model.Diff(now, to); !rest.Empty() {
			t.Fatalf("after all pieces this is still to change: %+v", rest)
		}
	})
}

// TestACutChangeOfIdentitiesOpensNothing renames classes as the engine does when most pods of one join another: the
// larger part keeps the number, which means the other class from then on, and who stays gets a new one. Cut into pieces
// that hold one row, each address must be judged as before or as after.
//
// Policy row 7: between old and new a connection is judged as one of them.
func TestACutChangeOfIdentitiesOpensNothing(t *testing.T) {
	tables := func(allowed model.IdentityID, of ...model.IdentityID) *model.Tables {
		tables := model.NewTables()
		verdict := func(id model.IdentityID, action model.Action) model.Verdict {
			return model.Verdict{VerdictKey: model.VerdictKey{RuleSet: 1, Identity: id}, Action: action}
		}
		rows := model.Rows{
			RuleSets:  []model.RuleSet{{ID: 1, Direction: model.Ingress}},
			Verdicts:  []model.Verdict{verdict(0, model.ActionIsolate), verdict(allowed, model.ActionAllow)},
			Endpoints: []model.Endpoint{{Addr: ip(10, 0, 0, 1), Pod: "shop/web", Ingress: 1}},
		}
		for i, id := range of {
			rows.Peers = append(rows.Peers, model.Peer{Addr: ip(10, 1, 0, byte(i)), Identity: id})
		}
		tables.Apply(&model.Change{Put: rows}, model.Digest{})
		return tables
	}
	says := func(t *model.Tables, peer netip.Addr) model.Action {
		own, _ := t.Peers.Get(peer)
		for _, id := range []model.IdentityID{own.Identity, 0} {
			if v, held := t.Verdicts[model.VerdictKey{RuleSet: t.Endpoints[ip(10, 0, 0, 1)].Ingress, Identity: id}]; held {
				return v.Action
			}
		}
		return model.ActionClosed
	}
	before, after := tables(7, 5, 5, 5, 5, 7), tables(5, 9, 5, 5, 5, 5)
	now := before.Clone()
	for _, piece := range pieces(before, model.Diff(before, after), 1) {
		now.Apply(piece, model.Digest{})
		for peer := range before.Peers.All() {
			if got := says(now, peer); got != says(before, peer) && got != says(after, peer) {
				t.Errorf("%s is judged %s, which is neither %s nor %s", peer, got, says(before, peer), says(after, peer))
			}
		}
	}
	if rest := model.Diff(now, after); !rest.Empty() {
		t.Errorf("after all pieces it should still change by %+v", rest)
	}
}
