// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// crowd is one Service with many backends and frontends.
func crowd(backends, frontends int) *model.Tables {
	t := rows(set(1, 1))
	for n := range frontends {
		t.Frontends[frontendKey(n)] = frontend(n, 1)
	}
	for i := range backends {
		b := backend(model.BackendID(i+1), 1, i)
		t.Backends[b.ID] = b
		m := model.Member{Set: 1, Backend: b.ID}
		t.Members[m] = m
	}
	return t
}

func removal(id model.BackendID) *model.Change {
	return &model.Change{Remove: model.Keys{
		Backends: []model.BackendID{id}, Members: []model.Member{{Set: 1, Backend: id}},
	}}
}

func addition(id model.BackendID, host int) *model.Change {
	return &model.Change{Put: model.Rows{
		Backends: []model.Backend{backend(id, 1, host)}, Members: []model.Member{{Set: 1, Backend: id}},
	}}
}

func TestOneBackendOf5000CostsAFewWritesWhateverTheNumberOfFrontends(t *testing.T) {
	for _, frontends := range []int{1, 100} {
		before := crowd(5000, frontends)
		memory, s := filled(t, before)
		for _, test := range []struct {
			name   string
			change *model.Change
			most   uint64
		}{
			{"a backend in the middle goes", removal(2500), 4},
			{"the first goes", removal(1), 4},
			{"the last goes", removal(5000), 4},
			{"one comes", addition(6000, 6000), 3},
			{"one goes and one comes", &model.Change{Put: addition(6001, 6001).Put, Remove: removal(77).Remove}, 3},
			{"one is put again as it is", addition(6001, 6001), 0},
			{"one that isn't there goes", removal(9999), 0},
			{"one is terminating", &model.Change{Put: model.Rows{Backends: []model.Backend{func() model.Backend {
				b := backend(5, 1, 4)
				b.State = model.BackendTerminating
				return b
			}()}}}, 1},
		} {
			writes := memory.Writes()
			p := mustApply(t, s, plan.LayerChange{Kind: model.LayerCluster, Change: test.change})
			if err := carryOut(memory, p, nil); err != nil {
				t.Fatal(err)
			}
			if n := memory.Writes() - writes; n > test.most || int(n) != p.Writes() {
				t.Errorf("%s, %d frontends: %d writes, want at most %d (planned %d)", test.name, frontends, n, test.most, p.Writes())
			}
			test.change.Put.Frontends = nil
			before.Apply(test.change, model.Digest{})
			holds(t, memory, s, model.LayerCluster, before)
		}
	}
}

// Row 23: what does not fit a map is refused whole, by the name of a row, and nothing is written.
func TestWhatDoesNotFitIsRefusedWholeAndByName(t *testing.T) {
	before := crowd(3, 1)
	memory, s := filled(t, before)
	for _, test := range []struct {
		name       string
		capacities plan.Capacities
		change     *model.Change
		want       string
	}{
		{
			"backends",
			plan.Capacities{abi.Backends: 4},
			&model.Change{Put: model.Rows{
				Backends: []model.Backend{backend(8, 1, 8), backend(9, 1, 9)},
				Members:  []model.Member{{Set: 1, Backend: 8}, {Set: 1, Backend: 9}},
			}},
			"map backends_v3 has 3 of 4 entries in use and the change needs 2 more, such as backend 9 (10.1.0.9 port 8080, state 1) of shop/s1:80",
		},
		{
			"sets",
			plan.Capacities{abi.Sets: 1},
			&model.Change{Put: model.Rows{Sets: []model.BackendSet{set(2, 2)}}},
			"map sets_v2 has 1 of 1 entries in use and the change needs 1 more, such as set 2 (shop/s2:80)",
		},
		{
			"frontends",
			plan.Capacities{abi.Frontends: 1},
			&model.Change{Put: model.Rows{Frontends: []model.Frontend{frontend(7, 1)}}},
			"map frontends_v2 has 1 of 1 entries in use and the change needs 1 more, such as frontend 10.96.0.7:80/TCP → set 1 (shop/s1:80)",
		},
		{
			"room for old and new side by side",
			plan.Capacities{abi.Backends: 3},
			&model.Change{Put: addition(9, 9).Put, Remove: removal(1).Remove},
			"map backends_v3 has 3 of 3 entries in use and the change needs 1 more",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Apply(test.capacities, plan.LayerChange{Kind: model.LayerCluster, Change: test.change})
			refusedWith(t, err, "capacity", test.want)
			holds(t, memory, s, model.LayerCluster, before)
		})
	}
}

func TestRowsThatPointAtNothingAreRefusedAndNothingChanges(t *testing.T) {
	before := rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1))
	memory, s := filled(t, before)
	long := set(5, 5)
	long.Service.Name = strings.Repeat("x", 130)
	wrong := model.Digest{1, 2}
	for _, test := range []struct {
		kind, want string
		change     plan.LayerChange
	}{
		{"rows", "frontend 10.96.0.2:80/TCP points at set 9, which does not exist", change(model.Rows{Frontends: []model.Frontend{frontend(2, 9)}}, model.Keys{})},
		{"rows", "set 1 of shop/s1:80 is to have backend 9, which does not exist", change(model.Rows{Members: []model.Member{{Set: 1, Backend: 9}}}, model.Keys{})},
		{"rows", "backend 1 is to join set 9, which does not exist in layer cluster", change(model.Rows{Members: []model.Member{{Set: 9, Backend: 1}}}, model.Keys{})},
		{"rows", "the change removes backend 1 (10.1.0.1 port 8080), which is still a member of a set", change(model.Rows{}, model.Keys{Backends: []model.BackendID{1}})},
		{"rows", "the change removes set 1 of shop/s1:80, which 1 frontends or views still point at", change(model.Rows{}, model.Keys{Sets: []model.SetID{1}})},
		{"rows", "the change removes set 1 of shop/s1:80 but not its member backend 1", change(model.Rows{}, model.Keys{Sets: []model.SetID{1}, Frontends: []model.FrontendKey{frontendKey(1)}})},
		{"rows", "the change of layer cluster names a key twice", change(model.Rows{Backends: []model.Backend{backend(2, 1, 2), backend(2, 1, 3)}}, model.Keys{})},
		{"rows", "set 5 of shop/" + long.Service.Name + ":80: its id is 0 or its name longer than 127 bytes", change(model.Rows{Sets: []model.BackendSet{long}}, model.Keys{})},
		{"digest", "after the change layer cluster would have digest ", plan.LayerChange{Kind: model.LayerCluster, Change: removal(1), After: &wrong}},
		{"rows", "the change of layer node.this puts 1, which layer cluster holds", plan.LayerChange{Kind: model.LayerNode, Change: &model.Change{Put: model.Rows{Sets: []model.BackendSet{set(1, 7)}}}}},
	} {
		_, err := s.Apply(plan.Capacities{}, test.change)
		refusedWith(t, err, test.kind, test.want)
		holds(t, memory, s, model.LayerCluster, before)
		if n := s.Tables(model.LayerNode).Len(); n != 0 {
			t.Fatalf("the node's layer has %d rows", n)
		}
	}
}

// TestAPartOfAnotherServiceIsRefusedWhileItsViewStays gives a part another meaning, while the view that leads to it is
// as it was: its root's clients would be led to another Service's backends.
func TestAPartOfAnotherServiceIsRefusedWhileItsViewStays(t *testing.T) {
	cluster := rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), in(1, 1), set(2, 2))
	node := rows(part(21, 1, 1, model.ScopeLocal, "node-a"), view(21, 1, model.ScopeLocal, ""))
	memory, s := filled(t, cluster)
	if err := carryOut(memory, mustApply(t, s, towards(s, model.LayerNode, node)), nil); err != nil {
		t.Fatal(err)
	}
	for want, other := range map[string]model.BackendSet{
		"a view of set 1 (shop/s1:80) leads to set 21, which is a part of set 1 (shop/s2:80)": part(21, 1, 2, model.ScopeLocal, "node-a"),
		"a view of set 1 (shop/s1:80) leads to set 21, which is a part of set 2 (shop/s2:80)": part(21, 2, 2, model.ScopeLocal, "node-a"),
	} {
		_, err := s.Apply(plan.Capacities{}, plan.LayerChange{Kind: model.LayerNode, Change: &model.Change{Put: model.Rows{Sets: []model.BackendSet{other}}}})
		refusedWith(t, err, "rows", want)
		holds(t, memory, s, model.LayerNode, node)
	}
}

func change(put model.Rows, remove model.Keys) plan.LayerChange {
	return plan.LayerChange{Kind: model.LayerCluster, Change: &model.Change{Put: put, Remove: remove}}
}

func refusedWith(t *testing.T, err error, kind, want string) {
	t.Helper()
	refusal, ok := errors.AsType[*plan.Refusal](err)
	if !ok || refusal.Kind != kind || !strings.HasPrefix(refusal.Text, want) {
		t.Errorf("got %v\nwant a refusal of kind %q: %s", err, kind, want)
	}
}

func TestWhatAPersonLeftInTheMapsIsFoundAndRemoved(t *testing.T) {
	wanted := rows(set(1, 1), frontend(1, 1), backend(1, 1, 1), backend(2, 1, 2), in(1, 1), in(1, 2))
	sets := func(id, count uint32) maps.Write {
		value := make([]byte, 160)
		binary.NativeEndian.PutUint32(value, count)
		value[9] = byte(model.LayerCluster)
		binary.NativeEndian.PutUint32(value[12:], 1) // the root
		copy(value[32:], "shop/s1")
		return maps.Write{Map: abi.Sets, Key: abi.Encode(id), Value: value}
	}
	slots := func(set, index, backend uint32) maps.Write {
		return maps.Write{Map: abi.Slots, Key: abi.Encode(abi.SlotKey{Set: set, Index: index}), Value: abi.Encode(backend)}
	}
	for name, edit := range map[string][]maps.Write{
		"a slot beyond the count":                {slots(1, 7, 1)},
		"a slot of no set":                       {slots(9, 0, 1)},
		"a count of four billion":                {sets(1, 4_000_000_000)},
		"a count too low":                        {sets(1, 1)},
		"a slot deleted":                         {{Map: abi.Slots, Key: abi.Encode(abi.SlotKey{Set: 1, Index: 0})}},
		"a slot that stands twice":               {slots(1, 0, 1), slots(1, 1, 1)},
		"a slot to no backend":                   {slots(1, 0, 77)},
		"a backend deleted":                      {{Map: abi.Backends, Key: abi.Encode(uint32(2))}},
		"a backend with another address":         {{Map: abi.Backends, Key: abi.Encode(uint32(2)), Value: make([]byte, 48)}},
		"a backend in another layer":             {{Map: abi.Backends, Key: abi.Encode(uint32(2)), Value: abi.Encode(abi.Backend{Set: 1, Layer: 3, Addr: netip.MustParseAddr("10.1.0.2").As16(), Port: abi.Port(8080), Weight: 1, State: 1})}},
		"a backend of another node":              {{Map: abi.Backends, Key: abi.Encode(uint32(2)), Value: abi.Encode(abi.Backend{Set: 1, Layer: 1, Addr: netip.MustParseAddr("10.1.0.2").As16(), Port: abi.Port(8080), Weight: 1, State: 1, Node: 5})}},
		"a backend without a weight":             {{Map: abi.Backends, Key: abi.Encode(uint32(2)), Value: abi.Encode(abi.Backend{Set: 1, Layer: 1, Addr: netip.MustParseAddr("10.1.0.2").As16(), Port: abi.Port(8080), State: 1})}},
		"a node nobody asked for":                {{Map: abi.Nodes, Key: abi.Encode(uint32(99)), Value: abi.Encode(abi.Node{Layer: 1, V4: netip.MustParseAddr("192.0.2.1").As16()})}},
		"a node with an address of no family":    {{Map: abi.Nodes, Key: abi.Encode(uint32(99)), Value: abi.Encode(abi.Node{Layer: 1, V6: netip.MustParseAddr("192.0.2.1").As16()})}},
		"a backend nobody asked for":             {{Map: abi.Backends, Key: abi.Encode(uint32(99)), Value: abi.Encode(abi.Backend{Layer: 1})}},
		"a frontend deleted":                     {{Map: abi.Frontends, Key: abi.Encode(abi.KeyOfFrontend(frontendKey(1)))}},
		"a frontend of a foreign layer":          {{Map: abi.Frontends, Key: abi.Encode(abi.KeyOfFrontend(frontendKey(5))), Value: make([]byte, 8)}},
		"a frontend's value cut to zero":         {{Map: abi.Frontends, Key: abi.Encode(abi.KeyOfFrontend(frontendKey(1))), Value: make([]byte, 8)}},
		"the set's row emptied":                  {{Map: abi.Sets, Key: abi.Encode(uint32(1)), Value: make([]byte, 160)}},
		"a set's name that is no UTF-8":          {func() maps.Write { w := sets(1, 2); w.Value[32] |= 0x80; return w }()},
		"the set deleted":                        {{Map: abi.Sets, Key: abi.Encode(uint32(1))}},
		"everything of the set in another layer": {func() maps.Write { w := sets(1, 2); w.Value[9] = 3; return w }()},
	} {
		t.Run(name, func(t *testing.T) {
			memory, before := filled(t, wanted)
			if err := memory.Write(edit); err != nil {
				t.Fatal(err)
			}
			s := load(t, memory)
			if s.Digest(model.LayerCluster) == before.Digest(model.LayerCluster) && s.Whole() {
				t.Error("the edit was not noticed")
			}
			layer, none := towards(s, model.LayerCluster, wanted), towards(s, model.LayerNode, rows())
			layer.TakeOver = true
			if err := carryOut(memory, mustApply(t, s, none, layer), nil); err != nil {
				t.Fatal(err)
			}
			holds(t, memory, s, model.LayerCluster, wanted)
		})
	}
}

func TestEntriesAreTheBytesOfTheABI(t *testing.T) {
	b := backend(7, 1, 5)
	v6 := frontend(1, 1)
	v6.Addr = netip.MustParseAddr("fd00::1")
	e := model.Endpoint{Addr: netip.MustParseAddr("10.1.0.5"), Pod: "shop/web-1"}
	own := b
	own.ID, own.Place, own.Twin = 8, 9, 7
	own.Node, own.Weight = 0xfedcba98, 50
	node := model.Node{ID: 0xfedcba98, V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("fd01::1")}
	six := model.Node{ID: 5, V6: node.V6}
	judged := model.Endpoint{Addr: netip.MustParseAddr("fd00::5"), Pod: "shop/web-1", Incarnation: 77, Ingress: 1 << 60, Egress: 1<<60 | 1}
	v := model.Verdict{VerdictKey: model.VerdictKey{RuleSet: 1 << 60, Identity: 9}, Ports: 0x0102030405060708, Rule: 11, Action: model.ActionIsolate}
	p := model.PortVerdict{PortKey: model.PortKey{Ports: v.Ports, Protocol: model.TCP, Port: 8080, Bits: 12}, Action: model.ActionAllow, Rule: 11}
	rs := model.RuleSet{ID: 1 << 60, Direction: model.Ingress, Policies: "NetworkPolicy shop/web"}
	egress := model.RuleSet{ID: 1<<60 | 1, Direction: model.Egress, Policies: "ClusterNetworkPolicy c"}
	r := model.Rule{ID: 11, Policy: model.PolicyName{Kind: model.NetworkPolicy, Namespace: "shop", Name: "web"}, Direction: model.Ingress, Index: 2, Name: "first", Action: model.ActionAllow}
	memory, _ := filled(t, rows(set(1, 1), v6, b, own, node, six, in(1, 7), e, judged, v, p, rs, egress, r, peer("10.1.0.9", 9), block("10.0.0.0/8", 4),
		model.Self{Policed: true}))
	name := func(text string) (a [128]byte) { copy(a[:], text); return a }
	pod := func(text string) (a [320]byte) { copy(a[:], text); return a }
	var policies [256]byte
	copy(policies[:], rs.Policies)
	var ruleName [104]byte
	copy(ruleName[:], "first")
	for _, want := range []struct {
		m          abi.Map
		key, value any
	}{
		{abi.Frontends, abi.KeyOfFrontend(v6.FrontendKey), abi.Frontend{Set: 1, Kind: 1, Layer: 1}},
		{abi.Sets, uint32(1), abi.BackendSet{Count: 1, Port: 80, Protocol: 6, Family: 4, Scope: 1, Layer: 1, Root: 1, Service: name("shop/s1")}},
		{abi.Slots, abi.SlotKey{Set: 1}, uint32(7)},
		{abi.Backends, uint32(7), abi.Backend{Addr: b.Addr.As16(), Set: 1, Port: abi.Port(8080), Weight: 1, State: 1, Layer: 1}},
		{abi.Backends, uint32(8), abi.Backend{Addr: b.Addr.As16(), Set: 1, Port: abi.Port(8080), Weight: 50, Node: 0xfedcba98, State: 1, Layer: 1, Place: 9, Twin: 7}},
		{abi.Nodes, uint32(0xfedcba98), abi.Node{V4: node.V4.As16(), V6: node.V6.As16(), Layer: 1}},
		{abi.Nodes, uint32(5), abi.Node{V6: node.V6.As16(), Layer: 1}},
		{abi.Endpoints, e.Addr.As16(), abi.Endpoint{Layer: 1, Pod: pod("shop/web-1")}},
		{abi.Endpoints, judged.Addr.As16(), abi.Endpoint{Layer: 1, Pod: pod("shop/web-1"), Incarnation: 77, Ingress: 1 << 60, Egress: 1<<60 | 1}},
		{abi.Verdicts, abi.VerdictKey{RuleSet: 1 << 60, Identity: 9}, abi.Verdict{Ports: uint64(v.Ports), Rule: 11, Action: 3, Layer: 1}},
		{abi.PortVerdicts, abi.PortVerdictKey{Bits: 92, Ports: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, Protocol: 6, Port: abi.Port(8080)}, abi.PortVerdict{Rule: 11, Action: 1, Layer: 1}},
		{abi.RuleSets, uint64(1 << 60), abi.RuleSet{Direction: 1, Layer: 1, Policies: policies}},
		{abi.Rules, uint64(11), abi.Rule{Index: 2, Kind: 2, Direction: 1, Action: 1, Layer: 1, Policy: pod("shop/web"), Name: ruleName}},
		{abi.Peers, netip.MustParseAddr("10.1.0.9").As16(), abi.Identity{ID: 9, Layer: 1}},
		{abi.Blocks, abi.NetworkKey{Bits: 104, Addr: netip.MustParseAddr("10.0.0.0").As16()}, abi.Identity{ID: 4, Layer: 1}},
		{abi.Selves, uint32(0), abi.Self{Layer: 1, Policed: 1}},
	} {
		value, held := memory.Lookup(want.m, abi.Encode(want.key))
		if !held || string(value) != string(abi.Encode(want.value)) {
			t.Errorf("%s: got %x\nwant %x", want.m, value, abi.Encode(want.value))
		}
	}
}

func BenchmarkOneBackendOf5000(b *testing.B) {
	_, s := filled(b, crowd(5000, 100))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id := model.BackendID(10_000 + i)
		mustApply(b, s, plan.LayerChange{Kind: model.LayerCluster, Change: addition(id, 9)})
		mustApply(b, s, plan.LayerChange{Kind: model.LayerCluster, Change: removal(id)})
	}
}

// cluster is a snapshot's rows: services with backends each.
func cluster(services, backends int) *model.Tables {
	t := model.NewTables()
	next := model.BackendID(1)
	for n := range services {
		s := set(model.SetID(n+1), n)
		t.Sets[s.ID] = s
		t.Frontends[frontendKey(n)] = frontend(n, s.ID)
		for range backends {
			row := backend(next, s.ID, int(next))
			t.Backends[next] = row
			m := model.Member{Set: s.ID, Backend: next}
			t.Members[m] = m
			next++
		}
	}
	return t
}

func BenchmarkColdLoadOf250000Backends(b *testing.B) {
	all := cluster(5000, 50)
	change := &model.Change{Put: all.Rows()}
	b.ReportAllocs()
	for b.Loop() {
		p := mustApply(b, plan.Empty(), plan.LayerChange{Kind: model.LayerCluster, Change: change})
		if p.Writes() != 510_000 {
			b.Fatal(fmt.Sprint(p.Writes(), " writes"))
		}
	}
}
