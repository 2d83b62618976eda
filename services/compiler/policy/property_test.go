// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// world is a state, an engine that follows it, and the rows that came out of it.
type world struct {
	db     *state.DB
	engine *Engine
	tables map[string]*model.Tables
}

func newWorld() *world {
	return &world{state.New(), New(Limits{}), map[string]*model.Tables{}}
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// apply takes facts in and returns the stages.
func (w *world) apply(t tester, facts ...*schemas.Fact) []Stage {
	t.Helper()
	changed := w.changes(t, facts...)
	return w.engine.Update(w.db.Snapshot(), changed)
}

// changes takes facts into the state alone.
func (w *world) changes(t tester, facts ...*schemas.Fact) (changed state.Policed) {
	t.Helper()
	changes, err := w.db.Apply(facts...)
	if err != nil {
		t.Fatal(err)
	}
	for _, touch := range changes.Touched {
		p := touch.Policy
		changed.Pods = append(changed.Pods, p.Pods...)
		changed.Nodes = append(changed.Nodes, p.Nodes...)
		changed.Namespaces = append(changed.Namespaces, p.Namespaces...)
		changed.Policies = append(changed.Policies, p.Policies...)
	}
	return changed
}

// take applies a stage to the rows.
func (w *world) take(t tester, s Stage) {
	t.Helper()
	for layer, change := range s {
		tables := w.tables[layer.Name]
		if tables == nil {
			tables = model.NewTables()
			w.tables[layer.Name] = tables
		}
		checkChange(t, tables, change)
		tables.Apply(change, model.Digest{})
		if tables.Len() == 0 {
			delete(w.tables, layer.Name)
		}
	}
}

// checkChange says whether a change puts and removes only what differs.
func checkChange(t tester, tables *model.Tables, change *model.Change) {
	t.Helper()
	after := tables.Clone()
	after.Apply(change, model.Digest{})
	least := model.Diff(tables, after)
	if change.Empty() || least.Put.Len() != change.Put.Len() || least.Remove.Len() != change.Remove.Len() {
		t.Fatalf("a change puts %d and removes %d rows where %d and %d differ: %+v",
			change.Put.Len(), change.Remove.Len(), least.Put.Len(), least.Remove.Len(), change)
	}
}

var (
	addresses = func() (list []netip.Addr) {
		for _, text := range []string{
			"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.1.1", "10.0.1.2", "10.0.1.3",
			"10.0.0.240", "10.0.0.241", "10.0.0.242", "10.0.1.9", "10.9.9.9", "192.0.2.1", "203.0.113.1",
			"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::1",
		} {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}()
	portsAsked = []struct {
		protocol model.Protocol
		port     uint16
	}{{model.TCP, 80}, {model.TCP, 81}, {model.TCP, 53}, {model.TCP, 0}, {model.TCP, 65535}, {model.TCP, 95}, {model.UDP, 53}, {model.UDP, 80}, {model.SCTP, 80}, {1, 0}}
)

// end is one direction of an endpoint.
type end struct {
	node, pod string
	is        uint32 // the pod's incarnation
	addr      netip.Addr
	direction model.Direction
}

// verdicts has an action for each question that can be asked about an end, in order.
type verdicts map[end][]model.Action

// questions asks about each address and port.
func questions(judge func(addr netip.Addr, protocol model.Protocol, port uint16) model.Action) []model.Action {
	list := make([]model.Action, 0, len(addresses)*len(portsAsked))
	for _, addr := range addresses {
		for _, ask := range portsAsked {
			list = append(list, judge(addr, ask.protocol, ask.port))
		}
	}
	return list
}

func question(i int) string {
	ask := portsAsked[i%len(portsAsked)]
	return fmt.Sprintf("%s %s/%d", addresses[i/len(portsAsked)], ask.protocol, ask.port)
}

// verdicts reads all verdicts from rows.
func (w *world) verdicts() verdicts {
	all := verdicts{}
	for node, tables := range w.tables {
		for addr, endpoint := range tables.Endpoints {
			for direction, set := range map[model.Direction]model.RuleSetID{model.Ingress: endpoint.Ingress, model.Egress: endpoint.Egress} {
				all[end{node, endpoint.Pod, endpoint.Incarnation, addr, direction}] = questions(
					func(addr netip.Addr, protocol model.Protocol, port uint16) model.Action {
						return read(tables, set, addr, protocol, port)
					})
			}
		}
	}
	return all
}

// expected judges all endpoints, as subjects has them.
func expected(o oracle) verdicts {
	all := verdicts{}
	for pod := range o.subjects.Pods() {
		judged := map[model.Direction][]model.Action{}
		for _, addr := range pod.Attached() {
			if pod.Node == "" || holder(o.subjects, pod.Node, addr) != pod {
				continue
			}
			for _, direction := range []model.Direction{model.Ingress, model.Egress} {
				if judged[direction] == nil {
					judged[direction] = questions(func(addr netip.Addr, protocol model.Protocol, port uint16) model.Action {
						return o.judge(pod, direction, addr, protocol, port)
					})
				}
				all[end{pod.Node, pod.Name.String(), pod.Incarnation, addr, direction}] = judged[direction]
			}
		}
	}
	return all
}

func holder(s *state.Snapshot, node string, addr netip.Addr) *state.Pod {
	for p := range s.PodsOn(node) {
		if slices.Contains(p.Attached(), addr) {
			return p
		}
	}
	return nil
}

// TestRowsJudgeAsPoliciesSay compares rows with an oracle that reads policies, after random changes in random groups:
// the whole, what stages come to, and each stage.
//
// Policy rows 1, 2, 5, 6, 8, 10: selectors, blocks, ports, tiers; identities and rule sets come to the verdicts of the
// policies.
// Policy row 7: rows are whole after each stage, and verdicts are old or new.
// Trap 44: an empty `from` and a missing one, isolation by direction, hostNetwork pods.
// Trap 43: named ports are each pod's own.
// Trap 42: an address is another pod's at once.
func TestRowsJudgeAsPoliciesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, w := draw{t}, newWorld()
		for range rapid.IntRange(1, 12).Draw(t, "groups") {
			before, was := w.db.Snapshot(), w.verdicts()
			var facts []*schemas.Fact
			what := d.below(3) // policies, world or both
			for range rapid.IntRange(1, 6).Draw(t, "facts") {
				if what == 0 || what == 2 && d.one(3) {
					facts = append(facts, d.policy())
				} else {
					facts = append(facts, d.world())
				}
			}
			stages := w.apply(t, facts...)
			after := w.db.Snapshot()
			want := expected(oracleOf(after, after, after))
			between := expected(oracleOf(before, before, after))
			switches := 0
			for i, stage := range stages {
				w.take(t, stage)
				now := w.verdicts()
				if !maps.EqualFunc(was, now, slices.Equal) {
					switches++
				}
				if what == 0 && switches > 1 {
					t.Fatalf("stage %d of %d: policies alone change verdicts twice", i, len(stages))
				}
				if wrong := strays(was, between, want, now); wrong != "" {
					t.Fatalf("stage %d of %d: %s", i, len(stages), wrong)
				}
				for e, list := range now {
					if want[e] == nil {
						t.Fatalf("stage %d of %d: %v is gone and still has a row", i, len(stages), e)
					}
					was[e] = list
				}
			}
			if diff := cmp.Diff(want, w.verdicts(), compare); diff != "" {
				t.Fatalf("verdicts (-want +got):\n%s", diff)
			}
			w.checkLoad(t)
		}
		w.checkEmpty(t)
	})
}

// strays returns a verdict that is none of what it was, what it is between, and what it will be, in this order. One of a
// new endpoint is the last from the first on.
func strays(was, between, want, now verdicts) string {
	for e, list := range now {
		for i, got := range list {
			var way []model.Action
			if was[e] != nil {
				way = append(way, was[e][i])
			}
			if was[e] != nil && between[e] != nil {
				way = append(way, between[e][i])
			}
			if want[e] != nil {
				way = append(way, want[e][i])
			}
			if !slices.Contains(way, got) {
				return fmt.Sprintf("%v: %s is %v, want one of %v", e, question(i), got, way)
			}
		}
	}
	return ""
}

// checkEmpty takes everything away and looks for what is left.
func (w *world) checkEmpty(t *rapid.T) {
	t.Helper()
	var gone []*schemas.Fact
	snap := w.db.Snapshot()
	for p := range snap.Pods() {
		gone = append(gone, fact(state.KindPod, p.Namespace, p.Name.Name, nil))
	}
	for n := range snap.Nodes() {
		gone = append(gone, fact(state.KindNode, "", n.Name.Name, nil))
	}
	for n := range snap.Namespaces() {
		gone = append(gone, fact(state.KindNamespace, "", n.Name.Name, nil))
	}
	for p := range snap.Policies() {
		kind := state.KindNetworkPolicy
		if p.PolicyName.Kind != model.NetworkPolicy {
			kind = state.KindClusterNetworkPolicy
		}
		gone = append(gone, fact(kind, p.Namespace, p.PolicyName.Name, nil))
	}
	gone = rapid.Permutation(gone).Draw(t, "order")
	half := len(gone) / 2
	for _, facts := range [][]*schemas.Fact{gone[:half], gone[half:]} {
		for _, stage := range w.apply(t, facts...) {
			w.take(t, stage)
		}
	}
	e := w.engine
	for what, n := range map[string]int{
		"layers": len(w.tables), "spaces": len(e.spaces), "scopes": len(e.scopes) + len(e.named) + len(e.unnamed),
		"groups": len(e.groups), "shapes": len(e.shapes), "pods": len(e.pods), "atoms": len(e.atoms) + len(e.nodeAtoms),
		"regions": len(e.regions.sorted) + len(e.regions.exact), "addresses": len(e.addresses), "cells": len(e.cells),
		"classes": len(e.classes), "policies": len(e.policies), "rule sets": len(e.ruleSets), "unsettled": len(e.unsettled),
		"usage": len(e.usage), "terms in use": len(e.terms) - 1 - len(e.freeTerms), "nodes": len(e.nodes),
	} {
		if n != 0 {
			t.Errorf("%d %s are left", n, what)
		}
	}
}

// checkLoad compares the rows with those of an engine that sees the state for the first time.
func (w *world) checkLoad(t *rapid.T) {
	t.Helper()
	same := New(Limits{}).Load(w.db.Snapshot(), w.tables)
	fresh := New(Limits{}).Load(w.db.Snapshot(), nil)
	for _, node := range names(w.tables, same, fresh) {
		if diff := cmp.Diff(rows(w.tables[node]), rows(same[node]), compare); diff != "" {
			t.Fatalf("node %s: who takes numbers over has other rows (-update +load):\n%s", node, diff)
		}
	}
	if diff := cmp.Diff(renamed(w.tables), renamed(fresh), compare); diff != "" {
		t.Fatalf("a full compilation has other rows (-update +load):\n%s", diff)
	}
}

var compare = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func rows(t *model.Tables) *model.Tables {
	if t == nil {
		return model.NewTables()
	}
	return t
}

func names(all ...map[string]*model.Tables) (list []string) {
	for _, tables := range all {
		for name := range tables {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// renamed writes rows as text, with each identity as the first address or prefix that has it anywhere: names that don't
// depend on numbers.
func renamed(all map[string]*model.Tables) map[string]bool {
	name := map[model.IdentityID]string{0: "none"}
	call := func(id model.IdentityID, text string) {
		if old, is := name[id]; id != 0 && (!is || text < old) {
			name[id] = text
		}
	}
	for _, t := range all {
		for _, row := range t.Peers.All() {
			call(row.Identity, row.Addr.String())
		}
		for _, row := range t.Blocks {
			call(row.Identity, row.Prefix.String())
		}
	}
	texts := map[string]bool{}
	for node, t := range all {
		add := func(format string, args ...any) { texts[node+" "+fmt.Sprintf(format, args...)] = true }
		for _, row := range t.Peers.All() {
			add("peer %s %s", row.Addr, name[row.Identity])
		}
		for _, row := range t.Blocks {
			add("block %s %s", row.Prefix, name[row.Identity])
		}
		for _, row := range t.Verdicts {
			add("verdict %x %s %x %s %x", row.RuleSet, name[row.Identity], row.Ports, row.Action, row.Rule)
		}
		for _, row := range t.Endpoints {
			add("endpoint %+v", row)
		}
		for _, row := range t.PortVerdicts {
			add("ports %+v", row)
		}
		for _, row := range t.RuleSets {
			add("rule set %+v", row)
		}
		for _, row := range t.Rules {
			add("rule %+v", row)
		}
	}
	return texts
}
