// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// anyTables draws small tables out of few keys, so that two draws share some rows and differ in others.
func anyTables(t *rapid.T, label string) *model.Tables {
	tables := model.NewTables()
	small := rapid.IntRange(1, 4)
	addr := rapid.SampledFrom([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")})
	for range rapid.IntRange(0, 6).Draw(t, label) {
		id := small.Draw(t, "id")
		rows := model.Rows{
			Frontends: []model.Frontend{{
				FrontendKey: model.FrontendKey{Addr: addr.Draw(t, "vip"), Port: uint16(id), Protocol: model.TCP},
				Set:         model.SetID(small.Draw(t, "set")), Kind: model.FrontendClusterIP,
			}},
			Sets: []model.BackendSet{{ID: model.SetID(id), SetKey: model.SetKey{
				Service: model.ServicePort{Namespace: "shop", Name: "cart", Port: uint16(id), Protocol: model.UDP},
				Family:  model.IPv4, Scope: model.ScopeAll,
			}}},
			Backends: []model.Backend{{ID: model.BackendID(id), State: model.BackendActive, BackendKey: model.BackendKey{
				Set: model.SetID(id), Addr: addr.Draw(t, "addr"), Port: uint16(small.Draw(t, "port")),
			}}},
			Members:   []model.Member{{Set: model.SetID(id), Backend: model.BackendID(small.Draw(t, "member"))}},
			Nodes:     []model.Node{{ID: model.NodeID(id), V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(small.Draw(t, "node"))})}},
			Endpoints: []model.Endpoint{{Addr: addr.Draw(t, "pod address"), Pod: rapid.SampledFrom([]string{"shop/a", "shop/b"}).Draw(t, "pod")}},
		}
		tables.Apply(&model.Change{Put: rows}, model.Digest{})
	}
	return tables
}

func TestDiffAppliedGivesTheOtherTablesAndTheirDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := anyTables(t, "from"), anyTables(t, "to")
		change := model.Diff(from, to)
		digest := from.Apply(change, from.Digest())
		if diff := cmp.Diff(to, from, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatalf("applied difference gives other tables (-want +got):\n%s", diff)
		}
		if digest != to.Digest() {
			t.Fatalf("digest kept by change is %v, of all rows %v", digest, to.Digest())
		}
		if again := from.Apply(change, digest); again != digest {
			t.Fatalf("applying twice moved the digest from %v to %v", digest, again)
		}
		if !model.Diff(from, to).Empty() {
			t.Fatal("difference of equal tables is not empty")
		}
	})
}

func TestDigestTellsEveryFieldApart(t *testing.T) {
	vip := model.FrontendKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80, Protocol: model.TCP}
	set := model.SetKey{Service: model.ServicePort{Namespace: "a", Name: "bc", Port: 80, Protocol: model.TCP}, Family: model.IPv4, Scope: model.ScopeAll}
	moved := set
	moved.Service.Namespace, moved.Service.Name = "ab", "c"
	udp := vip
	udp.Protocol = model.UDP
	rows := []model.Rows{
		{Frontends: []model.Frontend{{FrontendKey: vip, Set: 1, Kind: 1}}},
		{Frontends: []model.Frontend{{FrontendKey: vip, Set: 2, Kind: 1}}},
		{Frontends: []model.Frontend{{FrontendKey: udp, Set: 1, Kind: 1}}},
		{Sets: []model.BackendSet{{ID: 1, SetKey: set}}},
		{Sets: []model.BackendSet{{ID: 1, SetKey: moved}}},
		{Members: []model.Member{{Set: 1, Backend: 2}}},
		{Members: []model.Member{{Set: 2, Backend: 1}}},
		{Backends: []model.Backend{{ID: 1, State: model.BackendActive, BackendKey: model.BackendKey{Set: 1, Addr: vip.Addr, Port: 80}}}},
		{Backends: []model.Backend{{ID: 1, State: model.BackendTerminating, BackendKey: model.BackendKey{Set: 1, Addr: vip.Addr, Port: 80}}}},
		{Backends: []model.Backend{{ID: 1, State: model.BackendTerminating, BackendKey: model.BackendKey{Set: 1, Addr: vip.Addr, Port: 80}, Node: 2}}},
		{Backends: []model.Backend{{ID: 1, State: model.BackendTerminating, BackendKey: model.BackendKey{Set: 1, Addr: vip.Addr, Port: 80}, Weight: 2}}},
		{Nodes: []model.Node{{ID: 1, V4: vip.Addr}}},
		{Nodes: []model.Node{{ID: 2, V4: vip.Addr}}},
		{Nodes: []model.Node{{ID: 1, V6: netip.MustParseAddr("fd00::1")}}},
		{Nodes: []model.Node{{ID: 1, V4: vip.Addr, V6: netip.MustParseAddr("fd00::1")}}},
		{Endpoints: []model.Endpoint{{Addr: vip.Addr, Pod: "a/b"}}},
		{Endpoints: []model.Endpoint{{Addr: vip.Addr, Pod: "a/c"}}},
	}
	seen := map[model.Digest]int{{}: -1}
	for i, r := range rows {
		digest := model.NewTables().Apply(&model.Change{Put: r}, model.Digest{})
		if other, twice := seen[digest]; twice {
			t.Errorf("rows %d and %d have the same digest %v", other, i, digest)
		}
		seen[digest] = i
	}
}

// The digest is part of what compiler and nodes must agree on, over versions too: this value never changes.
func TestDigestIsWhatItHasAlwaysBeen(t *testing.T) {
	rows := model.Rows{
		Members:   []model.Member{{Set: 1, Backend: 2}},
		Endpoints: []model.Endpoint{{Addr: netip.MustParseAddr("10.0.0.1"), Pod: "shop/cart-0"}},
	}
	got := model.NewTables().Apply(&model.Change{Put: rows}, model.Digest{}).String()
	if want := "10df1cbd15095c27a4f022a32da3f172"; got != want {
		t.Fatalf("digest %s, want %s", got, want)
	}
}

// A backend whose node isn't known and that has the weight that nearly all have is the row that it was before rows had
// either: an upgrade writes nothing anew that doesn't change.
func TestABackendWithoutNodeOrWeightHasTheDigestItAlwaysHad(t *testing.T) {
	rows := model.Rows{Backends: []model.Backend{{
		ID: 7, State: model.BackendActive, Twin: 5,
		BackendKey: model.BackendKey{Set: 3, Addr: netip.MustParseAddr("10.0.0.1"), Port: 8080, Place: 9},
	}}}
	got := model.NewTables().Apply(&model.Change{Put: rows}, model.Digest{}).String()
	if want := "6a8623f2018318275d7c50a7bbee4780"; got != want {
		t.Fatalf("digest %s, was %s", got, want)
	}
}

func TestANodesNumberIsNeverThatOfNone(t *testing.T) {
	if got := model.NodeIDOf(""); got != 0 {
		t.Errorf("no name has number %d", got)
	}
	for _, name := range []string{"node-a", "node-b"} {
		if got, want := model.NodeIDOf(name), model.NodeID(uint32(model.PlaceOf(name))); got != want || got == 0 {
			t.Errorf("%s has number %#x, want the low half of its place %#x", name, got, model.PlaceOf(name))
		}
	}
}

func TestDigestBytesRoundTrip(t *testing.T) {
	want := model.Digest{1, 1 << 63}
	got, err := model.DigestOf(want.Bytes())
	if err != nil || got != want {
		t.Fatalf("DigestOf(%x) = %v, %v; want %v", want.Bytes(), got, err, want)
	}
	if _, err := model.DigestOf([]byte("short")); err == nil {
		t.Fatal("a digest of 5 bytes was taken")
	}
}

func TestLayerStringsRoundTrip(t *testing.T) {
	for _, want := range []model.Layer{model.ClusterLayer, model.NodeLayer("a"), model.NodeLayer("a.b.example")} {
		if got, err := model.ParseLayer(want.String()); err != nil || got != want {
			t.Errorf("ParseLayer(%q) = %v, %v; want %v", want, got, err, want)
		}
	}
	for _, bad := range []string{"", "node.", "zone.a", "Cluster"} {
		if got, err := model.ParseLayer(bad); err == nil {
			t.Errorf("ParseLayer(%q) = %v, want an error", bad, got)
		}
	}
}

func BenchmarkApplyOneMember(b *testing.B) {
	tables := model.NewTables()
	var digest model.Digest
	for i := range 5000 {
		digest = tables.Apply(&model.Change{Put: model.Rows{Members: []model.Member{{Set: 1, Backend: model.BackendID(i + 1)}}}}, digest)
	}
	member := []model.Member{{Set: 1, Backend: 77}}
	b.ReportAllocs()
	for b.Loop() {
		digest = tables.Apply(&model.Change{Remove: model.Keys{Members: member}}, digest)
		digest = tables.Apply(&model.Change{Put: model.Rows{Members: member}}, digest)
	}
}
