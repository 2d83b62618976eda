// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// stays wants the standby in step, and never out of it since the last time.
func (p *pair) stays() {
	p.t.Helper()
	if s := &p.standby.standby; !s.warm || s.differs != "" {
		p.t.Fatalf("the standby is warm: %t, differs: %q", s.warm, s.differs)
	}
}

// beat returns the newest heartbeat.
func (p *pair) beat() *schemas.Heartbeat {
	p.t.Helper()
	for _, published := range slices.Backward(p.published) {
		var m schemas.Heartbeat
		if published.Subject == schemas.SubjectHeartbeat && proto.Unmarshal(published.Data, &m) == nil {
			return &m
		}
	}
	p.t.Fatalf("no heartbeat was sent")
	return nil
}

// What the leader compiled alone without changing a row it compiles alone, too: together with what comes later it would
// come in other revisions.
//
// Fault 14: leader and standby compile the same groups of changes.
func TestAStandbyCompilesInTheLeadersGroups(t *testing.T) {
	p := newPair(t, Options{}, append(policedFacts(), ingressPolicy("p0", "web", "web", 80, "", start))...)
	p.settled()
	p.change(ingressPolicy("p1", "new", "web", 81, "", p.now)) // selects nobody, so no row changes
	p.pass(100 * time.Millisecond)
	p.change(labelledPod("pod-1", "n1", "10.200.1.7", "new"), labelledPod("pod-1", "n1", "10.200.1.7", "web"))
	p.pass(100 * time.Millisecond)
	p.state(0)
	p.follow(0)
	p.stays()
	p.settled()
}

// Heartbeats that name a revision of which a delta is still to be read say nothing about it, however many come.
func TestHeartbeatsLeaveAHalfReadRevisionAlone(t *testing.T) {
	p := newPair(t, Options{}, append(policedFacts(), ingressPolicy("p", "db", "web", 80, "", start))...)
	p.settled()
	p.change(labelledPod("more", "n1", "10.200.1.8", "web")) // n1 gets an endpoint, n2 a peer
	p.pass(100 * time.Millisecond)
	if last := p.core.Revision(); p.core.Position(model.NodeLayer("n1")).Revision != last || p.core.Position(model.NodeLayer("n2")).Revision != last {
		t.Fatal("the newest revision isn't of two layers, the test needs that")
	}
	p.state(0)
	p.standby.Log(p.now, p.log[p.read])
	p.read++
	for range 3 {
		p.pass(2 * time.Second)
		p.do2(p.standby.Beat(p.now, p.beat()))
	}
	p.heard = len(p.published)
	p.follow(0)
	p.stays()
	p.settled()
}

// Rows are compared in full only if both have read the same STATE.
func TestRowsOfAnotherStateAreNotCompared(t *testing.T) {
	watchers := &schemas.Epoch{Epoch: 1, Holder: "watcher-0"}
	for name, test := range map[string]struct {
		leaders, standbys *schemas.Epoch
		doubt, compared   bool
	}{
		"the same":              {watchers, watchers, false, true},
		"the leader's is older": {watchers, &schemas.Epoch{Epoch: 2, Holder: "watcher-1"}, false, false},
		"made anew":             {watchers, &schemas.Epoch{Epoch: 1, Holder: "watcher-1"}, false, false},
		"the standby doubts":    {watchers, watchers, true, false},
		"the leader doubts":     {nil, watchers, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Options{}, shopFacts(3, 2)...)
			p.core.state = test.leaders
			p.core.Doubt(test.leaders == nil)
			p.standby.state = test.standbys
			p.standby.Doubt(test.doubt)
			p.pass(1500 * time.Millisecond)
			p.follow(0)
			if p.standby.Agrees() != test.compared {
				t.Errorf("it was compared: %t, want %t", p.standby.Agrees(), test.compared)
			}
		})
	}
}

// Where STATE was restored and has grown again, a message of the same number, under the same epoch, isn't the same: the
// leader may not have found out yet. Once it has read the same one rows are compared.
//
// Fault 5: STATE is restored from a backup while two compilers follow it.
func TestRowsOfARestoredStateAreNotCompared(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(3, 2)...)
	stored := p.now
	p.core.Stored(p.sequence, stored)
	p.standby.Stored(p.sequence, stored.Add(time.Second))
	p.standby.apply(p.now, []*schemas.Fact{goneFact(serviceFact(1))}) // which the leader hasn't heard of
	p.pass(1500 * time.Millisecond)
	p.follow(0)
	if p.standby.Agrees() || p.standby.Stats().Checks > 0 {
		t.Fatal("it compared rows of another history")
	}
	p.standby.apply(p.now, []*schemas.Fact{serviceFact(1)})
	p.standby.Stored(p.sequence, stored)
	p.pass(1500 * time.Millisecond)
	p.follow(0)
	if !p.standby.Agrees() {
		t.Error("it didn't compare rows of the same history")
	}
}

// A difference is told once, and all is read anew, once; when it is gone that is told, too.
//
// Fault 14: leader and standby have other rows; the standby comes into step by itself.
func TestADifferenceIsToldOnceAndItsEnd(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(3, 2)...)
	p.settled()
	p.standby.apply(p.now, []*schemas.Fact{goneFact(serviceFact(1))}) // the standby's bug
	p.standby.cold("a test breaks it")
	var rereads, differ, agree int
	hear := func() {
		p.pass(time.Second)
		for ; p.heard < len(p.published); p.heard++ {
			var m schemas.Heartbeat
			if r := p.published[p.heard]; r.Subject == schemas.SubjectHeartbeat && proto.Unmarshal(r.Data, &m) == nil {
				out := p.standby.Beat(p.now, &m)
				if out.Reread != "" {
					rereads++
				}
				for _, e := range out.Events {
					differ += map[string]int{"standby_differs": 1}[e.GetKind()]
					agree += map[string]int{"standby_agrees": 1}[e.GetKind()]
				}
			}
		}
	}
	for range 60 {
		hear()
	}
	if rereads != 1 || differ != 1 || agree != 0 {
		t.Fatalf("%d times all was to be read anew, %d differences and %d agreements told, want 1, 1 and 0", rereads, differ, agree)
	}
	memory := p.standby.Memory()
	p.join(Options{})
	p.standby.Remember(memory)
	for range 3 {
		hear()
	}
	if rereads != 1 || differ != 1 || agree != 1 || !p.standby.Agrees() {
		t.Errorf("in the end %d rereads, %d differences and %d agreements, in step: %t; want 1, 1, 1 and that", rereads, differ, agree, p.standby.Agrees())
	}
}

// A heartbeat that comes after a later one changes nothing.
func TestALateHeartbeatIsPassedOver(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(3, 2)...)
	p.settled()
	late := p.beat()
	p.change(serviceFact(1)) // says nothing new
	p.settled()
	p.do2(p.standby.Beat(p.now, late))
	p.stays()
}

// A record waits for its facts also while somebody holds, and no longer than until they come.
func TestARecordIsReadWhenItsFactsComeDuringAHold(t *testing.T) {
	p := newPair(t, Options{}, shopFacts(3, 2)...)
	p.settled()
	before := p.core.Revision()
	p.change(sliceFact(1, 0, 5, p.now))
	p.pass(time.Second)
	p.state(0)
	p.follow(0)
	if m := p.rollBack(before); !m.GetDone() {
		t.Fatal(m.GetText())
	}
	p.follow(0)
	p.resume()
	p.change(sliceFact(2, 0, 6, p.now))
	p.pass(time.Second)
	p.follow(0)
	p.state(0)
	if left := len(p.standby.standby.records); left != 0 || p.standby.Revision() != p.core.Revision() {
		t.Errorf("%d records wait, the standby is at revision %d, the leader at %d", left, p.standby.Revision(), p.core.Revision())
	}
}
