// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func TestNothingIsCompiledBeforeAllIsKnown(t *testing.T) {
	w := newWorld(t, Options{})
	w.facts(shopFacts(3, 2)...)
	w.pass(10 * time.Second)
	if want := "reading STATE to its end"; len(w.log) != 0 || w.core.Waiting() != want {
		t.Errorf("before the end of STATE: %d records, waiting %q; want none and %q", len(w.log), w.core.Waiting(), want)
	}
	w.do(w.core.CaughtUp(w.now))
	w.pass(10 * time.Second)
	if len(w.log) != 0 || !strings.Contains(w.core.Waiting(), "for the watcher to announce") {
		t.Errorf("without a complete list: %d records, waiting %q", len(w.log), w.core.Waiting())
	}
	w.facts(complete())
	if len(w.log) == 0 || w.core.Waiting() != "" {
		t.Errorf("all is known: %d records, waiting %q; want some, and nothing", len(w.log), w.core.Waiting())
	}
	w.checkConverged()
	if diff := cmp.Diff([]string{"cluster", "node.n1", "node.n2"}, layerNames(w)); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
}

func TestEmptyStateDeletesNothing(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	w.restart(Options{})
	records := len(w.log)
	w.do(w.core.CaughtUp(w.now)) // STATE was lost: it holds nothing, no announcement either
	w.pass(time.Minute)
	w.checkFoldedRows(3)
	if len(w.log) != records {
		t.Errorf("%d records were appended, want none", len(w.log)-records)
	}
	w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
	if r := w.replies()[0]; r.GetContent() != nil {
		t.Errorf("a node that holds what the log says is told %v, want nothing", r)
	}
}

// TestCutLogTakesNothingFromNodes loses the end of DELTA, as a server that lost power may. Nodes have what was there.
func TestCutLogTakesNothingFromNodes(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	before := len(w.log)
	w.facts(serviceFact(7), sliceFact(7, 0, 3, w.now), podFact("late", "n1", "10.1.9.9"))
	w.pass(time.Second)
	w.log = w.log[:before]
	w.restart(Options{})
	w.forget()
	w.pass(5 * time.Second) // STATE isn't read yet
	for _, b := range w.beats() {
		if len(b.Positions) != 0 {
			t.Fatalf("a heartbeat tells %v of a log that may have been cut", b.Positions)
		}
	}
	w.sync("n1", model.ClusterLayer, model.NodeLayer("n1"))
	if r := w.replies()[0]; !strings.Contains(r.GetRefused(), "was cut") {
		t.Errorf("a node that is ahead of the log is told %v, want that it waits", r)
	}
}

// TestRestOfALogIsNotTakenForAllOfIt leaves of DELTA, which forgets by age, what has no gap and no beginning.
func TestRestOfALogIsNotTakenForAllOfIt(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	before := len(w.log)
	w.facts(podFact("first", "n9", "10.1.9.9"))
	w.pass(time.Second)
	w.log = w.log[before:]
	w.restart(Options{})
	w.forget()
	w.sync("n8")
	if r := w.replies()[0]; r.GetRefused() == "" {
		t.Errorf("a node is told %v for all there is, want that it waits", r)
	}
}

func (w *world) checkFoldedRows(sets int) {
	w.t.Helper()
	if n := len(w.core.rows(model.ClusterLayer).Sets); n != sets {
		w.t.Fatalf("%d sets, want %d", n, sets)
	}
}

func TestRestartCommitsNothingAndKeepsIDs(t *testing.T) {
	w := shop(t, Options{}, 20, 5)
	w.facts(goneFact(serviceFact(3))) // leaves a hole in the numbers
	w.pass(time.Second)
	before, revision := setIDs(w.core), w.core.Revision()
	w.restart(Options{})
	records := len(w.log)
	facts := shopFacts(20, 5)
	slices.Reverse(facts)
	w.facts(facts...)
	w.facts(goneFact(serviceFact(3)))
	w.ready()
	w.pass(time.Minute)
	if len(w.log) != records || w.core.Revision() != revision {
		t.Errorf("%d records were appended, revision %d; want none and %d", len(w.log)-records, w.core.Revision(), revision)
	}
	if diff := cmp.Diff(before, setIDs(w.core)); diff != "" {
		t.Errorf("ids (-before +after):\n%s", diff)
	}
}

func TestWhatChangedWhileNobodyLedIsCommittedAtTheStart(t *testing.T) {
	w := shop(t, Options{}, 5, 2)
	w.restart(Options{})
	w.forget()
	w.facts(shopFacts(4, 2)...)
	w.facts(goneFact(podFact("b", "n2", "10.200.1.1")))
	w.ready()
	w.checkConverged()
	deltas := w.heard(model.ClusterLayer)
	if len(deltas) != 1 || deltas[0].GetEpoch() != 2 {
		t.Fatalf("%d deltas of the cluster layer, want 1 of epoch 2", len(deltas))
	}
	cause := deltas[0].GetCauses()[0]
	if len(deltas[0].GetCauses()) != 1 || cause.GetObject().GetName() != "s4" || !cause.GetDeleted() {
		t.Errorf("causes %v, want Service s4, deleted", deltas[0].GetCauses())
	}
	if d := w.heard(model.NodeLayer("n2")); len(d) != 1 {
		t.Errorf("%d deltas of layer node.n2, want 1", len(d))
	}
}

func TestQuietMomentEndsACommit(t *testing.T) {
	for _, test := range []struct {
		name    string
		every   time.Duration // between changes
		changes int
		want    time.Duration // from the first change to the commit
	}{
		{"one change goes out when it has been quiet for 5 ms", 0, 1, 5 * time.Millisecond},
		{"changes that follow each other go together", 4 * time.Millisecond, 3, 13 * time.Millisecond},
		{"but none waits for longer than 50 ms", 4 * time.Millisecond, 30, 50 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := shop(t, Options{}, 40, 1)
			w.forget()
			first := w.now
			for i := range test.changes {
				w.facts(sliceFact(i, 0, 2, w.now))
				if i < test.changes-1 {
					w.pass(test.every)
				}
				if len(w.heard(model.ClusterLayer)) > 0 {
					break
				}
			}
			w.pass(60 * time.Millisecond)
			d := w.heard(model.ClusterLayer)[0]
			if got := d.GetCommitted().AsTime().Sub(first); got != test.want {
				t.Errorf("committed after %s, want %s", got, test.want)
			}
		})
	}
}

func TestNoNodeGetsMoreThan20MessagesInAnySecond(t *testing.T) {
	w := shop(t, Options{}, 10, 1)
	w.forget()
	const seconds = 5
	for i := range seconds * 1000 {
		w.facts(sliceFact(i%10, i, 1, w.now))
		if i%3 == 0 {
			w.facts(podFact("a", "n1", fmt.Sprint("10.200.0.", i%200+1)))
		}
		w.pass(time.Millisecond)
	}
	w.pass(time.Second)
	w.checkConverged()
	deltas := append(w.heard(model.ClusterLayer), w.heard(model.NodeLayer("n1"))...)
	if len(deltas) < 13*seconds {
		t.Errorf("node n1 got %d messages in %d s, want some 15 a second", len(deltas), seconds)
	}
	for _, d := range deltas {
		first, within := d.GetCommitted().AsTime(), 0
		for _, other := range deltas {
			if since := other.GetCommitted().AsTime().Sub(first); since >= 0 && since < time.Second {
				within++
			}
		}
		if within > 20 {
			t.Errorf("node n1 got %d messages in the second from %s on", within, first.Sub(start))
		}
	}
	for _, d := range w.heard(model.ClusterLayer) {
		if waited := d.GetCommitted().AsTime().Sub(d.GetCauses()[0].GetTriggerTime().AsTime()); waited > 200*time.Millisecond {
			t.Errorf("a change waited for %s", waited)
		}
	}
}

func TestPodDoesNotDelayItsSlice(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	w.forget()
	w.facts(podFact("c", "n1", "10.200.0.2"))
	w.pass(20 * time.Millisecond)
	changed := w.now
	w.facts(sliceFact(1, 0, 2, w.now))
	w.pass(time.Second)
	d := w.heard(model.ClusterLayer)
	if len(d) != 1 || d[0].GetCommitted().AsTime().Sub(changed) != 5*time.Millisecond {
		t.Errorf("the slice's delta was committed after %s, want 5ms", d[0].GetCommitted().AsTime().Sub(changed))
	}
}

func TestOneEndpointCostsFewBytesAndOneUnit(t *testing.T) {
	w := shop(t, Options{}, 1000, 5)
	w.forget()
	units := w.core.Stats().Units
	w.facts(sliceFact(7, 0, 6, w.now))
	w.pass(time.Second)
	if n := w.core.Stats().Units - units; n != 1 {
		t.Errorf("%d units were compiled for one endpoint, want 1", n)
	}
	delta := w.heard(model.ClusterLayer)
	if len(delta) != 1 {
		t.Fatalf("%d deltas, want 1", len(delta))
	}
	data, sealed := len(marshal(delta[0])), 3+proto.Size(delta[0].GetSeal())
	t.Logf("%d bytes, %d of them for the cause, %d for the seal", data, proto.Size(delta[0].GetCauses()[0]), sealed)
	if data-sealed > 200 || sealed > 100 {
		t.Errorf("the delta for one endpoint has %d bytes and a seal of %d, the budget is 200 and 100", data-sealed, sealed)
	}
}

func TestNamelessPodOfANodeTouchesThatNodeAlone(t *testing.T) {
	w := shop(t, Options{}, 100, 1)
	w.forget()
	units := w.core.Stats().Units
	w.facts(podFact("c", "n1", "10.200.0.2"))
	w.pass(time.Second)
	if n := w.core.Stats().Units - units; n != 1 {
		t.Errorf("%d units were compiled for one pod, want 1", n)
	}
	if c, n := len(w.heard(model.ClusterLayer)), len(w.heard(model.NodeLayer("n1"))); c != 0 || n != 1 {
		t.Errorf("%d deltas of the cluster layer and %d of node.n1, want 0 and 1", c, n)
	}
}

func TestLargeCommitsAreCutIntoWholeRevisions(t *testing.T) {
	o := Options{MaxMessage: 9000, MaxBatch: 40, MaxBatchBytes: 40_000}
	w := newWorld(t, o)
	facts := shopFacts(50, 40)
	for i := range 100 {
		facts = append(facts, podFact(fmt.Sprint("p", i), fmt.Sprint("m", i), fmt.Sprint("10.201.0.", i+1)))
	}
	w.facts(facts...)
	w.ready()
	w.pass(time.Second)
	w.checkConverged()
	if w.biggest > o.MaxBatch || w.biggestBytes > o.MaxBatchBytes {
		t.Errorf("a batch of %d messages and one of %d bytes, the bounds are %d and %d",
			w.biggest, w.biggestBytes, o.MaxBatch, o.MaxBatchBytes)
	}
	for _, r := range w.log {
		if len(r.Data) > o.MaxMessage {
			t.Errorf("a message of %d bytes, the bound is %d", len(r.Data), o.MaxMessage)
		}
	}
	if len(w.commits) < 3 {
		t.Errorf("%d revisions, want several", len(w.commits))
	}
	w.restart(o)
	records := len(w.log)
	w.facts(facts...)
	w.ready()
	if len(w.log) != records {
		t.Errorf("after a restart %d records were appended, want none", len(w.log)-records)
	}
	w.facts(goneFact(serviceFact(1)))
	for i := range 50 {
		w.facts(goneFact(serviceFact(i)))
	}
	w.pass(time.Second)
	w.checkConverged()
}

func TestCheckpointAloneGivesTheSameRowsAndIDs(t *testing.T) {
	w := shop(t, Options{MaxBatch: 3, Heartbeat: 2 * time.Second}, 20, 5)
	w.pass(schemas.CheckpointInterval - 3*time.Second)
	w.facts(goneFact(serviceFact(3))) // its ids are in quarantine when the checkpoint is written
	w.pass(5 * time.Second)
	w.facts(sliceFact(1, 0, 7, w.now))
	w.pass(time.Second)
	var begin []int
	for i, r := range w.log {
		if r.Subject == schemas.SubjectCheckpoint && w.log[i-1].Subject != schemas.SubjectCheckpoint {
			begin = append(begin, i)
		}
	}
	if len(begin) != 2 {
		t.Fatalf("%d checkpoints were written, want 2", len(begin))
	}
	newest := begin[1]
	all, part := w.fold(), NewFold(0)
	for _, r := range w.log[newest-1:] { // one delta too early: a gap that the checkpoint mends
		_ = part.Add(r.Subject, r.Data)
	}
	if err := part.Whole(); err != nil || !part.Checkpointed() {
		t.Fatalf("from the checkpoint on: %v, checkpointed %v", err, part.Checkpointed())
	}
	for l, want := range all.layers {
		if got := part.layers[l]; got == nil || got.at != want.at || !maps.Equal(got.rows.Backends, want.rows.Backends) {
			t.Errorf("layer %s differs", l)
		}
	}
	for _, f := range []*Fold{all, part} {
		if err := f.ids.Check(); err != nil {
			t.Error(err)
		}
	}
	probe := model.SetKey{Scope: model.ScopeAll}
	if c, a, p := w.core.ids.Set(probe), all.ids.Set(probe), part.ids.Set(probe); c != a || c != p {
		t.Errorf("the next id is %d for the leader, %d by the whole log, %d by the checkpoint", c, a, p)
	}
}

func TestCheckpointThatBrokeOffDoesNotCount(t *testing.T) {
	w := shop(t, Options{MaxBatch: 2}, 5, 2)
	first := slices.IndexFunc(w.log, func(r Record) bool { return r.Subject == schemas.SubjectCheckpoint })
	broken := slices.Clone(w.log[:first+2]) // its head and a first snapshot
	f := NewFold(0)
	for _, r := range broken {
		if err := f.Add(r.Subject, r.Data); err != nil {
			t.Fatal(err)
		}
	}
	if f.Checkpointed() || f.Whole() != nil {
		t.Fatalf("checkpointed %v, gap %v; want no checkpoint and no gap", f.Checkpointed(), f.Whole())
	}
	for _, r := range w.log[first:] { // tried again in the same epoch
		if err := f.Add(r.Subject, r.Data); err != nil {
			t.Fatal(err)
		}
	}
	if !f.Checkpointed() || f.layers[model.ClusterLayer].at != w.core.Position(model.ClusterLayer) {
		t.Error("the second try doesn't count")
	}
}

func TestLogThatCannotBeFoldedIsCompiledAnew(t *testing.T) {
	w := shop(t, Options{}, 5, 2)
	w.facts(sliceFact(1, 0, 3, w.now))
	w.pass(time.Second)
	old := w.core.Revision()
	f := NewFold(0)
	for _, r := range w.log[len(w.log)-1:] { // all but the newest delta is lost
		if err := f.Add(r.Subject, r.Data); err == nil {
			t.Fatal("a delta without what is before it was folded")
		}
	}
	if f.Whole() == nil {
		t.Fatal("the gap isn't seen")
	}
	f.Lose()
	w.log, w.core = nil, New(Options{Signer: signer}, f, 2, w.now)
	w.sync("n1", model.ClusterLayer)
	if r := w.replies()[0]; !strings.Contains(r.GetRefused(), "can't say yet") {
		t.Errorf("before anything is compiled a node is told %v", r)
	}
	w.nodes = map[model.Layer]*replica{}
	w.facts(shopFacts(5, 2)...)
	w.ready()
	w.checkConverged()
	if w.core.Revision() <= old {
		t.Errorf("revision %d, want more than %d", w.core.Revision(), old)
	}
}

// Fault 14: a row that was compiled wrongly is found by the sampled comparison, told, repaired, and both are kept for
// the report.
func TestWrongRowsAreFoundRepairedAndReported(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*layer)
	}{
		{"a backend that is wrong", func(l *layer) {
			for id, b := range l.rows.Backends {
				b.State = model.BackendTerminating
				l.at.Digest = l.rows.Apply(&model.Change{Put: model.Rows{Backends: []model.Backend{b}}}, l.at.Digest)
				_ = id
				return
			}
		}},
		{"a frontend that is too many", func(l *layer) {
			extra := model.Frontend{FrontendKey: model.FrontendKey{Addr: ip(10, 1, 1, 1), Port: 1, Protocol: model.TCP}, Set: 1, Kind: 1}
			l.at.Digest = l.rows.Apply(&model.Change{Put: model.Rows{Frontends: []model.Frontend{extra}}}, l.at.Digest)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := shop(t, Options{}, 40, 2)
			test.spoil(w.core.layers[model.ClusterLayer])
			// The nodes and the log went wrong with the compiler: that is what an incremental mistake is.
			w.nodes[model.ClusterLayer].rows = w.core.rows(model.ClusterLayer).Clone()
			w.nodes[model.ClusterLayer].at = w.core.layers[model.ClusterLayer].at
			w.forget()
			w.pass(2 * time.Minute)
			if w.mismatch == nil || w.core.Stats().Mismatches != 1 {
				t.Fatal("it was not found in two minutes")
			}
			if len(w.events) != 1 || w.events[0].GetKind() != "incremental_mismatch" {
				t.Errorf("events %v, want one incremental_mismatch", w.events)
			}
			if w.mismatch.Incremental[model.ClusterLayer].Frontends == nil && w.mismatch.Full[model.ClusterLayer].Backends == nil {
				t.Error("the report has neither what was nor what should be")
			}
			want, got := w.core.rows(model.ClusterLayer).Digest(), w.nodes[model.ClusterLayer].at.Digest
			if want != got {
				t.Errorf("after the repair nodes have digest %s, want %s", got, want)
			}
		})
	}
}

func TestHeartbeatTellsHowFarNodesShouldBe(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	w.forget()
	w.pass(3 * time.Second)
	beats := w.beats()
	if len(beats) != 3 {
		t.Fatalf("%d heartbeats in 3 s, want 3", len(beats))
	}
	if n := len(beats[0].Positions); n != 3 {
		t.Errorf("%d layers, want the cluster's and two nodes'", n)
	}
	w.forget()
	w.pass(20 * time.Second)
	beats = w.beats()
	last := beats[len(beats)-1]
	if want := w.core.Position(model.ClusterLayer); len(last.Positions) != 1 || last.Positions[model.ClusterLayer] != want {
		t.Errorf("after 20 quiet seconds a heartbeat tells %v, want the cluster layer at %v", last.Positions, want)
	}
	w.slow = true
	w.forget()
	w.facts(sliceFact(1, 0, 2, w.now))
	w.pass(3 * time.Second)
	for _, b := range w.beats() {
		if len(b.Positions) != 0 {
			t.Errorf("while the log hasn't answered a heartbeat tells %v", b.Positions)
		}
	}
	w.settle()
}

func (w *world) beats() (beats []wire.Heartbeat) {
	w.t.Helper()
	for _, m := range w.published {
		if m.Subject != schemas.SubjectHeartbeat {
			continue
		}
		b, err := wire.DecodeHeartbeat(m.Data)
		if err != nil {
			w.t.Fatalf("%v", err)
		}
		beats = append(beats, b)
	}
	return beats
}

// TestChurnKeepsNumbersAndMemoryFlat replaces endpoints by ones with other addresses for five minutes.
func TestChurnKeepsNumbersAndMemoryFlat(t *testing.T) {
	w := shop(t, Options{RecentBytes: 100_000}, 10, 10)
	for i := range 3000 {
		w.facts(sliceFact(i%10, i, 10, w.now))
		w.pass(100 * time.Millisecond)
		w.published, w.commits = nil, nil
	}
	w.checkConverged()
	// 10 endpoints are replaced ten times a second, and each id rests for a minute.
	if _, next := w.core.ids.Next(); next > 100+10*10*60+500 {
		t.Errorf("ids have got to %d for 100 backends", next)
	}
	if r := w.core.recent; r.bytes > 100_000 || len(r.layers) > 3 {
		t.Errorf("%d bytes of deltas in %d layers are kept", r.bytes, len(r.layers))
	}
}
