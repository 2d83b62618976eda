// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// TestStepsJudgeAsBeforeOrAsAfter turns random policy tables into others, with identities that split, merge and change
// their names, and looks at each address after each row of each step.
//
// Policy row 7: a policy's removal loosens, its addition tightens, atomically per endpoint, also where nobody knows what
// happened in between.
func TestStepsJudgeAsBeforeOrAsAfter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held, wanted := randomTables(t), randomTables(t)
		before, after := held.Clone(), wanted.Clone()
		at, one := held.Clone(), []*model.Tables{before}
		all := Between(held, wanted)
		for i, change := range all {
			last := []*model.Tables{after}
			both := [][]*model.Tables{{before, after}, {before}, {before, after}, {after}}[min(len(all)-1, 1)*(i+1)]
			eachRow(change, func(row *model.Change) {
				at.Apply(row, model.Digest{})
				judgedAs(t, fmt.Sprintf("within step %d of %d", i, len(all)), at, both...)
			})
			if i == 1 || len(all) == 1 {
				one = last
			}
			judgedAs(t, fmt.Sprintf("after step %d of %d", i, len(all)), at, one...)
		}
		if rest := model.Diff(at, after); !rest.Empty() {
			t.Fatalf("after all steps it should still change by %+v", rest)
		}
		if !model.Diff(held, before).Empty() || !model.Diff(wanted, after).Empty() {
			t.Fatal("the tables that were compared have changed")
		}
	})
}

// TestANumberInBetweenIsNoOneElses exchanges two identities of which one is the highest that there is.
func TestANumberInBetweenIsNoOneElses(t *testing.T) {
	tables := func(a, b model.IdentityID) *model.Tables {
		tables := model.NewTables()
		tables.Apply(&model.Change{Put: model.Rows{
			RuleSets: []model.RuleSet{{ID: 1}},
			Verdicts: []model.Verdict{
				{VerdictKey: model.VerdictKey{RuleSet: 1}, Action: model.ActionIsolate},
				{VerdictKey: model.VerdictKey{RuleSet: 1, Identity: a}, Action: model.ActionAllow},
			},
			Peers: []model.Peer{{Addr: judged(1), Identity: a}, {Addr: judged(2), Identity: b}},
		}}, model.Digest{})
		return tables
	}
	const last = ^model.IdentityID(0)
	for _, change := range Between(tables(last, 5), tables(5, last)) {
		for _, row := range change.Put.Peers {
			if row.Identity == 0 {
				t.Errorf("%s is nobody in between", row.Addr)
			}
		}
	}
}

func randomTables(t *rapid.T) *model.Tables {
	tables := model.NewTables()
	number := func(most int) int { return rapid.IntRange(0, most).Draw(t, "number") }
	for i := range 6 {
		if id := number(4); id > 0 {
			addr := judged(i)
			tables.Peers.Put(model.Peer{Addr: addr, Identity: model.IdentityID(id)})
		}
	}
	for _, text := range []string{"0.0.0.0/0", "10.0.0.0/29", "10.0.0.2/31", "10.0.0.3/32"} {
		if number(1) == 1 {
			prefix := netip.MustParsePrefix(text)
			tables.Blocks[prefix] = model.Block{Prefix: prefix, Identity: model.IdentityID(number(4))}
		}
	}
	for range number(10) {
		key := model.VerdictKey{RuleSet: model.RuleSetID(1 + number(3)), Identity: model.IdentityID(number(4))}
		tables.Verdicts[key] = model.Verdict{VerdictKey: key, Action: model.Action(1 + number(3))}
		tables.RuleSets[key.RuleSet] = model.RuleSet{ID: key.RuleSet}
		// What a rule set says of everyone else is its meaning: it never changes.
		key.Identity = 0
		tables.Verdicts[key] = model.Verdict{VerdictKey: key, Action: model.Action(1 + key.RuleSet%4)}
	}
	for i := range 2 {
		set := model.RuleSetID(number(4))
		if _, held := tables.RuleSets[set]; held || set == 0 {
			tables.Endpoints[judged(i)] = model.Endpoint{Addr: judged(i), Ingress: set}
		}
	}
	return tables
}

func judged(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

// judgedAs holds each endpoint that is in all tables to judge each address as one of some tables.
func judgedAs(t *rapid.T, when string, got *model.Tables, as ...*model.Tables) {
	for e := range 2 {
		if mixed(e, as) {
			continue
		}
		for i := range 8 {
			is := func(want *model.Tables) bool { return judgement(want, e, i) == judgement(got, e, i) }
			if !slices.ContainsFunc(as, is) {
				t.Fatalf("%s endpoint %d judges %s as %s", when, e, judged(i), judgement(got, e, i))
			}
		}
	}
}

// mixed says that an endpoint comes or goes, or turns between rule sets of which one is before and after, for others. For a moment that one
// may tell it what it says of the addresses before or after: the policies of one side, the world of the other.
func mixed(endpoint int, as []*model.Tables) bool {
	if len(as) < 2 {
		return false
	}
	from, had := as[0].Endpoints[judged(endpoint)]
	to, has := as[1].Endpoints[judged(endpoint)]
	before, after := from.Ingress, to.Ingress
	_, stays := as[1].RuleSets[before]
	_, was := as[0].RuleSets[after]
	return !had || !has || before != after && (stays || was)
}

// judgement is what ingress of an endpoint says about an address, as programs read the tables.
func judgement(t *model.Tables, endpoint, addr int) model.Action {
	e, held := t.Endpoints[judged(endpoint)]
	if !held || e.Ingress == 0 {
		return model.ActionAllow
	}
	set := e.Ingress
	ids := identitiesOf(t)
	for _, id := range []model.IdentityID{ids.of(judged(addr)), 0} {
		if v, held := t.Verdicts[model.VerdictKey{RuleSet: set, Identity: id}]; held {
			return v.Action
		}
	}
	return model.ActionClosed
}

// eachRow visits a change row by row, in the order in which nodes apply it.
func eachRow(c *model.Change, visit func(*model.Change)) {
	for _, row := range c.Put.RuleSets {
		visit(&model.Change{Put: model.Rows{RuleSets: []model.RuleSet{row}}})
	}
	for _, row := range c.Put.Verdicts {
		visit(&model.Change{Put: model.Rows{Verdicts: []model.Verdict{row}}})
	}
	for _, row := range c.Put.Blocks {
		visit(&model.Change{Put: model.Rows{Blocks: []model.Block{row}}})
	}
	for _, row := range c.Put.Peers {
		visit(&model.Change{Put: model.Rows{Peers: []model.Peer{row}}})
	}
	for _, row := range c.Put.Endpoints {
		visit(&model.Change{Put: model.Rows{Endpoints: []model.Endpoint{row}}})
	}
	for _, key := range c.Remove.Endpoints {
		visit(&model.Change{Remove: model.Keys{Endpoints: []netip.Addr{key}}})
	}
	for _, key := range c.Remove.Peers {
		visit(&model.Change{Remove: model.Keys{Peers: []netip.Addr{key}}})
	}
	for _, key := range c.Remove.Blocks {
		visit(&model.Change{Remove: model.Keys{Blocks: []netip.Prefix{key}}})
	}
	for _, key := range c.Remove.Verdicts {
		visit(&model.Change{Remove: model.Keys{Verdicts: []model.VerdictKey{key}}})
	}
	for _, key := range c.Remove.RuleSets {
		visit(&model.Change{Remove: model.Keys{RuleSets: []model.RuleSetID{key}}})
	}
}
