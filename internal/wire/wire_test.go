// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// sameValue compares model values: addresses by value, lists without order, an empty list like none.
var sameValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.FilterValues(bothSlices, cmp.Transformer("set", asSet)),
}

func bothSlices(a, b any) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Kind() == reflect.Slice
}

func asSet(s any) map[string]int {
	set := map[string]int{}
	for i := range reflect.ValueOf(s).Len() {
		set[fmt.Sprintf("%+v", reflect.ValueOf(s).Index(i))]++
	}
	return set
}

func decodeDelta(t interface{ Fatal(...any) }, messages [][]byte, order []int) model.Delta {
	var a Assembler
	for n, i := range order {
		part, err := DecodeDelta(messages[i])
		if err != nil {
			t.Fatal(err)
		}
		d, complete, err := a.Add(part)
		if err != nil {
			t.Fatal(err)
		}
		if complete != (n == len(order)-1) {
			t.Fatal("complete after part", n, "of", len(order))
		}
		if complete {
			return d
		}
	}
	panic("unreachable")
}

func TestDeltaComesBackAsItWentInAnyOrderOfParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := genDelta().Draw(t, "delta")
		maxBytes := rapid.IntRange(3000, 8000).Draw(t, "max bytes")
		messages, err := EncodeDelta(d, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range messages {
			if len(m) > maxBytes {
				t.Fatalf("part %d has %d bytes, more than %d", i, len(m), maxBytes)
			}
		}
		order := rapid.Permutation(indices(len(messages))).Draw(t, "order")
		if diff := cmp.Diff(d, decodeDelta(t, messages, order), sameValue); diff != "" {
			t.Fatal(diff)
		}
	})
}

func indices(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestSnapshotComesBackAsItWent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tables := genTables().Draw(t, "tables")
		s := model.Snapshot{Layer: genLayer().Draw(t, "layer"), Rows: tables.Rows(), Position: model.Position{
			Epoch: 3, Revision: model.Revision(rapid.Uint64().Draw(t, "revision")), Digest: tables.Digest(),
		}}
		maxBytes := rapid.IntRange(1000, 3000).Draw(t, "max bytes")
		messages, err := EncodeSnapshot(s, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		var a SnapshotAssembler
		for i, m := range messages {
			if len(m) > maxBytes {
				t.Fatalf("chunk %d has %d bytes, more than %d", i, len(m), maxBytes)
			}
			part, err := DecodeSnapshot(m)
			if err != nil {
				t.Fatal(err)
			}
			got, complete, err := a.Add(part)
			if err != nil || complete != (i == len(messages)-1) {
				t.Fatalf("chunk %d of %d: complete %v, %v", i, len(messages), complete, err)
			}
			if !complete {
				continue
			}
			if diff := cmp.Diff(s, got, sameValue); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func TestRowsOfADumpAreSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tables := genTables().Draw(t, "tables")
		parts, err := SplitRows(tables.Rows(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		var got model.Rows
		for _, p := range parts {
			if n := proto.Size(p); n > 1000 {
				t.Fatalf("%d bytes", n)
			}
			rows, err := RowsFromProto(p)
			if err != nil {
				t.Fatal(err)
			}
			got.Append(&rows)
		}
		if diff := cmp.Diff(tables.Rows(), got, sameValue); diff != "" {
			t.Fatal(diff)
		}
	})
	if _, err := SplitRows(model.Rows{}, 10); err == nil {
		t.Error("messages of 10 bytes: no error")
	}
}

func aDelta() model.Delta {
	return model.Delta{
		Epoch: 3, Layer: model.ClusterLayer, From: 812_344, To: 812_345, DigestAfter: model.Digest{1 << 63, 1 << 62},
		Committed: time.Date(2026, 11, 22, 21, 0, 0, 123_456_789, time.UTC),
		Causes: []model.Cause{{
			Kind: "EndpointSlice", Namespace: "shop", Name: "cart-x7k2p", UID: "0c9d4f0a-6f4e-4a57-9c2e-6f0f8f2b1a3d",
			ResourceVersion: "8374659", Manager: "kube-controller-manager",
			Trigger: time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC),
		}},
	}
}

// What one change of one backend costs on the wire, its cause included. NATS costs are per message, not per byte, but
// the log keeps every byte.
func TestDeltaOfOneBackendIsSmall(t *testing.T) {
	const budget = 200
	member := model.Member{Set: 431, Backend: 12_204}
	removed, added, drained := aDelta(), aDelta(), aDelta()
	removed.Change.Remove = model.Keys{Members: []model.Member{member}, Backends: []model.BackendID{member.Backend}}
	backend := model.Backend{ID: member.Backend, BackendKey: model.BackendKey{
		Set: member.Set, Addr: netip.MustParseAddr("10.8.3.21"), Port: 8443,
	}, State: model.BackendActive}
	added.Change.Put = model.Rows{Members: []model.Member{member}, Backends: []model.Backend{backend}}
	backend.State = model.BackendTerminating
	drained.Change.Put = model.Rows{Backends: []model.Backend{backend}}
	for name, d := range map[string]model.Delta{"removed": removed, "added": added, "drained": drained} {
		messages, err := EncodeDelta(d, schemas.MaxMessageBytes)
		if err != nil || len(messages) != 1 {
			t.Fatalf("%s: %d messages, %v", name, len(messages), err)
		}
		t.Logf("a backend is %s: %d bytes", name, len(messages[0]))
		if n := len(messages[0]); n > budget {
			t.Errorf("a backend is %s: %d bytes, more than %d", name, n, budget)
		}
	}
}

// What a stranger may send, each with what is said about it.
func TestForeignDeltasAreRefusedByName(t *testing.T) {
	valid := func() *schemas.Delta {
		parts, err := DeltaToProto(aDelta(), schemas.MaxMessageBytes)
		if err != nil {
			t.Fatal(err)
		}
		return parts[0]
	}
	rows := func(r *schemas.Rows) func(*schemas.Delta) { return func(m *schemas.Delta) { m.Put = r } }
	set := func(change func(*schemas.BackendSet)) func(*schemas.Delta) {
		s := &schemas.BackendSet{Id: 1, Namespace: "a", Service: "b", Port: 1, Protocol: 6, Family: 4, Scope: 1, Root: 1}
		change(s)
		return rows(&schemas.Rows{Sets: []*schemas.BackendSet{s}})
	}
	keys := func(k *schemas.Keys) func(*schemas.Delta) { return func(m *schemas.Delta) { m.Remove = k } }
	v4 := []byte{10, 0, 0, 1}
	for _, test := range []struct {
		want   string
		change func(*schemas.Delta)
	}{
		{"layer \"rack.1\": want cluster or node.NAME", func(m *schemas.Delta) { m.Layer = "rack.1" }},
		{"layer of 300 bytes: at most 253", func(m *schemas.Delta) { m.Layer = "node." + strings.Repeat("n", 300) }},
		{"control characters", func(m *schemas.Delta) { m.Layer = "node.a\nb" }},
		{"epoch 0 is no epoch", func(m *schemas.Delta) { m.Epoch = 0 }},
		{"from revision 7 to 7", func(m *schemas.Delta) { m.From, m.To = 7, 7 }},
		{"digest of 3 bytes: want 16", func(m *schemas.Delta) { m.DigestAfter = []byte{1, 2, 3} }},
		{"part 0 of 0", func(m *schemas.Delta) { m.Parts = 0 }},
		{"part 2 of 2", func(m *schemas.Delta) { m.Part, m.Parts = 2, 2 }},
		{"part 0 of 4097", func(m *schemas.Delta) { m.Parts = 4097 }},
		{"65 causes: at most 64", func(m *schemas.Delta) { m.Causes = make([]*schemas.Cause, 65) }},
		{"cause 0: kind is empty", func(m *schemas.Delta) { m.Causes[0].Object.Kind = "" }},
		{"manager of 254 bytes", func(m *schemas.Delta) { m.Causes[0].Manager = strings.Repeat("m", 254) }},
		{"committed: ", func(m *schemas.Delta) { m.Committed.Nanos = -1 }},
		{"frontend 0: address of 0 bytes", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{}}})},
		{"frontend 0: address of 5 bytes: want 4 or 16", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: make([]byte, 5)}}}})},
		{"port 65536: want 1 to 65535", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 65536}}}})},
		{"protocol 1: want 6 (TCP)", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 1}}}})},
		{"frontend 0: set id 0 is no set", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}}}})},
		{"frontend 0: kind 9 is unknown here", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}, Set: 1, Kind: 9}}})},
		{"set 0: set id 0 is no set", rows(&schemas.Rows{Sets: []*schemas.BackendSet{{}}})},
		{"namespace is empty", rows(&schemas.Rows{Sets: []*schemas.BackendSet{{Id: 1}}})},
		{"IP family 5: want 4 or 6", rows(&schemas.Rows{Sets: []*schemas.BackendSet{{Id: 1, Namespace: "a", Service: "b", Port: 1, Protocol: 6, Family: 5, Scope: 1}}})},
		{"scope 7 is unknown here", rows(&schemas.Rows{Sets: []*schemas.BackendSet{{Id: 1, Namespace: "a", Service: "b", Port: 1, Protocol: 6, Family: 4, Scope: 7}}})},
		{"kind 5 is unknown here", rows(&schemas.Rows{Networks: []*schemas.Network{{Prefix: &schemas.Prefix{Address: v4, Bits: 32}, Kind: 5}}})},
		{"frontend 0: 10.0.0.1 (other ports) is refused, and has a port, a set or flags", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4}, Set: 1, Kind: 6}}})},
		{"is refused, and has a port, a set or flags", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4}, Kind: 6, SourceRanges: true}}})},
		{"port 0: want 1 to 65535", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Protocol: 6}, Kind: 6}}})},
		{"port 0 and kind 1: only refused frontends have no port", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4}, Set: 1, Kind: 1}}})},
		{"kind 257 is unknown here", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}, Set: 1, Kind: 257}}})},
		{"scope 257 is unknown here", set(func(s *schemas.BackendSet) { s.Scope = 257 })},
		{"match 256 is unknown here", keys(&schemas.Keys{Frontends: []*schemas.FrontendKey{{Address: v4, Port: 80, Protocol: 6, Match: 256}}})},
		{"scope 258 leads to no part", keys(&schemas.Keys{Views: []*schemas.ViewKey{{Set: 1, Scope: 258, Place: 1}}})},
		{"match 3 is unknown here", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6, Match: 3}, Set: 1, Kind: 2}}})},
		{"address 10.0.0.1: the node's own addresses have the unspecified one in the key", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6, Match: 1}, Set: 1, Kind: 2}}})},
		{"match 0 does not go with kind 2", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}, Set: 1, Kind: 2}}})},
		{"match 1 does not go with kind 5", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: make([]byte, 4), Port: 80, Protocol: 6, Match: 1}, Set: 1, Kind: 5}}})},
		{"set 1 of scope 1 has root 2: want its own id", set(func(s *schemas.BackendSet) { s.Root = 2 })},
		{"set 1 of scope 5 has root 0: want its own id", set(func(s *schemas.BackendSet) { s.Scope, s.Root = 5, 0 })},
		{"set 1 of scope 2 has root 1: want another set's id", set(func(s *schemas.BackendSet) { s.Scope = 2 })},
		{"set 1 of scope 3 has no place", set(func(s *schemas.BackendSet) { s.Scope, s.Root = 3, 2 })},
		{"set 1 of scope 4 says what hints its root has", set(func(s *schemas.BackendSet) { s.Scope, s.Root, s.Place, s.ZoneHints = 4, 2, 1, true })},
		{"affinity of 86401 seconds: at most 86400", set(func(s *schemas.BackendSet) { s.AffinitySeconds = 86_401 })},
		{"view 0: set id 0", rows(&schemas.Rows{Views: []*schemas.View{{}}})},
		{"scope 1 leads to no part of a set", rows(&schemas.Rows{Views: []*schemas.View{{Key: &schemas.ViewKey{Set: 1, Scope: 1}}}})},
		{"the view of a zone has no place", rows(&schemas.Rows{Views: []*schemas.View{{Key: &schemas.ViewKey{Set: 1, Scope: 2}, Target: 2}}})},
		{"the view of scope 4 has place 7", rows(&schemas.Rows{Views: []*schemas.View{{Key: &schemas.ViewKey{Set: 1, Scope: 4, Place: 7}, Target: 2}}})},
		{"the view of set 1 leads to itself", rows(&schemas.Rows{Views: []*schemas.View{{Key: &schemas.ViewKey{Set: 1, Scope: 4}, Target: 1}}})},
		{"source range 0: set id 0", rows(&schemas.Rows{SourceRanges: []*schemas.SourceRange{{Prefix: &schemas.Prefix{Address: v4, Bits: 32}}}})},
		{"prefix 10.0.0.1/33: at most 32 bits", rows(&schemas.Rows{SourceRanges: []*schemas.SourceRange{{Set: 1, Prefix: &schemas.Prefix{Address: v4, Bits: 33}}}})},
		{"prefix 10.0.0.1/24 has bits set behind it: want 10.0.0.0/24", rows(&schemas.Rows{Networks: []*schemas.Network{{Prefix: &schemas.Prefix{Address: v4, Bits: 24}, Kind: 1}}})},
		{"prefix with an address of 16 bytes", rows(&schemas.Rows{Networks: []*schemas.Network{{Prefix: &schemas.Prefix{Address: []byte{10: 255, 11: 255, 15: 1}, Bits: 128}, Kind: 1}}})},
		{"health check 0: port 0", rows(&schemas.Rows{HealthChecks: []*schemas.HealthCheck{{Namespace: "a", Service: "b"}}})},
		{"health check 0: service is empty", rows(&schemas.Rows{HealthChecks: []*schemas.HealthCheck{{Port: 1, Namespace: "a"}}})},
		{"node 0: number 0 is no node", rows(&schemas.Rows{Nodes: []*schemas.NodeAddress{{V4: v4}}})},
		{"node 0: node 0x7 has no address", rows(&schemas.Rows{Nodes: []*schemas.NodeAddress{{Node: 7}}})},
		{"node 0: address of 3 bytes", rows(&schemas.Rows{Nodes: []*schemas.NodeAddress{{Node: 7, V4: v4[:3]}}})},
		{"address 10.0.0.1 of 4 bytes is no other host's of IPv6", rows(&schemas.Rows{Nodes: []*schemas.NodeAddress{{Node: 7, V6: v4}}})},
		{"address 255.0.0.1 of 16 bytes is no other host's of IPv4", rows(&schemas.Rows{Nodes: []*schemas.NodeAddress{{Node: 7, V4: []byte{10: 255, 11: 255, 12: 255, 15: 1}}}})},
		{"address 0.0.0.0 of 4 bytes is no other host's", rows(&schemas.Rows{Nodes: []*schemas.NodeAddress{{Node: 7, V4: make([]byte, 4)}}})},
		{"node 0: number 0 is no node", keys(&schemas.Keys{Nodes: []uint32{0}})},
		{"forwarding 3 is unknown here", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}, Set: 1, Kind: 3, Forwarding: 3}}})},
		{"10.0.0.1:80/TCP forwards to other nodes", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}, Set: 1, Kind: 3, ExternalLocal: true, Forwarding: 1}}})},
		{"10.0.0.1:80/TCP forwards to other nodes", rows(&schemas.Rows{Frontends: []*schemas.Frontend{{Key: &schemas.FrontendKey{Address: v4, Port: 80, Protocol: 6}, Set: 1, Kind: 1, Forwarding: 2}}})},
		{"set 1 of scope 4 is for clients from outside of any node", set(func(s *schemas.BackendSet) { s.Scope, s.Root, s.Place, s.External = 4, 2, 1, true })},
		{"weight 1: want 0, which is 1, or 2 to 100", rows(&schemas.Rows{Backends: []*schemas.Backend{{Id: 1, Set: 1, Address: v4, Port: 1, State: 1, Weight: 1}}})},
		{"weight 101: want 0", rows(&schemas.Rows{Backends: []*schemas.Backend{{Id: 1, Set: 1, Address: v4, Port: 1, State: 1, Weight: 101}}})},
		{"self 0: zone of 64 bytes: at most 63", rows(&schemas.Rows{Selves: []*schemas.Self{{Zone: strings.Repeat("z", 64)}}})},
		{"network 0: prefix with an address of 0 bytes", keys(&schemas.Keys{Networks: []*schemas.Prefix{{}}})},
		{"health check 0: port 65536", keys(&schemas.Keys{HealthChecks: []uint32{65_536}})},
		{"view key 0: scope 9 leads", keys(&schemas.Keys{Views: []*schemas.ViewKey{{Set: 1, Scope: 9}}})},
		{"backend 0: backend id 0 is no backend", rows(&schemas.Rows{Backends: []*schemas.Backend{{Set: 1}}})},
		{"state 0 is unknown here", rows(&schemas.Rows{Backends: []*schemas.Backend{{Id: 1, Set: 1, Address: v4, Port: 1}}})},
		{"members of set 4: backend id 0", rows(&schemas.Rows{Members: []*schemas.Members{{Set: 4, Backends: []uint32{0}}}})},
		{"endpoint 0: pod is empty", rows(&schemas.Rows{Endpoints: []*schemas.Endpoint{{Address: v4}}})},
		{"pod of 318 bytes: at most 317", rows(&schemas.Rows{Endpoints: []*schemas.Endpoint{{Address: v4, Pod: strings.Repeat("p", 318)}}})},
		{"set 0: set id 0", keys(&schemas.Keys{Sets: []uint32{0}})},
		{"backend 1: backend id 0", keys(&schemas.Keys{Backends: []uint32{1, 0}})},
		{"frontend key 0: address", keys(&schemas.Keys{Frontends: []*schemas.FrontendKey{{}}})},
		{"members 0: set id 0", keys(&schemas.Keys{Members: []*schemas.Members{{}}})},
		{"endpoint 0: address of 1 bytes", keys(&schemas.Keys{Endpoints: [][]byte{{1}}})},
	} {
		m := valid()
		test.change(m)
		_, err := DeltaFromProto(m)
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v\nwant ErrForeign with %q", err, test.want)
		}
	}
}

func TestBytesThatAreNoMessageAreRefused(t *testing.T) {
	messages, err := EncodeDelta(aDelta(), schemas.MaxMessageBytes)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"cut short": messages[0][:len(messages[0])-3], "text": []byte("GET / HTTP/1.1"), "nothing": nil,
	} {
		if _, err := DecodeDelta(data); !errors.Is(err, ErrForeign) {
			t.Errorf("%s as a delta: %v", name, err)
		}
		if _, err := DecodeSnapshot(data); !errors.Is(err, ErrForeign) {
			t.Errorf("%s as a snapshot: %v", name, err)
		}
		if _, err := DecodeHeartbeat(data); !errors.Is(err, ErrForeign) {
			t.Errorf("%s as a heartbeat: %v", name, err)
		}
		if _, err := DecodeSyncRequest(data); !errors.Is(err, ErrForeign) {
			t.Errorf("%s as a sync request: %v", name, err)
		}
	}
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	messages, err := EncodeDelta(aDelta(), schemas.MaxMessageBytes)
	if err != nil {
		t.Fatal(err)
	}
	newer := append(messages[0], 0xfa, 0x3e, 3, 'n', 'e', 'w') // field 1007, of bytes
	part, err := DecodeDelta(newer)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(aDelta(), part.Delta, sameValue); diff != "" {
		t.Error(diff)
	}
}

func TestCausesAreMadeToFit(t *testing.T) {
	d := aDelta()
	d.Causes[0].Manager = "kubectl\x00" + strings.Repeat("é", 200)
	for range model.MaxCauses {
		d.Causes = append(d.Causes, d.Causes[0])
	}
	messages, err := EncodeDelta(d, schemas.MaxMessageBytes)
	if err != nil {
		t.Fatal(err)
	}
	part, err := DecodeDelta(messages[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(part.Causes) != model.MaxCauses || part.CausesLeftOut != 1 || !strings.HasPrefix(part.Causes[0].Manager, "kubectl?é") {
		t.Errorf("%d causes, %d left out, by %q", len(part.Causes), part.CausesLeftOut, part.Causes[0].Manager)
	}
}

func TestMessagesTooSmallForARowAreRefused(t *testing.T) {
	_, err := EncodeDelta(aDelta(), 300)
	if err == nil || !strings.Contains(err.Error(), "encode delta of layer cluster to revision 812345 in messages of 300 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestHeartbeatAndSyncRequestAreChecked(t *testing.T) {
	positions := map[model.Layer]model.Position{
		model.ClusterLayer:     {Epoch: 2, Revision: 9, Digest: model.Digest{1, 2}},
		model.NodeLayer("a.b"): {Epoch: 2, Revision: 7},
	}
	beat := &schemas.Heartbeat{Epoch: 2, Revision: 9, Positions: PositionsToProto(positions)}
	got, err := DecodeHeartbeat(encode(beat))
	if diff := cmp.Diff(Heartbeat{Epoch: 2, Revision: 9, Positions: positions}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	beat.Positions = append(beat.Positions, beat.Positions[0])
	if _, err = DecodeHeartbeat(encode(beat)); err == nil || !strings.Contains(err.Error(), "stands there twice") {
		t.Errorf("a layer twice: %v", err)
	}
	asked := SyncRequest{Node: "a.b", Positions: positions, Room: 4096, Walks: []model.Walk{
		{Layer: model.ClusterLayer, Branches: []model.Branch{model.Root, 0x1a3}}, {Layer: model.NodeLayer("a.b"), All: true, From: 7 << 60},
	}}
	request, err := DecodeSyncRequest(encode(SyncRequestToProto(asked)))
	if diff := cmp.Diff(asked, request); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, b := range []uint64{0, 2, 0x2a, 1 << 61} {
		foreign := &schemas.SyncRequest{Node: "a", Walks: []*schemas.Walk{{Layer: "cluster", Branches: []uint64{b}}}}
		if _, err := DecodeSyncRequest(encode(foreign)); !errors.Is(err, ErrForeign) {
			t.Errorf("branch %x: %v", b, err)
		}
	}
	if _, err = DecodeSyncRequest(encode(&schemas.SyncRequest{})); err == nil || !strings.Contains(err.Error(), "node is empty") {
		t.Errorf("no node: %v", err)
	}
}

func TestPartsOfAnotherDeltaEndTheFirst(t *testing.T) {
	first := bigDelta(2000)
	second := first
	second.From, second.To = first.To, first.To+1
	a := Assembler{}
	firstParts, secondParts := parts(t, first), parts(t, second)
	add := func(p DeltaPart, want bool) {
		t.Helper()
		if _, complete, err := a.Add(p); err != nil || complete != want {
			t.Fatalf("complete %v, %v", complete, err)
		}
	}
	add(firstParts[0], false)
	add(firstParts[0], false) // twice
	for i, p := range secondParts {
		add(p, i == len(secondParts)-1)
	}
	for i, p := range firstParts[1:] {
		add(p, false)
		_ = i
	}
}

func TestPartsThatNeverGetWholeAreGivenUp(t *testing.T) {
	a := Assembler{}
	for i := range 10 * maxOpen {
		d := bigDelta(2000)
		d.Layer = model.NodeLayer(fmt.Sprint("node-", i))
		if _, _, err := a.Add(parts(t, d)[0]); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.open.layers); n != maxOpen {
		t.Errorf("%d deltas wait for their rest, want %d", n, maxOpen)
	}
	if a.open.layers[model.NodeLayer(fmt.Sprint("node-", 10*maxOpen-1))] == nil {
		t.Error("the newest was given up")
	}
}

func TestKeyThatStandsTwiceIsRefused(t *testing.T) {
	d := aDelta()
	d.Change.Put.Members = []model.Member{{Set: 1, Backend: 2}}
	d.Change.Remove.Members = []model.Member{{Set: 1, Backend: 2}}
	_, _, err := new(Assembler).Add(parts(t, d)[0])
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "a member stands there twice") {
		t.Errorf("got %v", err)
	}
	d = aDelta()
	d.Change.Put.Selves = []model.Self{{Zone: "a"}, {Zone: "b"}}
	_, _, err = new(Assembler).Add(parts(t, d)[0])
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "a self stands there twice") {
		t.Errorf("got %v", err)
	}
}

// bigDelta adds n backends to one set.
func bigDelta(n int) model.Delta {
	d := aDelta()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		id := model.BackendID(i + 1)
		d.Change.Put.Members = append(d.Change.Put.Members, model.Member{Set: 7, Backend: id})
		d.Change.Put.Backends = append(d.Change.Put.Backends, model.Backend{ID: id, State: model.BackendActive, BackendKey: model.BackendKey{
			Set: 7, Addr: netip.AddrFrom4([4]byte{10, byte(random.Uint32()), byte(i >> 8), byte(i)}), Port: 8080,
		}})
	}
	return d
}

func parts(t testing.TB, d model.Delta) []DeltaPart {
	t.Helper()
	messages, err := EncodeDelta(d, 16<<10)
	if err != nil {
		t.Fatal(err)
	}
	var all []DeltaPart
	for _, m := range messages {
		p, err := DecodeDelta(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func FuzzDecodeDelta(f *testing.F) {
	for _, d := range []model.Delta{aDelta(), bigDelta(3)} {
		messages, err := EncodeDelta(d, schemas.MaxMessageBytes)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(messages[0])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		part, err := DecodeDelta(data)
		if err != nil {
			return
		}
		part.Part, part.Parts = 0, 1
		d, _, err := new(Assembler).Add(part)
		if err != nil {
			return
		}
		messages, err := EncodeDelta(d, 1<<20)
		if err != nil {
			t.Fatalf("what was decoded can't be encoded: %v", err)
		}
		if diff := cmp.Diff(d, decodeDelta(t, messages, indices(len(messages))), sameValue); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzDecodeOthers(f *testing.F) {
	messages, err := EncodeSnapshot(model.Snapshot{Layer: model.ClusterLayer, Position: model.Position{Epoch: 1}, Rows: bigDelta(3).Change.Put}, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(messages[0])
	f.Add(encode(&schemas.Heartbeat{Epoch: 1, Positions: PositionsToProto(map[model.Layer]model.Position{model.ClusterLayer: {Epoch: 1}})}))
	f.Add(encode(&schemas.SyncRequest{Node: "a"}))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if part, err := DecodeSnapshot(data); err == nil {
			_, _, _ = new(SnapshotAssembler).Add(part)
		}
		_, _ = DecodeHeartbeat(data)
		_, _ = DecodeSyncRequest(data)
	})
}

func BenchmarkEncodeDelta(b *testing.B) {
	for _, n := range []int{1, 5000} {
		d := bigDelta(n)
		b.Run(fmt.Sprintf("%d backends", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := EncodeDelta(d, schemas.MaxMessageBytes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeDelta(b *testing.B) {
	for _, n := range []int{1, 5000} {
		messages, err := EncodeDelta(bigDelta(n), schemas.MaxMessageBytes)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%d backends", n), func(b *testing.B) {
			b.ReportMetric(float64(len(messages[0])), "bytes")
			for b.Loop() {
				if _, err := DecodeDelta(messages[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
