// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// pair is a world whose leader has a standby beside it, which hears everything a little later.
type pair struct {
	*world
	standby *Core
	read    int // of log
	heard   int // of published
	facts   []*schemas.Fact
	told    uint64 // how far the standby has read STATE
	events  []*schemas.Event
}

func newPair(t tester, o Options, facts ...*schemas.Fact) *pair {
	p := &pair{world: newWorld(t, o)}
	p.log = append(p.log, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: 1})})
	p.change(facts...)
	p.world.ready()
	p.facts = append(p.facts, complete())
	p.pass(time.Second)
	p.join(o)
	return p
}

// join has a standby read STATE and the log to their ends.
func (p *pair) join(o Options) {
	o.Signer = signer
	p.standby, p.read, p.heard, p.told = NewStandby(o, p.fold()), len(p.log), len(p.published), uint64(len(p.facts))
	p.standby.Facts(p.now, p.told, p.facts...)
	p.standby.CaughtUp(p.now)
}

// change tells the leader of facts; they are one message of STATE each.
func (p *pair) change(facts ...*schemas.Fact) {
	p.facts = append(p.facts, facts...)
	p.world.facts(facts...)
}

// state has the standby read STATE, up to so many messages before its end.
func (p *pair) state(behind int) {
	for int(p.told) < len(p.facts)-behind {
		p.told++
		p.do2(p.standby.Facts(p.now, p.told, p.facts[p.told-1]))
	}
}

// follow has the standby read the log, up to so many records before its end, and hear heartbeats.
func (p *pair) follow(behind int) {
	p.t.Helper()
	for p.read < len(p.log)-behind {
		p.do2(p.standby.Log(p.now, p.log[p.read]))
		p.read++
	}
	for ; p.heard < len(p.published); p.heard++ {
		var beat schemas.Heartbeat
		if m := p.published[p.heard]; m.Subject == schemas.SubjectHeartbeat && proto.Unmarshal(m.Data, &beat) == nil {
			p.do2(p.standby.Beat(p.now, &beat))
		}
	}
}

func (p *pair) do2(out Output) {
	p.events = append(p.events, out.Events...)
	if out.Append != nil || out.Publish != nil {
		p.t.Fatalf("a standby appends %d and publishes %d", len(out.Append), len(out.Publish))
	}
}

// settled lets both come to rest and wants them to agree.
func (p *pair) settled() {
	p.t.Helper()
	p.pass(1500 * time.Millisecond)
	p.state(0)
	p.follow(0)
	p.pass(1500 * time.Millisecond)
	p.follow(0)
	if s := &p.standby.standby; !s.warm || s.differs != "" {
		p.t.Fatalf("the standby is warm: %t, differs: %q, events %v", s.warm, s.differs, p.events)
	}
	if p.standby.Revision() != p.core.Revision() {
		p.t.Fatalf("the standby is at revision %d, the leader at %d", p.standby.Revision(), p.core.Revision())
	}
}

// takeOver kills the leader and has the standby lead.
func (p *pair) takeOver() {
	p.t.Helper()
	epoch := p.core.epoch + 1
	p.log = append(p.log, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: uint64(epoch)})})
	p.core, p.owed, p.slow = p.standby, 0, false
	p.do(p.core.Lead(p.now, epoch))
	for ; p.read < len(p.log); p.read++ {
		p.do(p.core.Log(p.now, p.log[p.read]))
	}
	p.do(p.core.Facts(p.now, uint64(len(p.facts)), p.facts[p.told:]...))
	if !p.core.Leads() {
		p.t.Fatalf("the log was read to the epoch, and it doesn't lead")
	}
}

// A standby that has all there is wants no Tick: its loop would run without a rest.
func TestAStandbyWithNothingToDoRests(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(2, 2)...)
	p.settled()
	if next := p.standby.Next(); next.Before(p.now.Add(time.Hour)) {
		t.Errorf("it wants a Tick at %s, and it is %s", next, p.now)
	}
	p.change(sliceFact(1, 0, 11, p.now))
	p.pass(time.Second)
	p.follow(0) // the fact is yet to come
	if next := p.standby.Next(); next.Before(p.now) || next.After(p.now.Add(factsLate)) {
		t.Errorf("with a record that waits for a fact it wants a Tick at %s, and it is %s", next, p.now)
	}
	p.state(0)
	if next := p.standby.Next(); next.Before(p.now.Add(time.Hour)) {
		t.Errorf("with all read it wants a Tick at %s, and it is %s", next, p.now)
	}
}

// A takeover with nothing new says nothing to anyone, and compiles nothing.
//
// Fault 2: the leader is killed; the nodes get no operations.
func TestAWarmTakeoverChangesNothing(t *testing.T) {
	p := newPair(t, Options{}, append(shopFacts(20, 10), policedFacts()...)...)
	p.settled()
	p.change(sliceFact(3, 0, 11, p.now), ingressPolicy("p", "web", "db", 80, "", p.now))
	p.settled()
	records, units := len(p.log), p.standby.Stats().Units
	p.takeOver()
	p.forget()
	p.pass(time.Second)
	for _, r := range p.log[records:] {
		if r.Subject != schemas.SubjectEpoch && r.Subject != schemas.SubjectCheckpoint {
			t.Errorf("a record on %s was appended", r.Subject)
		}
	}
	if got := p.core.Stats().Units; got != units {
		t.Errorf("%d units were compiled, want none", got-units)
	}
	p.checkConverged()
	p.change(sliceFact(3, 0, 12, p.now))
	p.pass(time.Second)
	p.checkConverged()
	if got := p.core.Stats().Units; got != units+1 {
		t.Errorf("after one more endpoint %d units were compiled, want one", got-units)
	}
}

// The leader dies after the first of several revisions that belong together: the standby says the others.
//
// Fault 2: kill -9 of the compiler between two batches.
func TestATakeoverFinishesWhatWasBegun(t *testing.T) {
	both := ingressPolicy("p", "db", "web", 80, "", start)
	terms := both.GetNetworkPolicy().GetIngress()[0].GetPeers()[0].GetPods().GetPods().GetTerms()
	terms[0].Values = append(terms[0].Values, "other")
	p := newPair(t, Options{}, append(policedFacts(), both)...)
	p.settled()
	before := len(p.log)
	p.change(ingressPolicy("q", "db", "other", 443, "", p.now)) // tells apart whom p doesn't
	p.slow = true
	p.pass(100 * time.Millisecond)
	if len(p.core.appending) < 2 {
		t.Fatalf("%d revisions are to be appended, the test needs several", len(p.core.appending))
	}
	p.state(0)
	p.log = p.log[:before+1]
	if n := len(p.core.appending[0].publish); n != 1 {
		t.Fatalf("the first revision has %d deltas, the test needs one", n)
	}
	p.hear(p.core.appending[0].publish[0]) // what the log has, the node has
	p.follow(0)
	p.takeOver()
	p.pass(time.Second)
	p.checkConverged()
}

func TestARewrittenFactIsNotWaitedForForEver(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(2, 2)...)
	p.settled()
	p.change(sliceFact(1, 0, 3, p.now))
	p.pass(time.Second)
	p.follow(0) // STATE isn't read any more
	if len(p.standby.standby.records) == 0 {
		t.Fatal("the delta doesn't wait for its facts")
	}
	p.now = p.now.Add(factsLate)
	p.do2(p.standby.Tick(p.now))
	if p.standby.Revision() != p.core.Revision() {
		t.Errorf("the standby is at revision %d, the leader at %d", p.standby.Revision(), p.core.Revision())
	}
	p.now = p.now.Add(compareAgain)
	p.settled()
}

// Fault 14: what leader and standby compile differs. It is told, and the takeover puts it right.
func TestAStandbyThatCompilesOtherRowsSaysSo(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(3, 2)...)
	p.settled()
	l := p.core.layers[model.ClusterLayer]
	for key := range l.rows.Frontends { // the leader's bug: a row goes wrong
		p.core.commit(p.now, map[model.Layer]*model.Change{
			model.ClusterLayer: {Remove: model.Keys{Frontends: []model.FrontendKey{key}}},
		}, func(model.Layer) causes { return causes{} })
		break
	}
	p.do(p.core.append())
	p.core.check.next, p.core.check.full = p.now.Add(time.Hour), p.now.Add(time.Hour)
	p.follow(0)
	p.now = p.now.Add(compareAgain)
	p.pass(2 * time.Second)
	p.follow(0)
	if p.standby.Agrees() || len(p.events) == 0 || p.events[0].GetKind() != "standby_differs" {
		t.Fatalf("it agrees: %t, events %v", p.standby.Agrees(), p.events)
	}
	p.takeOver()
	p.pass(time.Second)
	p.checkConverged()
}

// A leader that hears of a higher epoch in the log stands by from there, and is warm at once.
//
// Fault 2: the leader is stopped for a while and goes on.
func TestADeposedLeaderGoesOnAsAStandby(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(5, 3)...)
	p.settled()
	old, oldRead := p.core, len(p.log)
	p.takeOver()
	p.change(sliceFact(1, 0, 7, p.now))
	p.pass(time.Second)
	p.standby, p.read, p.told = old, oldRead, uint64(len(p.facts))-1
	p.settled()
	if old.Leads() || old.Ahead() {
		t.Errorf("it leads: %t, is ahead of the log: %t", old.Leads(), old.Ahead())
	}
	p.takeOver()
	p.pass(time.Second)
	p.checkConverged()
}

func TestADeposedLeaderThatWasAppendingKnowsThatItIsAhead(t *testing.T) {
	w := shop(t, Options{}, 2, 2)
	w.slow = true
	w.facts(sliceFact(1, 0, 3, w.now))
	w.pass(100 * time.Millisecond)
	w.core.Log(w.now, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: 2})})
	if !w.core.Ahead() {
		t.Error("it takes its rows for the log's")
	}
}

// A STATE that ends before what the log has taken in is old: it isn't compiled before the watcher has compared it.
//
// Fault 5: an old backup is restored while no watcher runs.
func TestARestoredOldStateIsNotCompiled(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(5, 3)...)
	p.change(sliceFact(1, 0, 7, p.now))
	p.pass(time.Second)
	backup, logged := p.facts[:4], len(p.log)
	backup = append(backup[:4:4], complete())
	epoch := p.core.epoch + 1
	p.log = append(p.log, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: uint64(epoch)})})
	before := p.core.Memory()
	p.core = New(Options{Signer: signer}, p.fold(), epoch, p.now)
	p.core.Remember(before)
	p.do(p.core.Facts(p.now, 5, backup...))
	p.do(p.core.CaughtUp(p.now))
	p.pass(5 * time.Second)
	if len(p.log) != logged+1 || !strings.Contains(p.core.Waiting(), "removed or restored") {
		t.Fatalf("%d records were appended; it waits %s", len(p.log)-logged-1, p.core.Waiting())
	}
	anew := complete()
	anew.GetComplete().Epoch = 2
	p.do(p.core.StateEpoch(p.now, &schemas.Epoch{Epoch: 2}))
	anew.TriggerTime = timestamppb.New(p.now)
	p.do(p.core.Facts(p.now, 20, append(p.facts[4:len(p.facts):len(p.facts)], anew)...))
	p.pass(time.Second)
	p.checkConverged()
	if p.core.Waiting() != "" {
		t.Errorf("it still waits %s", p.core.Waiting())
	}
}

// Clocks are not needed to know a STATE that was made anew.
func TestAStateThatWasMadeAnewIsCompiledWhateverTheClocksSay(t *testing.T) {
	for name, tell := range map[string]func(p *pair, facts []*schemas.Fact){
		"before it is read": func(p *pair, facts []*schemas.Fact) {
			p.do(p.core.StateEpoch(p.now, &schemas.Epoch{Epoch: 4}))
			p.do(p.core.Facts(p.now, 3, facts...))
			p.do(p.core.CaughtUp(p.now))
		},
		"while it is read": func(p *pair, facts []*schemas.Fact) {
			p.do(p.core.CaughtUp(p.now))
			p.do(p.core.StateEpoch(p.now, &schemas.Epoch{Epoch: 4}))
			p.do(p.core.Facts(p.now, 3, facts...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Options{}, shopFacts(5, 3)...)
			p.do(p.core.StateEpoch(p.now, &schemas.Epoch{Epoch: 3}))
			memory := p.core.Memory()
			p.log = append(p.log, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: 7})})
			p.core = New(Options{Signer: signer}, p.fold(), 7, p.now)
			p.core.Remember(memory)
			early := complete()
			early.GetComplete().Epoch, early.TriggerTime = 4, timestamppb.New(p.now.Add(-time.Hour))
			tell(p, append(shopFacts(5, 3)[:2:2], early))
			p.pass(time.Second)
			if p.core.Waiting() != "" {
				t.Errorf("it waits %s", p.core.Waiting())
			}
			if m := p.core.Memory(); m.state != 3 {
				t.Errorf("it remembers message %d of STATE, want 3: how far the one that was lost had come says nothing", m.state)
			}
		})
	}
}

// Whatever happens in whatever order, the standby compiles the same rows, and takes over without saying anything.
//
// Fault 14: incremental compilations of leader and standby agree.
func TestLeaderAndStandbyAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, Options{}, append(shopFacts(4, 3), policedFacts()...)...)
		p.settled()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			p.change(rapid.SliceOfN(rapid.Custom(p.randomFact), 1, 5).Draw(t, "facts")...)
			p.pass(time.Duration(rapid.IntRange(0, 200).Draw(t, "pass")) * time.Millisecond)
			p.state(rapid.IntRange(0, 4).Draw(t, "STATE behind"))
			p.follow(rapid.IntRange(0, 4).Draw(t, "DELTA behind"))
			if d := p.standby.standby.differs; d != "" {
				t.Fatalf("they differ: %s", d)
			}
		}
		if rapid.Bool().Draw(t, "settled") {
			p.settled()
		}
		p.takeOver()
		p.pass(2 * time.Second)
		p.checkConverged()
	})
}

func (p *pair) randomFact(t *rapid.T) *schemas.Fact {
	i := rapid.IntRange(0, 5).Draw(t, "object")
	app := rapid.SampledFrom([]string{"web", "db", "other", "new"}).Draw(t, "app")
	var f *schemas.Fact
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		f = serviceFact(i)
	case 1:
		f = sliceFact(i, rapid.IntRange(0, 3).Draw(t, "first"), rapid.IntRange(0, 5).Draw(t, "endpoints"), p.now)
	case 2:
		f = labelledPod(fmt.Sprint("pod-", i), fmt.Sprint("n", i%4), fmt.Sprintf("10.200.%d.7", i), app)
	case 3:
		f = ingressPolicy(fmt.Sprint("p", i), app, rapid.SampledFrom([]string{"web", "db", "new"}).Draw(t, "from"), uint32(80+i), "", p.now)
	case 4:
		f = openService(i, rapid.Bool().Draw(t, "local"))
	}
	if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
		return goneFact(f)
	}
	return f
}
