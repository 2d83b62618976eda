// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func ip(a, b, c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{a, b, c, d}) }

func TestNodeThatMissedDeltasGetsThem(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	missed := *w.nodes[model.ClusterLayer]
	missed.rows = missed.rows.Clone()
	for i := range 3 {
		w.facts(sliceFact(i, 0, 2, w.now))
		w.pass(time.Second)
	}
	want := w.nodes[model.ClusterLayer].at
	w.nodes[model.ClusterLayer] = &missed
	w.forget()
	w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
	replies := w.replies()
	if len(replies) != 3 {
		t.Fatalf("%d replies, want the 3 deltas", len(replies))
	}
	for _, r := range replies {
		w.hear(Message{schemas.ApplySubject("cluster"), marshal(r.GetDelta())})
	}
	if missed.at != want {
		t.Errorf("the node is at %v, want %v", missed.at, want)
	}
}

func TestNodeThatMissedTheLastDeltasOfAnotherLeaderGetsThem(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	missed := *w.nodes[model.ClusterLayer]
	w.facts(sliceFact(1, 0, 2, w.now))
	w.pass(time.Second)
	w.nodes[model.ClusterLayer] = &missed
	w.restart(Options{})
	w.forget()
	w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
	if r := w.replies(); len(r) != 1 || r[0].GetDelta().GetTo() != 2 {
		t.Errorf("after a change of leaders it is told %v, want the delta to revision 2", r)
	}
}

func TestNodeWithoutAnUsablePastGetsASnapshot(t *testing.T) {
	w := shop(t, Options{MaxMessage: 9000, MaxBatchBytes: 20_000}, 30, 10)
	for _, test := range []struct {
		name string
		at   *schemas.Position
	}{
		{"nothing", nil},
		{"another digest at a known revision", wire.PositionToProto(model.ClusterLayer, model.Position{Epoch: 1, Revision: 1, Digest: model.Digest{1, 1}})},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.t = t
			m := &schemas.SyncRequest{Node: "n1", Positions: []*schemas.Position{
				wire.PositionToProto(model.NodeLayer("n1"), w.nodes[model.NodeLayer("n1")].at),
			}}
			if test.at != nil {
				m.Positions = append(m.Positions, test.at)
			}
			w.do(w.core.Sync(w.now, nil, marshal(m)))
			var parts wire.SnapshotAssembler
			for i, r := range w.replies() {
				part, err := wire.SnapshotFromProto(r.GetSnapshot())
				if err != nil {
					t.Fatalf("reply %d: %v", i, err)
				}
				snapshot, whole, err := parts.Add(part)
				if err != nil {
					t.Fatal(err)
				}
				if !whole {
					continue
				}
				rows := model.NewTables()
				digest := rows.Apply(&model.Change{Put: snapshot.Rows}, model.Digest{})
				if digest != w.core.Position(model.ClusterLayer).Digest {
					t.Error("the snapshot has other rows than the compiler")
				}
				return
			}
			t.Error("there was no whole snapshot")
		})
	}
}

func TestOlderSnapshotWithDeltasSavesEncoding(t *testing.T) {
	w := shop(t, Options{}, 100, 20)
	w.sync("n1", model.NodeLayer("n1"))
	w.replies()
	encoded := &w.core.snapshots.messages[0]
	for i := range 3 {
		w.facts(sliceFact(i, 0, 21, w.now))
		w.pass(time.Second)
	}
	w.forget()
	w.sync("n1", model.NodeLayer("n1"))
	replies := w.replies()
	if len(replies) != 4 || replies[0].GetSnapshot() == nil || replies[3].GetDelta() == nil || encoded != &w.core.snapshots.messages[0] {
		t.Fatalf("%d replies, want the older snapshot and 3 deltas", len(replies))
	}
	part, err := wire.SnapshotFromProto(replies[0].GetSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	want := w.nodes[model.ClusterLayer].at
	started := &replica{rows: model.NewTables(), at: part.Position}
	started.rows.Apply(&model.Change{Put: part.Rows}, model.Digest{})
	w.nodes[model.ClusterLayer] = started
	for _, r := range replies[1:] {
		w.hear(Message{schemas.ApplySubject("cluster"), marshal(r.GetDelta())})
	}
	if started.at != want {
		t.Errorf("the node is at %v, want %v", started.at, want)
	}
}

func TestOldDeltasAreForgotten(t *testing.T) {
	w := shop(t, Options{RecentBytes: 1000}, 3, 1)
	for i := range 20 {
		w.facts(sliceFact(1, i, 2, w.now))
		w.pass(time.Second)
	}
	if r := w.core.recent; r.bytes > 1000 || len(r.order) > 10 || len(r.order) < 2 {
		t.Errorf("%d deltas of %d bytes are kept, want at most 1000 bytes", len(r.order), r.bytes)
	}
}

func TestAnswerWaitsForTheLog(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	w.forget()
	w.slow = true
	w.facts(sliceFact(1, 0, 2, w.now))
	w.pass(10 * time.Millisecond)
	w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
	if len(w.answers) != 0 {
		t.Fatal("a node was told what the log may not have")
	}
	w.settle()
	if r := w.replies(); len(r) != 1 || r[0].GetDelta().GetTo() != 2 {
		t.Errorf("answered with %v, want the delta to revision 2, which the log has now", r)
	}
}

func TestNodeThatAsksTooOftenIsRefused(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	w.forget()
	refused := 0
	for range 10 {
		w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
		if r := w.replies()[0]; strings.Contains(r.GetRefused(), "asks too often: ask again in 1s") {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d of 10 at once were refused, want 5", refused)
	}
	w.pass(time.Second)
	w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
	if r := w.replies()[0]; r.GetRefused() != "" {
		t.Errorf("after a second it is refused still: %s", r.GetRefused())
	}
	w.sync("n2", model.ClusterLayer)
	if r := w.replies()[0]; r.GetRefused() != "" {
		t.Errorf("another node is refused: %s", r.GetRefused())
	}
}

func TestForeignRequestsAreRefused(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	for _, data := range [][]byte{[]byte("hello"), {}, marshal(&schemas.SyncRequest{Node: strings.Repeat("n", 300)})} {
		w.forget()
		w.do(w.core.Sync(w.now, nil, data))
		if r := w.replies()[0]; r.GetRefused() == "" {
			t.Errorf("%q was answered", data)
		}
	}
}

func TestForeignMessagesAreToldOnceInAWhile(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	w.forget()
	for range 3 {
		out, err := w.core.Applied(w.now, "n1", []byte("hello"))
		if err == nil {
			t.Fatal("a report that is none was taken")
		}
		w.do(out)
	}
	if len(w.events) != 1 {
		t.Fatalf("%d events, want one", len(w.events))
	}
	w.pass(foreignPerTime)
	w.forget()
	w.do(w.core.Sync(w.now, nil, []byte("hello")))
	want := "a request for what a node lacks was set aside, all else works: not a message that deltaplane writes: decode 5 bytes as SyncRequest: "
	if got := w.events[0].GetText(); w.events[0].GetKind() != "foreign_message" || !strings.HasPrefix(got, want) ||
		!strings.HasSuffix(got, " (3 messages since the last time this was said)") {
		t.Errorf("event %s", got)
	}
	w.checkConverged()
}

// Nobody could read a status that is larger than a message, whatever someone has written to STATE.
func TestStatusFitsWhateverObjectsAreCalled(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	w.forget()
	for i := range 1200 {
		bad := serviceFact(i + 10)
		bad.Object.Name = fmt.Sprint(i, strings.Repeat("x", 4000))
		w.facts(bad)
	}
	w.do(w.core.Status(w.now, nil, nil))
	for data := range w.answers[0].Messages() {
		var m schemas.Status
		if err := proto.Unmarshal(data, &m); err != nil || len(data) > schemas.MaxMessageBytes || len(m.GetSetAside()) < leastSetAside {
			t.Errorf("%d bytes, %d objects set aside, %v", len(data), len(m.GetSetAside()), err)
		}
	}
	for _, e := range w.events {
		if n := proto.Size(e); n > 4<<10 {
			t.Fatalf("an event of %d bytes: %.100q", n, e.GetText())
		}
	}
}

func TestNodeOfAHigherEpochIsNoticed(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	w.forget()
	m := &schemas.SyncRequest{Node: "n1", Positions: []*schemas.Position{
		wire.PositionToProto(model.ClusterLayer, model.Position{Epoch: 7, Revision: 812}),
	}}
	w.do(w.core.Sync(w.now, nil, marshal(m)))
	if w.outranked == nil || *w.outranked != (Outranked{7, 812}) {
		t.Errorf("outranked %v, want epoch 7, revision 812", w.outranked)
	}
	absurd := &schemas.SyncRequest{Node: "n1", Positions: []*schemas.Position{
		wire.PositionToProto(model.ClusterLayer, model.Position{Epoch: 1 << 63}),
	}}
	w.outranked = nil
	w.do(w.core.Sync(w.now, nil, marshal(absurd)))
	if w.outranked != nil {
		t.Error("a node that claims epoch 2^63 is believed")
	}
	out, err := w.core.Applied(w.now, "n1", marshal(&schemas.Applied{Node: "n1", Positions: m.GetPositions()}))
	if err != nil || out.Outranked == nil {
		t.Errorf("a report of epoch 7: %v, outranked %v", err, out.Outranked)
	}
	if _, err := w.core.Applied(w.now, "n2", marshal(&schemas.Applied{Node: "n1"})); err == nil {
		t.Error("node n2 reported in the name of n1")
	}
}

func TestNodeThatLiesAboutItsEpochIsNotFollowed(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	for _, p := range []model.Position{
		{Epoch: 1<<64 - 1, Revision: 5}, {Epoch: 2, Revision: 1<<64 - 1}, {Epoch: farthest + 100, Revision: farthest + 100},
	} {
		lie := &schemas.Applied{Node: "n1", Positions: []*schemas.Position{wire.PositionToProto(model.ClusterLayer, p)}}
		if out, err := w.core.Applied(w.now, "n1", marshal(lie)); err != nil || out.Outranked != nil {
			t.Errorf("%v: outranked %v, %v", p, out.Outranked, err)
		}
	}
}

func TestDumpHasAllRowsOfANode(t *testing.T) {
	w := shop(t, Options{MaxMessage: 9000, MaxBatchBytes: 20_000}, 30, 10)
	w.forget()
	w.do(w.core.Dump(w.now, nil, marshal(&schemas.DumpRequest{Node: "n1"})))
	rows, n, last := 0, 0, false
	for data := range w.answers[0].Messages() {
		var m schemas.DumpReply
		if err := proto.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		part, err := wire.RowsFromProto(m.GetRows())
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 && len(m.GetPositions()) != 2 {
			t.Errorf("%d positions, want 2", len(m.GetPositions()))
		}
		rows += part.Len()
		n, last = n+1, m.GetLast()
	}
	want := w.core.rows(model.ClusterLayer).Len() + w.core.rows(model.NodeLayer("n1")).Len()
	if rows != want || n < 2 || !last {
		t.Errorf("%d rows in %d messages, last %v; want %d in several", rows, n, last, want)
	}
}

func TestStatusNamesWhoIsBehindAndWhatIsSetAside(t *testing.T) {
	w := shop(t, Options{Holder: "compiler-1"}, 2, 1)
	bad := serviceFact(9)
	bad.GetService().ClusterIps = [][]byte{{1}}
	rival := serviceFact(0)
	rival.Object.Name = "zz-rival"
	w.forget()
	w.facts(bad, rival, &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Node", Name: "n1"}, State: &schemas.Fact_Node{Node: &schemas.Node{}},
	})
	w.pass(2 * time.Second)
	w.do(w.core.Status(w.now, nil, nil))
	var m schemas.Status
	for data := range w.answers[0].Messages() {
		if err := proto.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.GetSetAside()) != 2 || len(w.events) != 2 {
		t.Errorf("set aside %v, %d events; want s9 and zz-rival", m.GetSetAside(), len(w.events))
	}
	if len(m.GetNodes()) != 1 || m.GetNodes()[0].GetConverged() || !strings.Contains(m.GetNodes()[0].GetReason(), "never reported") {
		t.Errorf("nodes %v, want n1, which has never reported", m.GetNodes())
	}
	if m.GetLeader() != "compiler-1" || m.GetRevision() != uint64(w.core.Revision()) || m.GetRows() == 0 {
		t.Errorf("leader %s, revision %d, rows %d", m.GetLeader(), m.GetRevision(), m.GetRows())
	}
}

func TestStatusSaysHowFarStateIsCompiled(t *testing.T) {
	w := shop(t, Options{}, 2, 1)
	compiled := func() uint64 {
		w.answers = nil
		w.do(w.core.Status(w.now, nil, nil))
		var m schemas.Status
		for data := range w.answers[0].Messages() {
			if err := proto.Unmarshal(data, &m); err != nil {
				t.Fatal(err)
			}
		}
		return m.GetStateSequence()
	}
	if got := compiled(); got != w.sequence {
		t.Errorf("at rest %d, want %d", got, w.sequence)
	}
	before := w.sequence
	w.slow = true
	w.facts(sliceFact(1, 0, 2, w.now))
	if got := compiled(); got != before {
		t.Errorf("while a change waits %d, want %d", got, before)
	}
	w.pass(5 * time.Millisecond)
	w.facts(sliceFact(1, 0, 3, w.now))
	if got := compiled(); got != before {
		t.Errorf("while the log hasn't answered %d, want %d", got, before)
	}
	w.do(w.core.Appended(w.now))
	if got := compiled(); got != before+1 {
		t.Errorf("while a second change waits %d, want %d", got, before+1)
	}
	w.slow = false
	w.pass(time.Second)
	w.facts(sliceFact(1, 0, 3, w.now)) // says nothing new
	if got := compiled(); got != w.sequence {
		t.Errorf("at rest again %d, want %d", got, w.sequence)
	}
}

func TestFieldNumbersAreThoseOfTheSchema(t *testing.T) {
	fields := (&schemas.SyncReply{}).ProtoReflect().Descriptor().Fields()
	for name, want := range map[string]int{
		"delta": int(fieldDelta), "snapshot": int(fieldSnapshot), "last": int(fieldLast), "sequence": int(fieldSequence),
	} {
		if got := int(fields.ByTextName(name).Number()); got != want {
			t.Errorf("field %s has number %d, want %d", name, got, want)
		}
	}
}
