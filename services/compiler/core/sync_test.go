// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
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

// walkTo asks, as a node does, until a walk has ended, and returns what it led to and how many answers it took.
func (w *world) walkTo(node string, walking *walk.Walk, l model.Layer) (change *model.Change, at model.Position, answers int) {
	w.t.Helper()
	for !walking.Done() {
		if answers++; answers > 1000 {
			w.t.Fatalf("the walk doesn't end")
		}
		other := model.NodeLayer(node)
		if l == other {
			other = model.ClusterLayer
		}
		r := wire.SyncRequest{Node: node, Room: 4 << 10, Positions: map[model.Layer]model.Position{other: w.core.Position(other)}}
		if since, wanted := walking.Since(); wanted {
			r.Positions[l] = since
		} else {
			r.Walks = []model.Walk{walking.Question()}
		}
		w.answers = nil
		w.now = w.now.Add(time.Second)
		w.do(w.core.Sync(w.now, nil, marshal(wire.SyncRequestToProto(r))))
		w.settle()
		for i, m := range w.replies() {
			if m.GetRefused() != "" {
				w.t.Fatalf("refused: %s", m.GetRefused())
			}
			if m.GetBranches() == nil {
				part, err := wire.DeltaFromProto(m.GetDelta())
				if err != nil {
					w.t.Fatalf("%v", err)
				}
				walking.Delta(&part.Delta, proto.Size(m))
				continue
			}
			data := marshal(m.GetBranches())
			if _, err := trust.Open(seal.Branches, data); err != nil {
				w.t.Fatalf("reply %d: %v", i, err)
			}
			b, err := walk.Decode(data)
			if err != nil {
				w.t.Fatalf("reply %d: %v", i, err)
			}
			if _, err := walking.Take(b, len(data)); err != nil {
				w.t.Fatalf("reply %d: %v", i, err)
			}
		}
	}
	change, at = walking.Change()
	return change, at, answers
}

// Promise P1: a node that nobody knows the past of comes to what the compiler has, whatever it holds.
func TestNodeWithoutAnUsablePastWalks(t *testing.T) {
	w := shop(t, Options{MaxMessage: 9000, MaxBatchBytes: 20_000}, 30, 10)
	l := model.ClusterLayer
	edited := w.nodes[l].rows.Clone()
	for key := range edited.Frontends {
		delete(edited.Frontends, key)
		break
	}
	for _, test := range []struct {
		name string
		held *model.Tables
		rows int
	}{
		{"nothing", model.NewTables(), w.nodes[l].rows.Len()},
		{"one row is missing", edited, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.t = t
			toward := walk.New(l, test.held)
			for !toward.Prepare(1000) {
			}
			change, at, answers := w.walkTo("n1", toward, l)
			digest := test.held.Apply(change, test.held.Digest())
			if at != w.core.Position(l) || digest != at.Digest || change.Put.Len() != test.rows {
				t.Errorf("%d answers lead to %v with %d rows, digest %s; want %v with %d", answers, at, change.Put.Len(), digest, w.core.Position(l), test.rows)
			}
		})
	}
}

func TestPositionThatIsNotKnownIsAnsweredByTheRoot(t *testing.T) {
	w := shop(t, Options{}, 30, 10)
	for _, at := range []model.Position{
		{Epoch: 1, Revision: 1, Digest: model.Digest{1, 1}}, // another digest at a known revision
		{Epoch: 1, Revision: 1 << 40},                       // that can't be
	} {
		m := &schemas.SyncRequest{Node: "n1", Positions: []*schemas.Position{
			wire.PositionToProto(model.NodeLayer("n1"), w.nodes[model.NodeLayer("n1")].at), wire.PositionToProto(model.ClusterLayer, at),
		}}
		w.do(w.core.Sync(w.now, nil, marshal(m)))
		replies := w.replies()
		if b := replies[0].GetBranches().GetBranches(); len(replies) != 1 || len(b) != 1 || b[0].GetBranch() != uint64(model.Root) || len(b[0].GetDigests()) != 128 {
			t.Errorf("%v: answered with %v", at, replies)
		}
	}
}

func TestRowsAreToldAWindowAtATime(t *testing.T) {
	w := shop(t, Options{MaxMessage: 9000, MaxBatchBytes: 20_000}, 30, 100)
	w.sync("n1", model.NodeLayer("n1"))
	whole := 0
	for _, r := range w.replies() {
		whole += proto.Size(r)
		if n := proto.Size(r); n > 9000+answerRoom+seal.Room {
			t.Errorf("a reply of %d bytes", n)
		}
	}
	m := wire.SyncRequest{Node: "n1", Room: 8 << 10, Walks: []model.Walk{{Layer: model.ClusterLayer, All: true, From: 1 << 60}}}
	m.Positions = map[model.Layer]model.Position{model.NodeLayer("n1"): w.nodes[model.NodeLayer("n1")].at}
	w.do(w.core.Sync(w.now, nil, marshal(wire.SyncRequestToProto(m))))
	part := 0
	for _, r := range w.replies() {
		part += proto.Size(r)
	}
	if part < 8<<10 || part > 16<<10 || whole < 2*part {
		t.Errorf("%d bytes where there was room for 8 KiB, of %d in all", part, whole)
	}
}

func TestDeltasThatAreTooMuchForOneAnswerGoOnInTheNext(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	missed := *w.nodes[model.ClusterLayer]
	for i := range 20 {
		w.facts(sliceFact(1, 0, 2+i%2, w.now))
		w.pass(time.Second)
	}
	w.forget()
	m := wire.SyncRequest{Node: "n1", Room: 1000, Positions: map[model.Layer]model.Position{
		model.ClusterLayer: missed.at, model.NodeLayer("n1"): w.nodes[model.NodeLayer("n1")].at,
	}}
	w.do(w.core.Sync(w.now, nil, marshal(wire.SyncRequestToProto(m))))
	replies := w.replies()
	if n := len(replies); n < 2 || n > 8 || !replies[n-1].GetMore() || replies[0].GetDelta() == nil {
		t.Errorf("%d replies, want some deltas and that there are more", n)
	}
}

func TestNodesTakeTurns(t *testing.T) {
	var q turns
	q.rate = 10 * usualRoom // 10 answers a second
	ask := func(node string, at time.Duration) time.Duration {
		return q.wait(start.Add(at), &wire.SyncRequest{Node: node})
	}
	served := 0
	for i := range 100 {
		if ask(fmt.Sprint("n", i), 0) == 0 {
			served++
		}
	}
	if served < 2 || served > 4 {
		t.Errorf("%d of 100 were answered at once", served)
	}
	last := ask("n99", 0)
	if last < 9*time.Second || last > 10*time.Second {
		t.Errorf("the last is told to wait %s", last)
	}
	if again := ask("n99", time.Second); again != last-time.Second {
		t.Errorf("a second later %s", again)
	}
	if wait := ask("n99", last); wait != 0 {
		t.Errorf("when it is its turn it has to wait %s", wait)
	}
	known := &wire.SyncRequest{Node: "n7", Positions: map[model.Layer]model.Position{model.ClusterLayer: {}, model.NodeLayer("n7"): {}}}
	if wait := q.wait(start, known); wait != 0 {
		t.Errorf("who lacks only deltas has to wait %s", wait)
	}
}

func TestPiecesAreMadeOnceForManyNodes(t *testing.T) {
	w := shop(t, Options{}, 100, 20)
	w.sync("n1", model.NodeLayer("n1"))
	w.replies()
	first := w.core.pieces
	if len(first) == 0 {
		t.Fatal("nothing is kept")
	}
	made := map[walk.Piece]*piece{}
	maps.Copy(made, first)
	w.facts(sliceFact(1, 0, 21, w.now))
	w.pass(time.Second)
	w.forget()
	w.sync("n2", model.NodeLayer("n2"))
	w.replies()
	for p, held := range w.core.pieces {
		if made[p] != held {
			t.Errorf("piece %v was made anew", p)
		}
	}
	w.pass(2 * pieceKept)
	if len(w.core.pieces) != 0 {
		t.Error("what nobody asks for is kept")
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
	if w.outranked == nil || *w.outranked != (Outranked{"n1", 7, 812}) {
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
		"delta": int(fieldDelta), "branches": int(fieldBranches), "last": int(fieldLast), "sequence": int(fieldSequence), "more": int(fieldMore),
	} {
		if got := int(fields.ByTextName(name).Number()); got != want {
			t.Errorf("field %s has number %d, want %d", name, got, want)
		}
	}
}
