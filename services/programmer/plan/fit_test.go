// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
)

// Policy row 9: whatever fits and whatever changes, rule sets that there is no room for are left out as a whole and their
// pods closed, all others judge as if there were room for all, and what was left out comes back once there is.
func TestRuleSetsThatDontFitAreLeftOutAsAWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		capacities := plan.Capacities{}
		sizes := [abi.MapCount]uint32{}
		for m, most := range map[abi.Map]int{abi.Verdicts: 12, abi.PortVerdicts: 6, abi.Peers: 4, abi.Blocks: 4, abi.RuleSets: 5} {
			if rapid.Bool().Draw(rt, fmt.Sprintf("%s is small", m)) {
				capacities[m] = rapid.IntRange(1, most).Draw(rt, fmt.Sprintf("room in %s", m))
				sizes[m] = uint32(capacities[m])
			}
		}
		memory, s := maps.NewMemory(sizes), plan.Empty()
		w := plantest.NewWitness(memory, rows())
		w.Closes = true
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		for i := range 5 {
			after := drawWorld(rt, fmt.Sprintf("world %d", i)).rows()
			p := bring(rt, s, capacities, after)
			wanted := s
			w.Expect(s.Tables(model.LayerNode).Clone())
			failAt := rapid.IntRange(0, 30).Draw(rt, "fail at")
			if err := carryOut(&maps.Faulty{Maps: w, FailAt: failAt}, p, random); err != nil {
				if !errors.Is(err, maps.ErrInjected) {
					rt.Fatal(err)
				}
				s = load(rt, memory)
				epoch, _ := memory.Epoch()
				s.SetJudging(epoch != 0)
				s.JudgeAgain()
				p := bring(rt, s, capacities, wanted.Wanted(model.LayerNode))
				w.Instead(s.Tables(model.LayerNode).Clone())
				if err := carryOut(w, p, random); err != nil {
					rt.Fatal(err)
				}
			}
			noProblems(rt, w)
			fits(rt, s, capacities, after)
			in := s.Tables(model.LayerNode).Clone()
			got := load(rt, memory)
			if diff := model.Diff(in, got.Tables(model.LayerNode)); !diff.Empty() || got.Entries() != s.Entries() {
				rt.Errorf("the maps hold other rows than the state says: %+v", diff)
			}
			again := bring(rt, got, capacities, after)
			if n := again.Writes(); n > 0 {
				rt.Errorf("a programmer that starts anew makes %d writes", n)
			}
		}
		wanted := s.Wanted(model.LayerNode)
		s = load(rt, memory)
		bring(rt, s, plan.Capacities{}, wanted)
		if out, _ := s.LeftOut(); len(out) > 0 || s.Closed() > 0 || !model.Diff(wanted, s.Tables(model.LayerNode)).Empty() {
			rt.Errorf("with room for all %v are left out", out)
		}
	})
}

func bring(t tester, s *plan.State, capacities plan.Capacities, rows *model.Tables) *plan.Plan {
	t.Helper()
	digest := rows.Digest()
	p, err := s.Apply(capacities, plan.LayerChange{Kind: model.LayerNode, Change: model.Diff(s.Wanted(model.LayerNode), rows), After: &digest})
	if err != nil {
		t.Fatal(err)
	}
	if s.Digest(model.LayerNode) != digest {
		t.Errorf("the digest is %s and not that of the rows, %s", s.Digest(model.LayerNode), digest)
	}
	return p
}

// fits checks what a node of such capacities makes of rows.
func fits(t tester, s *plan.State, capacities plan.Capacities, want *model.Tables) {
	t.Helper()
	in := s.Tables(model.LayerNode)
	out := map[model.RuleSetID]bool{}
	all, _ := s.LeftOut()
	for _, l := range all {
		out[l.RuleSet.ID] = true
	}
	kept := map[model.RuleSetID]bool{}
	for id := range want.RuleSets {
		kept[id] = !out[id]
	}
	for key := range in.Verdicts {
		if out[key.RuleSet] {
			t.Errorf("rule set %x is left out and has a verdict on identity %d", key.RuleSet, key.Identity)
		}
	}
	for id := range out {
		kept[id] = true
		if overfull(needed(want, kept), capacities) == "" {
			t.Errorf("rule set %x is left out though there is room for it", id)
		}
		kept[id] = false
	}
	for addr, e := range want.Endpoints {
		for direction, id := range map[model.Direction]model.RuleSetID{model.Ingress: e.Ingress, model.Egress: e.Egress} {
			for _, peer := range []string{"10.1.0.0", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.2.0.0", "192.0.2.1"} {
				for _, port := range []uint16{80, 81, 8081} {
					a := plantest.Asked{Pod: addr, Peer: netip.MustParseAddr(peer), Direction: direction, Protocol: model.TCP, Port: port}
					should := plantest.Verdict(want, a)
					if out[id] && want.Selves[model.SelfKey{}].Policed {
						should = model.ActionClosed.String()
					}
					if got := plantest.Verdict(in, a); got != should {
						t.Errorf("%s: %s, want %s (left out: %t)", a, got, should, out[id])
					}
				}
			}
		}
	}
}

// needed counts, slowly and obviously, what rule sets take.
func needed(want *model.Tables, kept map[model.RuleSetID]bool) (n [abi.MapCount]int) {
	known, ports, roots := map[model.IdentityID]bool{}, map[model.PortsID]bool{}, map[netip.Prefix]bool{}
	for id, is := range kept {
		if is && want.RuleSets[id].ID != 0 {
			n[abi.RuleSets]++
		}
	}
	for key, v := range want.Verdicts {
		if kept[key.RuleSet] {
			n[abi.Verdicts]++
			known[key.Identity], ports[v.Ports] = key.Identity != 0, true
		}
	}
	for key := range want.PortVerdicts {
		if ports[key.Ports] {
			n[abi.PortVerdicts]++
		}
	}
	for addr, p := range want.Peers.All() {
		if _, block := around(want, netip.PrefixFrom(addr, addr.BitLen())); known[p.Identity] || known[block.Identity] {
			n[abi.Peers]++
		}
	}
	for p, b := range want.Blocks {
		root, _ := around(want, p)
		roots[root] = roots[root] || known[b.Identity]
	}
	for p := range want.Blocks {
		if root, _ := around(want, p); roots[root] {
			n[abi.Blocks]++
		}
	}
	return n
}

// around returns the shortest block that a prefix is in, and the longest.
func around(rows *model.Tables, p netip.Prefix) (shortest netip.Prefix, longest model.Block) {
	for bits := p.Bits(); bits >= 0; bits-- {
		within := netip.PrefixFrom(p.Addr(), bits).Masked()
		if b, held := rows.Blocks[within]; held {
			if shortest = within; !longest.Prefix.IsValid() {
				longest = b
			}
		}
	}
	return shortest, longest
}

func overfull(n [abi.MapCount]int, capacities plan.Capacities) string {
	for m, capacity := range capacities {
		if capacity > 0 && n[m] > capacity {
			return abi.Map(m).String()
		}
	}
	return ""
}
