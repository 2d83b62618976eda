// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
)

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// carryOut makes a plan's writes, in any order within a phase if random is given.
func carryOut(m maps.Maps, p *plan.Plan, random *rand.Rand) error {
	for _, phase := range p.Phases {
		if phase.Grace {
			if err := m.Grace(); err != nil {
				return err
			}
		}
		var writes []maps.Write
		for _, batch := range phase.Batches {
			writes = append(writes, batch...)
		}
		if random != nil {
			// A seed must bring back the same order, whichever order the plan walked its maps in.
			slices.SortStableFunc(writes, func(a, b maps.Write) int {
				if a.Map != b.Map {
					return int(a.Map) - int(b.Map)
				}
				return bytes.Compare(a.Key, b.Key)
			})
			random.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
		}
		if err := m.Write(writes); err != nil {
			return err
		}
		if err := m.Fill(phase.Tables); err != nil {
			return err
		}
		if phase.Judge != plan.JudgeAsBefore {
			if err := m.Judge(phase.Judge == plan.JudgeAgain); err != nil {
				return err
			}
		}
	}
	return nil
}

func load(t tester, m maps.Maps) *plan.State {
	t.Helper()
	s, err := plan.Load(func(which abi.Map, each func(key, value []byte) error) error { return maps.Dump(m, which, each) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// towards is the change of a layer to rows.
func towards(s *plan.State, kind model.LayerKind, rows *model.Tables) plan.LayerChange {
	digest := rows.Digest()
	return plan.LayerChange{Kind: kind, Change: model.Diff(s.Tables(kind), rows), After: &digest}
}

func mustApply(t tester, s *plan.State, changes ...plan.LayerChange) *plan.Plan {
	t.Helper()
	p, err := s.Apply(plan.Capacities{}, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// holds checks that the maps have exactly the rows, and that the state says so too.
func holds(t tester, m maps.Maps, s *plan.State, kind model.LayerKind, rows *model.Tables) {
	t.Helper()
	got := load(t, m)
	if diff := cmp.Diff(rows, got.Tables(kind), addrs); diff != "" {
		t.Errorf("layer %d, rows (-want +in the maps):\n%s", kind, diff)
	}
	before := m.Writes()
	if err := carryOut(m, mustApply(t, got), nil); err != nil {
		t.Fatal(err)
	}
	if n := m.Writes() - before; n > 0 || !got.Whole() {
		t.Errorf("something was left behind in the maps: %d writes repair it", n)
	}
	if diff := cmp.Diff(got.Entries(), s.Entries()); diff != "" {
		t.Errorf("entries (-in the maps +in the state):\n%s", diff)
	}
	if got.Digest(kind) != rows.Digest() || s.Digest(kind) != rows.Digest() {
		t.Errorf("layer %d: digest in the maps %s, in the state %s, of the rows %s", kind, got.Digest(kind), s.Digest(kind), rows.Digest())
	}
	drifted(t, m, s)
}

func drifted(t tester, m maps.Maps, s *plan.State) {
	t.Helper()
	for which := range abi.MapCount {
		_ = maps.Dump(m, which, func(key, value []byte) error {
			if drift := s.Drift(which, key, value); drift != "" {
				t.Error(drift)
			}
			return nil
		})
	}
}

var addrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// The vocabulary of these tests: rows in few words.

func service(n int) model.ServicePort {
	return model.ServicePort{Namespace: "shop", Name: fmt.Sprintf("s%d", n), Port: 80, Protocol: model.TCP}
}

func frontendKey(n int) model.FrontendKey {
	return model.FrontendKey{Addr: netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)}), Port: 80, Protocol: model.TCP}
}

func frontend(n int, set model.SetID) model.Frontend {
	return model.Frontend{FrontendKey: frontendKey(n), Set: set, Kind: model.FrontendClusterIP}
}

func set(id model.SetID, of int) model.BackendSet {
	return model.BackendSet{ID: id, Root: id, SetKey: model.SetKey{Service: service(of), Family: model.IPv4, Scope: model.ScopeAll}}
}

// part is a zone's or a node's part of a root.
func part(id, root model.SetID, of int, scope model.Scope, place string) model.BackendSet {
	s := set(id, of)
	s.Root, s.Scope, s.Place = root, scope, model.PlaceOf(place)
	return s
}

// view leads from a root to a part of it.
func view(target, root model.SetID, scope model.Scope, place string) model.View {
	return model.View{ViewKey: model.ViewKey{Set: root, Scope: scope, Place: model.PlaceOf(place)}, Target: target}
}

func flagged(s model.BackendSet, flags model.SetFlags) model.BackendSet {
	s.Flags = flags
	return s
}

func policy(f model.Frontend, flags model.FrontendFlags) model.Frontend {
	f.Kind, f.Flags = model.FrontendLoadBalancer, flags
	return f
}

func refused(n int) model.Frontend {
	f := frontend(n, 0)
	f.Port, f.Protocol, f.Kind = 0, 0, model.FrontendRefused
	return f
}

func sources(set model.SetID, prefix string) model.SourceRange {
	return model.SourceRange{Set: set, Prefix: netip.MustParsePrefix(prefix)}
}

func backend(id model.BackendID, of model.SetID, host int) model.Backend {
	return model.Backend{ID: id, State: model.BackendActive, BackendKey: model.BackendKey{
		Set: of, Addr: netip.AddrFrom4([4]byte{10, 1, byte(host >> 8), byte(host)}), Port: 8080,
	}}
}

// rows makes tables of rows; a uint pair {set, backend} is a member.
func rows(all ...any) *model.Tables {
	t := model.NewTables()
	for _, r := range all {
		switch r := r.(type) {
		case model.Frontend:
			t.Frontends[r.FrontendKey] = r
		case model.BackendSet:
			t.Sets[r.ID] = r
		case model.Backend:
			t.Backends[r.ID] = r
		case model.Endpoint:
			t.Endpoints[r.Addr] = r
		case model.View:
			t.Views[r.ViewKey] = r
		case model.SourceRange:
			t.SourceRanges[r] = r
		case model.Network:
			t.Networks[r.Prefix] = r
		case model.HealthCheck:
			t.HealthChecks[r.Port] = r
		case model.Node:
			t.Nodes[r.ID] = r
		case model.Self:
			t.Selves[r.Key()] = r
		case model.RuleSet:
			t.RuleSets[r.ID] = r
		case model.Rule:
			t.Rules[r.ID] = r
		case model.PortVerdict:
			t.PortVerdicts[r.PortKey] = r
		case model.Verdict:
			t.Verdicts[r.VerdictKey] = r
		case model.Block:
			t.Blocks[r.Prefix] = r
		case model.Peer:
			t.Peers.Put(r)
		case [2]uint32:
			m := model.Member{Set: model.SetID(r[0]), Backend: model.BackendID(r[1])}
			t.Members[m] = m
		default:
			panic(fmt.Sprintf("rows: %T", r))
		}
	}
	return t
}

func peer(addr string, id model.IdentityID) model.Peer {
	return model.Peer{Addr: netip.MustParseAddr(addr), Identity: id}
}

func block(prefix string, id model.IdentityID) model.Block {
	return model.Block{Prefix: netip.MustParsePrefix(prefix), Identity: id}
}

func in(set model.SetID, backend model.BackendID) [2]uint32 {
	return [2]uint32{uint32(set), uint32(backend)}
}

// filled returns maps and the state of them that hold rows.
func filled(t tester, before *model.Tables) (*maps.Memory, *plan.State) {
	t.Helper()
	m, s := maps.NewMemory([abi.MapCount]uint32{}), plan.Empty()
	if err := carryOut(m, mustApply(t, s, towards(s, model.LayerCluster, before)), nil); err != nil {
		t.Fatal(err)
	}
	return m, s
}

func noProblems(t tester, w *plantest.Witness) {
	t.Helper()
	for problem := range w.Problems {
		t.Error(problem)
	}
}
