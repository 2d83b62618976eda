// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

var (
	started = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	now     = started.Add(time.Minute)
	kinds   = []string{"Namespace", "Pod"}
)

func newCore() *Core {
	c := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: DefaultMaxDeleteShare, Versioned: true, Started: started})
	c.Lead(now, 1)
	return c
}

func pod(name, node string) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: name, Uid: "uid-" + name, ResourceVersion: "1"},
		State:  &schemas.Fact_Pod{Pod: &schemas.Pod{Node: node}},
	}
}

func pods(n int) (facts []*schemas.Fact) {
	for i := range n {
		facts = append(facts, pod(fmt.Sprintf("p%02d", i), "n"))
	}
	return facts
}

func list(facts ...*schemas.Fact) List { return List{Kinds: kinds, Facts: facts} }

// said tells effects in words: "+Pod a/p" published, "-Pod a/p" deleted, "!kind" an event.
func said(e Effects) string {
	var words []string
	for _, p := range e.Publish {
		sign := "+"
		if p.Tombstone() {
			sign = "-"
		}
		words = append(words, sign+KeyOf(p.Fact.GetObject()).String())
	}
	for _, event := range e.Events {
		words = append(words, "!"+event.GetKind())
	}
	return strings.Join(words, " ")
}

func expect(t *testing.T, e Effects, want string) Effects {
	t.Helper()
	if got := said(e); got != want {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
	return e
}

func TestTheFirstCompleteListIsPublishedAndThenSaidToBeComplete(t *testing.T) {
	c := newCore()
	expect(t, c.Step(now, List{Kinds: []string{"Pod"}, Facts: pods(2)}), "+Pod a/p00 +Pod a/p01")
	if c.Complete() {
		t.Error("complete though namespaces were not listed")
	}
	e := expect(t, c.Step(now, List{Kinds: []string{"Namespace"}}), "+Complete state")
	if got := e.Publish[0].Fact.GetComplete(); got.GetSource() != "test" || got.GetObjects() != 2 {
		t.Errorf("complete says %v", got)
	}
	if !c.Complete() {
		t.Error("not complete though all kinds were listed")
	}
	expect(t, c.Step(now, List{Kinds: []string{"Namespace"}}), "")
}

func TestWhatChangesNothingForPacketsIsNotPublished(t *testing.T) {
	c := newCore()
	c.Step(now, list(pod("p", "n")))
	touched := pod("p", "n")
	touched.Object.ResourceVersion = "2"
	touched.Manager = "kubelet"
	touched.TriggerTime = timestamppb.New(now)
	if e := expect(t, c.Step(now, Upsert{touched}), ""); e.Suppressed != 1 {
		t.Errorf("%d suppressed, want 1", e.Suppressed)
	}
	again := pod("p", "n")
	again.Object.Uid = "another"
	expect(t, c.Step(now, Upsert{again}), "+Pod a/p")
}

func TestARestartWithNothingNewPublishesNothing(t *testing.T) {
	before := newCore()
	first := before.Step(now, list(append(pods(3), &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Namespace", Name: "a"},
		State:  &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: map[string]string{"x": "1", "y": "2", "z": "3"}}},
	})...))
	after := newCore()
	for _, p := range first.Publish {
		var stored schemas.Fact
		if err := proto.Unmarshal(p.Data, &stored); err != nil {
			t.Fatal(err)
		}
		after.Known(&stored, 1)
	}
	facts := append(pods(3), &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Namespace", Name: "a"},
		State:  &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: map[string]string{"z": "3", "y": "2", "x": "1"}}},
	})
	expect(t, after.Step(now.Add(time.Hour), list(facts...)), "+Complete state")
}

// Whoever reads a STATE with the Complete of an earlier epoch knows that nobody has compared it with the source since.
func TestEachEpochSaysAnewThatStateIsComplete(t *testing.T) {
	c := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: 1})
	c.Known(&schemas.Fact{
		Object: completeKey.ref(), State: &schemas.Fact_Complete{Complete: &schemas.Complete{Source: "test", Epoch: 6}},
	}, 1)
	expect(t, c.Lead(now, 7), "")
	e := expect(t, c.Step(now, list()), "+Complete state")
	if got := e.Publish[0].Fact.GetComplete().GetEpoch(); got != 7 {
		t.Errorf("complete in epoch %d, want 7", got)
	}
	expect(t, c.Step(now, list()), "")
}

func TestATombstoneNamesWhatIsGone(t *testing.T) {
	c := newCore()
	c.Step(now, list(pod("p", "n")))
	e := expect(t, c.Step(now, Delete{&schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: "p", ResourceVersion: "9"}}), "-Pod a/p")
	want := &schemas.Fact{
		Object:      &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: "p", Uid: "uid-p", ResourceVersion: "9"},
		TriggerTime: timestamppb.New(now),
	}
	if diff := cmp.Diff(want, e.Publish[0].Fact, protocmp.Transform()); diff != "" {
		t.Errorf("tombstone (-want +got):\n%s", diff)
	}
	expect(t, c.Step(now, Delete{&schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: "p"}}), "")
}

func TestAnObjectGoneInStateIsPublishedWhenItComesBack(t *testing.T) {
	c := newCore()
	c.Known(pod("p", "n"), 1)
	c.Known(&schemas.Fact{Object: pod("p", "").Object}, 2)
	expect(t, c.Step(now, Upsert{pod("p", "n")}), "+Pod a/p")
}

func TestACompleteListDeletesWhatItLacks(t *testing.T) {
	c := newCore()
	c.Step(now, list(pods(10)...))
	expect(t, c.Step(now, List{Kinds: []string{"Namespace"}}), "")
	expect(t, c.Step(now, List{Kinds: kinds, Incomplete: "a file can't be read"}), "")
	expect(t, c.Step(now, list(pods(8)...)), "-Pod a/p08 -Pod a/p09")
	expect(t, c.Step(now, list()), "-Pod a/p00 -Pod a/p01 -Pod a/p02 -Pod a/p03 -Pod a/p04 -Pod a/p05 -Pod a/p06 -Pod a/p07")
}

func TestTheTriggerIsTheObjectsOwnTimeIfThatCanBe(t *testing.T) {
	carried := started.Add(30 * time.Second)
	for name, test := range map[string]struct{ first, second, want time.Time }{
		"none":                          {want: now},
		"new":                           {second: carried, want: carried},
		"still that of the last change": {first: carried, second: carried, want: now},
		"before the watcher started":    {second: started.Add(-time.Hour), want: now},
		"in the future":                 {second: now.Add(time.Hour), want: now},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore()
			for i, at := range []time.Time{test.first, test.second} {
				fact := pod("p", fmt.Sprint("n", i))
				if !at.IsZero() {
					fact.TriggerTime = timestamppb.New(at)
				}
				e := c.Step(now, Upsert{fact})
				if got := e.Publish[0].Fact.GetTriggerTime().AsTime(); i == 1 && !got.Equal(test.want) {
					t.Errorf("trigger %v, want %v", got, test.want)
				}
			}
		})
	}
}

// Fault 12: an object that can't be read is set aside by name, and others are published.
func TestAPoisonObjectIsSetAsideAndAllOthersWork(t *testing.T) {
	c := newCore()
	c.Step(now, list(pod("bad", "n"), pod("good", "n")))
	refusal := Refusal{Object: pod("bad", "").Object, Reason: "Pod a/bad: status.podIPs[0].ip: \"x\" is no IP address"}

	e := expect(t, c.Step(now, List{Kinds: kinds, Facts: []*schemas.Fact{pod("good", "n2")}, Refused: []Refusal{refusal}}),
		"+Pod a/good !object_set_aside")
	want := `Pod a/bad: status.podIPs[0].ip: "x" is no IP address. The object is set aside, what was known of it before stays, and all others go on`
	if got := e.Events[0].GetText(); got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	if got := c.SetAside(); len(got) != 1 || got[0].GetReason() != refusal.Reason || got[0].GetObject().GetName() != "bad" {
		t.Errorf("set aside: %v", got)
	}
	expect(t, c.Step(now, refusal), "")
	expect(t, c.Step(now, Upsert{pod("bad", "n3")}), "+Pod a/bad !object_accepted")
	expect(t, c.Step(now, refusal), "!object_set_aside")
	expect(t, c.Step(now, list(pod("good", "n2"))), "-Pod a/bad !object_accepted")
	if got := c.SetAside(); len(got) != 0 {
		t.Errorf("still set aside: %v", got)
	}
}

// Policy row 9: a policy that can't be read closes what it may select, unless it is known from before.
func TestARefusedPolicyCloses(t *testing.T) {
	c := newCore()
	closed := pod("policy", "closed")
	refusal := Refusal{Object: closed.Object, Reason: "bad", Closed: closed}
	expect(t, c.Step(now, List{Kinds: kinds, Refused: []Refusal{refusal}}), "+Pod a/policy +Complete state !object_set_aside")
	expect(t, c.Step(now, List{Kinds: kinds, Refused: []Refusal{refusal}}), "")
	expect(t, c.Step(now, list(pod("policy", "good"))), "+Pod a/policy !object_accepted")
	expect(t, c.Step(now, refusal), "!object_set_aside") // and the good one stays
	expect(t, c.Step(now, list()), "-Pod a/policy !object_accepted")
}

func TestAFactTooLargeForTheBusIsSetAside(t *testing.T) {
	c := newCore()
	huge := pod("huge", "n")
	huge.GetPod().Labels = map[string]string{"a": strings.Repeat("x", schemas.MaxMessageBytes)}
	e := expect(t, c.Step(now, list(huge, pod("p", "n"))), "+Pod a/p +Complete state !object_set_aside")
	if got := e.Events[0].GetText(); !strings.HasPrefix(got, "Pod a/huge: what a data plane needs of it is 1044535 bytes, "+
		"more than the 1043456 that one message of the bus holds; split the object") {
		t.Errorf("event %q", got)
	}
}

// An event that doesn't fit the bus would end the watcher's term, again and again, for one bad object.
func TestARefusalTooLongForTheBusIsCut(t *testing.T) {
	c := newCore()
	long := strings.Repeat("x", 2<<20)
	refusal := Refusal{Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: long}, Reason: "Pod a/" + long + ": metadata.name is \xff"}
	for range 2 { // the second reading of the same file tells nothing new
		e := c.Step(now, List{Kinds: kinds, Facts: []*schemas.Fact{pod("good", "n")}, Refused: []Refusal{refusal}})
		for _, event := range e.Events {
			if data, err := proto.Marshal(event); err != nil || len(data) > 4<<10 {
				t.Errorf("an event of %d bytes, %v", len(data), err)
			}
			if got, want := event.GetText(), strings.Repeat("x", 1018)+"… (2097178 bytes). The object is set aside, "; !strings.Contains(got, want) {
				t.Errorf("event %.40q…%.200q", got, got[min(len(got), 1000):])
			}
		}
	}
	if got := c.SetAside(); len(got) != 1 {
		t.Errorf("set aside: %v", got)
	}
	expect(t, c.Step(now, list(pod("good", "n"))), "!object_accepted")
}

func TestAFloodOfBadObjectsIsToldInFewEvents(t *testing.T) {
	c := newCore()
	var refused []Refusal
	for i := range 1000 {
		refused = append(refused, Refusal{Object: pod(fmt.Sprint("p", i), "").Object, Reason: "bad"})
	}
	e := c.Step(now, List{Kinds: kinds, Refused: refused})
	want := "900 more objects are set aside or good again; `deltaplane status` names those that are set aside"
	if n := len(e.Events); n != 101 || e.Events[n-1].GetText() != want {
		t.Errorf("%d events, the last is %v; want 101 and %s", n, e.Events[n-1], want)
	}
	if n := len(c.SetAside()); n != 1000 {
		t.Errorf("%d objects are set aside, want 1000", n)
	}
}

func TestAFactThatIsNoTextIsSetAside(t *testing.T) {
	c := newCore()
	bad := pod("bad", "\xff")
	expect(t, c.Step(now, list(bad)), "+Complete state !object_set_aside")
	c.Known(bad, 1) // can't be compared: published when it is good
	expect(t, c.Step(now, Upsert{pod("bad", "n")}), "+Pod a/bad !object_accepted")
}
