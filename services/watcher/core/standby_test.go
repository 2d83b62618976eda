// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

func standingBy() *Core {
	return New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: DefaultMaxDeleteShare, Versioned: true, Started: started})
}

func at(version string, fact *schemas.Fact) *schemas.Fact {
	fact.Object.ResourceVersion = version
	return fact
}

// know tells a Core what a leader has published.
func know(c *Core, e Effects) {
	for _, p := range e.Publish {
		c.Known(p.Fact, 1)
	}
}

// Promise P3: a standby that has seen all that the leader has takes over without publishing an object.
func TestAStandbyTakesOverWithNothingToSay(t *testing.T) {
	leader, standby := newCore(), standingBy()
	for _, in := range []Input{
		list(pods(20)...),
		Upsert{at("2", pod("p03", "n2"))},
		Delete{at("3", pod("p04", "n")).Object},
		Refusal{Object: at("4", pod("p05", "")).Object, Reason: "bad"},
		List{Kinds: kinds, Facts: pods(18), Incomplete: "test"},
	} {
		expect(t, standby.Step(now, in), "")
		know(standby, leader.Step(now, in))
	}
	expect(t, standby.Lead(now, 2), "+Complete state")
}

// Fault 2: what changed while nobody led is published by the next leader, and only that.
func TestAStandbyPublishesWhatChangedWhileNobodyLed(t *testing.T) {
	leader, standby := newCore(), standingBy()
	first := list(pods(20)...)
	know(standby, leader.Step(now, first))
	standby.Step(now, first)
	standby.Step(now, Upsert{at("2", pod("p03", "n2"))})
	standby.Step(now, Delete{at("3", pod("p04", "n")).Object})
	standby.Step(now.Add(time.Second), Upsert{at("4", pod("new", "n"))})
	e := expect(t, standby.Lead(now.Add(time.Minute), 2), "+Pod a/new +Pod a/p03 -Pod a/p04 +Complete state")
	if got := e.Publish[0].Fact.GetTriggerTime().AsTime(); !got.Equal(now.Add(time.Second)) {
		t.Errorf("the change is dated %v, want when the standby saw it", got)
	}
	expect(t, standby.Step(now, Upsert{at("5", pod("p05", "n2"))}), "+Pod a/p05")
}

// Fault 6: a replica of the API server that is behind doesn't take STATE back to what was before.
func TestASourceThatIsBehindStateChangesNothing(t *testing.T) {
	c := standingBy()
	c.Known(at("7", pod("p", "new")), 1)
	c.Known(at("8", pod("q", "new")), 2)
	c.Known(at("6", pod("gone", "n")), 3)
	c.Step(now, List{Kinds: kinds, Facts: []*schemas.Fact{at("5", pod("p", "old"))}, Version: "6"})
	expect(t, c.Lead(now, 2), "-Pod a/gone +Complete state") // p and q are newer than the list, q isn't in it yet
	if got := c.Owed(); len(got) != 2 {
		t.Errorf("owed: %v, want p and q", got)
	}
	expect(t, c.Step(now, Upsert{at("7", pod("p", "new"))}), "")
	expect(t, c.Step(now, Upsert{at("9", pod("q", "newer"))}), "+Pod a/q")
	if got := c.Owed(); len(got) != 0 {
		t.Errorf("still owed: %v", got)
	}
}

// Fault 6: an API server whose etcd was restored from a backup has older versions than STATE, and is right.
func TestASourceThatWentBackIsBelievedOnceItIsListedAnew(t *testing.T) {
	c := standingBy()
	for _, fact := range pods(10) {
		c.Known(at("100", fact), 1)
	}
	c.Step(now, List{Kinds: kinds, Facts: append(pods(8), pod("new", "n")), Version: "50"})
	expect(t, c.Lead(now, 2), "+Pod a/new +Complete state")
	expect(t, c.Trust(now), "!source_behind")
	expect(t, c.Step(now, List{Kinds: kinds, Facts: append(pods(8), pod("new", "n")), Version: "51"}), "-Pod a/p08 -Pod a/p09")
}

func TestWhatAnotherHasChangedInStateIsAskedForAnew(t *testing.T) {
	c := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: 1})
	c.Known(pod("p", "n"), 1)
	c.Step(now, list(pod("p", "n")))
	c.Known(pod("p", "other"), 2)
	expect(t, c.Lead(now, 2), "")
	if got := c.Owed(); len(got) != 1 || c.Complete() {
		t.Errorf("owed: %v, complete %v", got, c.Complete())
	}
	c.Trust(now)
	expect(t, c.Step(now, list(pod("p", "n"))), "+Pod a/p +Complete state")
}

func TestAStandbyHoldsDeletionsThatAListLacksAndDoesThoseThatWereSeen(t *testing.T) {
	c := standingBy()
	for _, fact := range pods(40) {
		c.Known(fact, 1)
	}
	c.Step(now, list(pods(40)...))
	for _, fact := range pods(15) {
		c.Step(now, Delete{at("2", fact).Object})
	}
	c.Step(now, List{Kinds: kinds, Version: "3"})
	expect(t, c.Lead(now, 2), "+Complete state !deletions_held") // the list came after them: it lacks all 40
	if got := c.Held().GetDeletions(); got != 40 {
		t.Errorf("%d are held, want 40", got)
	}
}

func TestAStandbyTellsOnceItLeadsWhatIsSetAside(t *testing.T) {
	c := standingBy()
	closed := pod("policy", "closed")
	expect(t, c.Step(now, List{Kinds: kinds, Refused: []Refusal{
		{Object: pod("bad", "").Object, Reason: "bad"}, {Object: closed.Object, Reason: "worse", Closed: closed},
	}}), "")
	expect(t, c.Lead(now, 2), "+Pod a/policy +Complete state !object_set_aside !object_set_aside")
}

func TestVersionsAreComparedAsNumbers(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"9", "10", true},
		{"10", "9", false},
		{"10", "10", false},
		{"", "1", true},
		{"1", "", false},
		{"", "", false},
		{"a", "b", false},
		{"01", "2", false},
		{"18446744073709551616", "18446744073709551617", true},
	} {
		if got := older(test.a, test.b); got != test.want {
			t.Errorf("older(%q, %q) = %v", test.a, test.b, got)
		}
	}
}

func TestHowFarStateMustBeReadToHaveAnObject(t *testing.T) {
	c := newCore()
	refs := map[string]*schemas.ObjectRef{}
	for _, name := range []string{"p", "gone", "never", "bad", "late"} {
		refs[name] = &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: name}
	}
	e := c.Step(now, List{Kinds: kinds, Facts: []*schemas.Fact{at("3", pod("gone", "n")), at("4", pod("p", "n"))}, Version: "5"})
	if got := c.Seen(refs["p"], Sighting{Version: "4"}); got.GetStateSequence() != 0 {
		t.Errorf("before it was appended: %v", got)
	}
	c.Stored(e.Publish, 12)
	c.Step(now, Refusal{Object: at("6", pod("bad", "")).Object, Reason: "Pod a/bad: no"})
	for name, test := range map[string]struct {
		of   string
		at   Sighting
		want *schemas.SeenReply
	}{
		"as it is":               {"p", Sighting{Version: "4"}, &schemas.SeenReply{StateSequence: 11, ResourceVersion: "4"}},
		"the watch is behind":    {"p", Sighting{Version: "7"}, nil},
		"it is gone, not yet":    {"gone", Sighting{Gone: true}, nil},
		"it never was":           {"never", Sighting{Gone: true}, &schemas.SeenReply{StateSequence: 12, Unknown: true}},
		"it is new, not yet":     {"late", Sighting{Version: "8"}, nil},
		"it can't be used":       {"bad", Sighting{Version: "6"}, &schemas.SeenReply{Refused: "Pod a/bad: no" + asideText}},
		"without a version":      {"p", Sighting{}, &schemas.SeenReply{StateSequence: 11, ResourceVersion: "4"}},
		"everything told so far": {"", Sighting{}, &schemas.SeenReply{StateSequence: 12}},
	} {
		if got := c.Seen(refs[test.of], test.at); !proto.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
	e = c.Step(now, Upsert{at("7", pod("p", "n"))}) // nothing that matters
	if got := c.Seen(refs["p"], Sighting{Version: "7"}); got.GetStateSequence() != 11 || got.GetResourceVersion() != "7" || len(e.Publish) > 0 {
		t.Errorf("after a change that decides nothing: %v", got)
	}
}

// Fault 5: STATE forgets tombstones after a day; that it is complete is said more often, so that its newest message is never
// one that has gone. Soon after it was said first it is said again, for who waits for a time by another clock.
func TestACompleteStateIsSaidToBeSoAgain(t *testing.T) {
	c := New(Options{Source: "test", Kinds: kinds, Started: started})
	c.Lead(now, 1)
	c.Step(now, list(pod("a", "n")))
	for _, test := range []struct {
		after time.Duration
		want  string
	}{
		{completeSoon / 2, ""},
		{completeSoon, "+Complete state"},
		{2 * completeSoon, ""},
		{3 * completeSoon, "+Complete state"},
		{completeEvery, "+Complete state"},
		{completeEvery + completeSoon, ""},
		{3 * completeEvery, "+Complete state"},
	} {
		if got := said(c.Renew(now.Add(test.after))); got != test.want || !c.Complete() {
			t.Errorf("after %v it says %q, want %q", test.after, got, test.want)
		}
	}
}
