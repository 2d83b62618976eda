// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// history reads the log for a revision.
func (w *world) history(revision model.Revision) *History {
	h := NewHistory(revision, true)
	for _, r := range w.log {
		h.Add(r)
	}
	return h
}

func (w *world) rollBack(revision model.Revision) *schemas.RollbackReply {
	w.t.Helper()
	return w.askRollback(&schemas.RollbackRequest{Revision: uint64(revision), By: "ann"}, w.history(revision))
}

func (w *world) askRollback(r *schemas.RollbackRequest, h *History) *schemas.RollbackReply {
	w.t.Helper()
	w.answers = nil
	w.do(w.core.Rollback(w.now, nil, r, h))
	m := &schemas.RollbackReply{}
	w.onlyAnswer(m)
	return m
}

func (w *world) resume() *schemas.ResumeReply {
	w.t.Helper()
	w.answers = nil
	w.do(w.core.Resume(w.now, nil, marshal(&schemas.ResumeRequest{By: "bob"})))
	m := &schemas.ResumeReply{}
	w.onlyAnswer(m)
	return m
}

// onlyAnswer reads the only answer there is.
func (w *world) onlyAnswer(m proto.Message) {
	w.t.Helper()
	if len(w.answers) != 1 {
		w.t.Fatalf("%d answers, want 1", len(w.answers))
	}
	for data := range w.answers[0].Messages() {
		mustUnmarshal(w.t, data, m)
	}
	w.answers = nil
}

// meanings returns a digest of each layer in which ids don't count, but what they mean.
func meanings(layers map[model.Layer]*model.Tables) map[model.Layer]model.Digest {
	n := renumbering{sets: map[model.SetID]model.SetID{0: 0}, backends: map[model.BackendID]model.BackendID{0: 0}}
	var sets []model.BackendSet
	for _, t := range layers {
		sets = slices.AppendSeq(sets, maps.Values(t.Sets))
	}
	slices.SortFunc(sets, func(a, b model.BackendSet) int {
		return cmp.Or(strings.Compare(a.Service.String(), b.Service.String()), cmp.Compare(a.Family, b.Family),
			cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Place, b.Place))
	})
	for i, row := range sets {
		n.sets[row.ID] = model.SetID(i + 1)
	}
	var backends []model.Backend
	for _, t := range layers {
		backends = slices.AppendSeq(backends, maps.Values(t.Backends))
	}
	slices.SortFunc(backends, func(a, b model.Backend) int {
		return cmp.Or(cmp.Compare(n.sets[a.Set], n.sets[b.Set]), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Place, b.Place))
	})
	for i, row := range backends {
		n.backends[row.ID] = model.BackendID(i + 1)
	}
	all := map[model.Layer]model.Digest{}
	for l, t := range layers {
		rows := t.Rows()
		n.apply(&rows)
		is := model.NewTables()
		if digest := is.Apply(&model.Change{Put: rows}, model.Digest{}); is.Len() > 0 {
			all[l] = digest
		}
	}
	return all
}

// Promise P8: a rollback makes the rows what they were, ids included, and changes wait until somebody resumes.
func TestARollbackBringsBackARevisionAndHolds(t *testing.T) {
	w := policedShop(t, Options{})
	w.facts(shopFacts(5, 3)...)
	w.facts(ingressPolicy("p", "db", "web", 80, "", w.now))
	w.pass(time.Second)
	good, digests := w.core.Revision(), map[model.Layer]model.Digest{}
	for l, held := range w.core.layers {
		digests[l] = held.at.Digest
	}
	w.facts(goneFact(serviceFact(2)), ingressPolicy("p", "db", "nobody", 80, "", w.now), sliceFact(1, 0, 0, w.now))
	w.pass(time.Second)

	preview := w.askRollback(&schemas.RollbackRequest{Revision: uint64(good), DryRun: true}, w.history(good))
	if preview.GetDone() || preview.GetRows() == 0 || w.core.Hold() != nil {
		t.Fatalf("a dry run came to %v, holding %v", preview, w.core.Hold())
	}
	if err := w.core.ids.Check(); err != nil {
		t.Fatal(err)
	}
	w.forget()
	done := w.rollBack(good)
	if !done.GetDone() || done.GetRows() != preview.GetRows() || w.event("rolled_back") == nil {
		t.Fatalf("rollback: %v, its preview: %v, events %v", done, preview, w.events)
	}
	for l, want := range digests {
		if got := w.core.Position(l).Digest; got != want {
			t.Errorf("layer %s has digest %s, had %s", l, got, want)
		}
		if w.nodes[l] != nil && w.nodes[l].at.Digest != want {
			t.Errorf("the node's layer %s has digest %s, had %s", l, w.nodes[l].at.Digest, want)
		}
	}
	if c := w.heard(model.ClusterLayer)[0].GetCauses()[0]; c.GetObject().GetKind() != causeRollback || c.GetManager() != "ann" {
		t.Errorf("the cause is %v", c)
	}

	at := w.core.Revision()
	w.facts(sliceFact(3, 0, 7, w.now), ingressPolicy("p", "db", "web", 443, "", w.now))
	w.pass(5 * time.Minute)
	if h := w.status(0).GetHold(); w.core.Revision() != at || h.GetRevision() != uint64(good) || h.GetBy() != "ann" || h.GetChanges() != 2 {
		t.Errorf("at revision %d, after %d, it holds %v", w.core.Revision(), at, h)
	}
	if s := w.status(0); s.GetStateSequence() >= w.sequence {
		t.Errorf("it says to have compiled STATE up to %d of %d", s.GetStateSequence(), w.sequence)
	}
	if m := w.resume(); !m.GetDone() || w.core.Hold() != nil || w.event("resumed") == nil {
		t.Fatalf("resume: %v, it holds %v", m, w.core.Hold())
	}
	w.pass(time.Second)
	w.checkConverged()
	w.facts(sliceFact(4, 0, 7, w.now))
	w.pass(time.Second)
	w.checkConverged()
	if m := w.resume(); m.GetDone() {
		t.Error("there was nothing to resume")
	}
}

func (w *world) event(kind string) *schemas.Event {
	for _, e := range w.events {
		if e.GetKind() == kind {
			return e
		}
	}
	return nil
}

func TestARevisionThatIsNoneIsRefused(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	w.facts(sliceFact(1, 0, 5, w.now))
	w.pass(time.Second)
	newest := w.core.Revision()
	late := NewHistory(newest-1, false)
	for _, r := range w.log {
		if r.Subject == schemas.SubjectCheckpoint {
			w.core.checkpoint.last = time.Time{} // another one, of the newest revision
		}
		if r.Subject != schemas.SubjectCheckpoint {
			late.Add(r)
		}
	}
	before := len(w.log)
	w.pass(time.Second)
	for _, r := range w.log[before:] {
		late.Add(r)
	}
	for _, c := range []struct {
		h    *History
		want string
	}{
		{w.history(newest + 5), " yet: the newest is "},
		{w.history(0), "DELTA no longer keeps revision 0: DELTA keeps revisions 1 to "},
		{late, "DELTA no longer keeps revision "},
	} {
		m := w.askRollback(&schemas.RollbackRequest{Revision: uint64(c.h.wanted)}, c.h)
		if m.GetDone() || !strings.Contains(m.GetText(), c.want) {
			t.Errorf("revision %d: %v, want a refusal with %q", c.h.wanted, m, c.want)
		}
	}
	if w.core.Hold() != nil || w.core.Revision() != newest {
		t.Errorf("it holds %v at revision %d", w.core.Hold(), w.core.Revision())
	}
}

// An id that means something else by now doesn't turn back: nodes' flows remember it.
func TestARollbackGivesNoIDAnotherMeaning(t *testing.T) {
	w := newWorld(t, Options{Quarantine: time.Second})
	w.facts(shopFacts(2, 3)...)
	w.ready()
	w.pass(time.Second)
	good, then := w.core.Revision(), meanings(w.core.tables())
	w.facts(goneFact(serviceFact(0)), goneFact(sliceFact(0, 0, 3, w.now)))
	w.pass(5 * time.Second)
	w.facts(serviceFact(7), sliceFact(7, 0, 3, w.now)) // takes the numbers
	w.pass(5 * time.Second)
	w.facts(goneFact(serviceFact(1)), goneFact(sliceFact(1, 0, 3, w.now)))
	w.pass(5 * time.Second)
	before := map[model.BackendID]model.BackendKey{}
	for id, row := range w.core.layers[model.ClusterLayer].rows.Backends {
		before[id] = row.BackendKey
	}
	if m := w.rollBack(good); !m.GetDone() {
		t.Fatal(m)
	}
	if now := meanings(w.core.tables()); !maps.Equal(now, then) {
		t.Errorf("rows mean %v, want %v", now, then)
	}
	for id, row := range w.core.layers[model.ClusterLayer].rows.Backends {
		if key, was := before[id]; was && key != row.BackendKey {
			t.Errorf("backend %d turned from %v to %v", id, key, row.BackendKey)
		}
	}
	if err := w.core.ids.Check(); err != nil {
		t.Error(err)
	}
}

// Where the log has lost something after the revision, and goes on with what a compiler remembers, nobody knows from it
// what ids have come to mean (seed 102 of the simulation).
func TestARollbackOverAHoleGivesNoIDAnotherMeaning(t *testing.T) {
	for name, mended := range map[string]bool{"a checkpoint follows": true, "deltas follow": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{Quarantine: time.Second})
			w.facts(shopFacts(2, 3)...)
			w.ready()
			w.pass(time.Second)
			good, then, kept := w.core.Revision(), meanings(w.core.tables()), len(w.log)
			w.facts(goneFact(serviceFact(0)), goneFact(sliceFact(0, 0, 3, w.now)))
			w.pass(5 * time.Second)
			w.facts(serviceFact(7), sliceFact(7, 0, 3, w.now)) // takes the numbers
			w.pass(5 * time.Second)
			lost := len(w.log)
			if mended {
				w.core.revision++
				w.core.beginCheckpoint(w.now)
				w.do(w.core.append())
			} else {
				w.facts(sliceFact(1, 0, 4, w.now))
			}
			w.pass(5 * time.Second)
			if lost == len(w.log) {
				t.Fatal("nothing follows")
			}
			w.log = append(w.log[:kept:kept], w.log[lost:]...)
			before := maps.Clone(w.core.layers[model.ClusterLayer].rows.Backends)
			if m := w.rollBack(good); !m.GetDone() {
				t.Fatal(m)
			}
			wentBack(t, w.core, then, before)
		})
	}
}

// The log is read beside the loop, which goes on committing: what ids have come to mean meanwhile counts, too.
func TestARollbackKnowsWhatWasCommittedWhileTheLogWasRead(t *testing.T) {
	for name, most := range map[string]int{"all of it is at hand": 0, "some of it is forgotten": 1} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{Quarantine: time.Second, RecentBytes: most})
			w.facts(shopFacts(2, 3)...)
			w.ready()
			w.pass(time.Second)
			good, then := w.core.Revision(), meanings(w.core.tables())
			w.facts(goneFact(serviceFact(0)), goneFact(sliceFact(0, 0, 3, w.now)))
			w.pass(5 * time.Second)
			h := w.history(good)
			w.facts(serviceFact(7), sliceFact(7, 0, 3, w.now)) // takes the numbers
			w.pass(5 * time.Second)
			before := maps.Clone(w.core.layers[model.ClusterLayer].rows.Backends)
			if m := w.askRollback(&schemas.RollbackRequest{Revision: uint64(good), By: "ann"}, h); !m.GetDone() {
				t.Fatal(m)
			}
			wentBack(t, w.core, then, before)
		})
	}
}

// A restart, and a standby that takes over, hold on, also where only a checkpoint is left of the log.
//
// Promise P8: whoever leads next keeps what was rolled back.
func TestAHoldOutlivesTheLeader(t *testing.T) {
	p := newPair(t, Options{}, append(shopFacts(5, 3), policedFacts()...)...)
	p.settled()
	good, then := p.core.Revision(), meanings(p.core.tables())
	p.change(sliceFact(1, 0, 0, p.now), ingressPolicy("p", "db", "web", 80, "", p.now))
	p.settled()
	if m := p.rollBack(good); !m.GetDone() {
		t.Fatal(m)
	}
	p.change(sliceFact(2, 0, 9, p.now))
	p.pass(time.Second)
	p.state(0)
	p.follow(0)
	p.core.checkpoint.last = time.Time{}
	p.pass(time.Second)
	p.follow(0)
	p.takeOver()
	p.pass(5 * time.Minute)
	if h := p.core.Hold(); h.GetRevision() != uint64(good) || h.GetChanges() != 1 || len(p.events) > 0 {
		t.Errorf("after a takeover it holds %v; events %v", h, p.events)
	}
	if now := meanings(p.core.tables()); !maps.Equal(now, then) {
		t.Errorf("after a takeover rows mean %v, want %v", now, then)
	}
	p.join(Options{}) // from the log
	p.takeOver()
	p.pass(time.Minute)
	if h := p.core.Hold(); h.GetRevision() != uint64(good) || h.GetBy() != "ann" {
		t.Errorf("after a restart it holds %v", h)
	}
	p.join(Options{})
	if m := p.resume(); !m.GetDone() {
		t.Fatal(m)
	}
	p.now = p.now.Add(compareAgain)
	p.settled()
	p.checkConverged()
}

// A standby that hears late that somebody has resumed has taken in facts that the leader hasn't compiled yet: that is no
// difference between the two.
func TestAStandbyThatHearsLateOfAResumeBlamesNobody(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(5, 3)...)
	p.settled()
	if m := p.rollBack(p.core.Revision()); !m.GetDone() {
		t.Fatal(m)
	}
	p.pass(time.Second)
	p.state(0)
	p.follow(0)
	p.now = p.now.Add(2 * compareAgain)
	if m := p.resume(); !m.GetDone() {
		t.Fatal(m)
	}
	p.pass(2 * time.Second)
	p.facts = append(p.facts, sliceFact(1, 0, 9, p.now)) // on its way to the leader
	p.state(0)
	p.follow(0)
	if len(p.events) > 0 {
		t.Errorf("it says %v", p.events)
	}
	late := p.facts[len(p.facts)-1]
	p.facts = p.facts[:len(p.facts)-1]
	p.change(late)
	p.now = p.now.Add(2 * compareAgain)
	p.settled()
	p.checkConverged()
}

// A Hold is sealed for good, so one that was said before may be put back into the log: it must neither stop the compiler nor
// end what somebody holds.
//
// Fault 13: the bus says an old Hold again.
func TestAnOldHoldThatIsPutBackChangesNothing(t *testing.T) {
	p := newPair(t, Options{}, append(shopFacts(5, 3), policedFacts()...)...)
	p.settled()
	good := p.core.Revision()
	p.change(sliceFact(1, 0, 0, p.now))
	p.settled()
	var said []Record
	check := func(what string, want bool) {
		t.Helper()
		log := NewFold(0)
		said = nil
		for _, r := range p.log {
			if err := log.Add(r.Subject, r.Data); err != nil {
				t.Fatal(err)
			}
			if r.Subject == schemas.SubjectHold {
				said = append(said, r)
			}
		}
		for i, r := range said {
			if err := log.Add(r.Subject, r.Data); err != nil || (log.hold != nil) != want || log.Whole() != nil {
				t.Errorf("%s, and with Hold %d of %d put back: %v holds, want %v; %v, %v", what, i, len(said), log.hold, want, err, log.Whole())
			}
		}
	}
	for range 2 { // at one time, as if the clock stood
		if m := p.rollBack(good); !m.GetDone() {
			t.Fatal(m)
		}
		check("rolled back", true)
		if m := p.resume(); !m.GetDone() {
			t.Fatal(m)
		}
		check("resumed", false)
	}
	if len(said) != 4 {
		t.Errorf("%d holds were logged, want 4", len(said))
	}
}

// A checkpoint says what is held, and is sealed for good. One that was written before the newest Hold and is put back, at
// the same revision, neither stops the compilers nor ends what somebody holds.
//
// Fault 13: the bus says an old checkpoint again.
func TestAnOldCheckpointThatIsPutBackHoldsNothing(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(5, 3)...)
	p.settled()
	written := func() (records []Record) {
		from := len(p.log)
		p.core.beginCheckpoint(p.now)
		p.do(p.core.append())
		for _, r := range p.log[from:] {
			if r.Subject == schemas.SubjectCheckpoint {
				records = append(records, r)
			}
		}
		return records
	}
	check := func(what string, put []Record, want bool) {
		t.Helper()
		log := p.fold()
		for _, r := range put {
			if err := log.Add(r.Subject, r.Data); err != nil {
				t.Fatal(err)
			}
		}
		if (log.hold != nil) != want || log.Whole() != nil {
			t.Errorf("%s: %v holds, want %v; %v", what, log.hold, want, log.Whole())
		}
	}
	free := written()
	p.now = p.now.Add(time.Second)
	if m := p.rollBack(p.core.Revision()); !m.GetDone() {
		t.Fatal(m)
	}
	check("held, and a checkpoint from before is put back", free, true)
	p.now = p.now.Add(time.Second)
	holding := written()
	check("held, as the newest checkpoint says", nil, true)
	p.now = p.now.Add(time.Second)
	if m := p.resume(); !m.GetDone() {
		t.Fatal(m)
	}
	check("resumed, and the checkpoint of the Hold is put back", holding, false)
	check("resumed, and all checkpoints are put back", append(free, holding...), false)
}

// A rollback that breaks off is undone by who leads next.
//
// Fault 2: the leader is killed amid a rollback.
func TestARollbackThatBreaksOffIsUndone(t *testing.T) {
	w := shop(t, Options{MaxBatchBytes: 20_000}, 60, 5)
	good := w.core.Revision()
	for i := range 60 {
		w.facts(goneFact(serviceFact(i)))
	}
	w.pass(10 * time.Second)
	w.slow = true
	w.do(w.core.Rollback(w.now, nil, &schemas.RollbackRequest{Revision: uint64(good)}, w.history(good)))
	if len(w.core.appending) < 3 {
		t.Fatalf("it is %d batches, the test needs several", len(w.core.appending))
	}
	state := []*schemas.Fact{complete()}
	for i := range 60 {
		state = append(state, sliceFact(i, 0, 5, start))
	}
	w.do(w.core.Appended(w.now)) // the second batch is stored, and the leader dies
	w.hear(w.core.appending[0].publish[0])
	w.restart(Options{})
	if w.slow = false; w.core.Hold() != nil {
		t.Errorf("a part of a rollback holds %v", w.core.Hold())
	}
	w.facts(state...)
	w.do(w.core.CaughtUp(w.now))
	w.pass(time.Second)
	w.checkConverged()
}

// Promise P8: whatever has happened since, a rollback to any revision makes rows mean what they meant then.
func TestAnyRevisionCanBeRolledBackTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, Options{Quarantine: 2 * time.Second}, append(shopFacts(4, 3), policedFacts()...)...)
		then := map[model.Revision]map[model.Layer]model.Digest{p.core.Revision(): meanings(p.core.tables())}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			p.change(rapid.SliceOfN(rapid.Custom(p.randomFact), 1, 5).Draw(t, "facts")...)
			p.pass(time.Duration(rapid.IntRange(200, 3000).Draw(t, "pass")) * time.Millisecond)
			if len(p.core.appending) == 0 {
				then[p.core.Revision()] = meanings(p.core.tables())
			}
			if rapid.IntRange(0, 5).Draw(t, "resume") == 0 && p.core.Hold() != nil {
				p.resume()
				p.pass(time.Second)
				p.checkConverged()
			}
			if rapid.IntRange(0, 2).Draw(t, "roll back") == 0 {
				to := rapid.SampledFrom(slices.Sorted(maps.Keys(then))).Draw(t, "to")
				if m := p.rollBack(to); !m.GetDone() {
					t.Fatalf("revision %d: %v", to, m)
				}
				now := meanings(p.core.tables())
				for l, want := range then[to] {
					if now[l] != want {
						t.Fatalf("layer %s isn't as at revision %d", l, to)
					}
				}
				if err := p.core.ids.Check(); err != nil {
					t.Fatal(err)
				}
				then[p.core.Revision()] = now
			}
			p.state(rapid.IntRange(0, 4).Draw(t, "STATE behind"))
			p.follow(0)
			for _, e := range p.events {
				t.Fatalf("the standby says %v", e)
			}
		}
		p.takeOver()
		if p.core.Hold() != nil {
			p.resume()
		}
		p.pass(2 * time.Second)
		p.checkConverged()
	})
}

// wentBack checks that rows mean what they meant then, and that no id has turned to another meaning on the way.
func wentBack(t *testing.T, c *Core, then map[model.Layer]model.Digest, before map[model.BackendID]model.Backend) {
	t.Helper()
	if now := meanings(c.tables()); !maps.Equal(now, then) {
		t.Errorf("rows mean %v, want %v", now, then)
	}
	for id, row := range c.layers[model.ClusterLayer].rows.Backends {
		if was, held := before[id]; held && was.BackendKey != row.BackendKey {
			t.Errorf("backend %d turned from %v to %v", id, was.BackendKey, row.BackendKey)
		}
	}
	if err := c.ids.Check(); err != nil {
		t.Error(err)
	}
}
