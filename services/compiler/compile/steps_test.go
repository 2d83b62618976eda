// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// TestStepsJudgeAsBeforeOrAsAfter turns random policy tables into others, with identities that split, merge and change
// their names, and looks at each address after each row of each step.
//
// Policy row 7: a policy's removal loosens, its addition tightens, atomically per endpoint, also where the compiler
// that takes over doesn't know what happened before it.
func TestStepsJudgeAsBeforeOrAsAfter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held, wanted := randomTables(t), randomTables(t)
		before, after := held.Clone(), wanted.Clone()
		at, now := held.Clone(), before
		all := steps(held, wanted)
		for i, change := range all {
			checkChange(t, change)
			if len(all) > 1 && i != 1 {
				eachRow(change, func(row *model.Change) {
					at.Apply(row, model.Digest{})
					sameJudgement(t, fmt.Sprintf("within step %d", i), now, at)
				})
			} else {
				at.Apply(change, model.Digest{})
				now = after
			}
			sameJudgement(t, fmt.Sprintf("after step %d of %d", i, len(all)), now, at)
		}
		if rest := model.Diff(at, after); !rest.Empty() {
			t.Fatalf("after all steps it should still change by %+v", rest)
		}
		if !model.Diff(held, before).Empty() || !model.Diff(wanted, after).Empty() {
			t.Fatal("the tables that were compared have changed")
		}
	})
}

func randomTables(t *rapid.T) *model.Tables {
	tables := model.NewTables()
	number := func(most int) int { return rapid.IntRange(0, most).Draw(t, "number") }
	for i := range 6 {
		if id := number(4); id > 0 {
			addr := judged(i)
			tables.Peers[addr] = model.Peer{Addr: addr, Identity: model.IdentityID(id)}
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
	}
	for i := range 2 {
		tables.Endpoints[judged(i)] = model.Endpoint{Addr: judged(i), Ingress: model.RuleSetID(number(4))}
	}
	return tables
}

func judged(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

func sameJudgement(t *rapid.T, when string, want, got *model.Tables) {
	for e := range 2 {
		for i := range 8 {
			if w, g := judgement(want, e, i), judgement(got, e, i); w != g {
				t.Fatalf("%s endpoint %d judges %s as %s, not as %s", when, e, judged(i), g, w)
			}
		}
	}
}

// judgement is what ingress of an endpoint says about an address, as programs read the tables.
func judgement(t *model.Tables, endpoint, addr int) model.Action {
	set := t.Endpoints[judged(endpoint)].Ingress
	if set == 0 {
		return model.ActionAllow
	}
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
	for _, row := range c.Put.Verdicts {
		visit(&model.Change{Put: model.Rows{Verdicts: []model.Verdict{row}}})
	}
	for _, row := range c.Put.Blocks {
		visit(&model.Change{Put: model.Rows{Blocks: []model.Block{row}}})
	}
	for _, row := range c.Put.Peers {
		visit(&model.Change{Put: model.Rows{Peers: []model.Peer{row}}})
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
}
