// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// holding returns a Core that holds the deletion of p05 to p19 of 20 pods.
func holding(t *testing.T) *Core {
	t.Helper()
	c := newCore()
	c.Step(now, list(pods(20)...))
	expect(t, c.Step(now, list(pods(5)...)), "!deletions_held")
	return c
}

// Fault 6: a list that lacks too much at once deletes nothing, and says so.
func TestAListThatLacksTooMuchDeletesNothingAndSaysSo(t *testing.T) {
	c := newCore()
	c.Step(now, list(pods(20)...))
	facts := append(pods(5), pod("new", "n"))
	e := expect(t, c.Step(now, list(facts...)), "+Pod a/new !deletions_held")
	id := c.Held().GetId()
	want := "A list from test lacks 15 of 21 Pod objects, the first being Pod a/p05, and that is more than the share of 0.5 that one list may delete. " +
		"Nothing is deleted, everything else goes on. If they are meant to be gone, run: deltaplane approve " + id
	if got := e.Events[0].GetText(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if h := c.Held(); h.GetDeletions() != 15 || h.GetObjects() != 21 || !h.GetSince().AsTime().Equal(now) {
		t.Errorf("held: %v", h)
	}
	expect(t, c.Step(now.Add(time.Hour), list(facts...)), "") // said once
	if h := c.Held(); h.GetId() != id || !h.GetSince().AsTime().Equal(now) {
		t.Errorf("held since then: %v", h)
	}
}

func TestOneKindGoneIsHeldHoweverMuchThereIsOfOthers(t *testing.T) {
	c := newCore()
	var facts []*schemas.Fact
	for name := range strings.FieldsSeq("a b c d e f g h i j k") {
		facts = append(facts, &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "Namespace", Name: name}, State: &schemas.Fact_Namespace{Namespace: &schemas.Namespace{}},
		})
	}
	c.Step(now, list(append(facts, pods(90)...)...))
	expect(t, c.Step(now, list(pods(90)...)), "!deletions_held")
	expect(t, c.Step(now, list(append(facts, pods(90)...)...)), "!deletions_released")
}

func TestApprovedDeletionsArePublished(t *testing.T) {
	c := holding(t)
	id := c.Held().GetId()
	e, reply := c.Approve(now, id)
	if !reply.GetApproved() || reply.GetText() != "15 deletions that were held as "+id+" are published now" {
		t.Errorf("reply: %v", reply)
	}
	if len(e.Publish) != 15 || !e.Publish[0].Tombstone() || c.Held() != nil {
		t.Errorf("published %d, held %v", len(e.Publish), c.Held())
	}
	expect(t, c.Step(now, list(pods(5)...)), "")
}

func TestApprovalNeedsTheRightId(t *testing.T) {
	c := holding(t)
	for _, id := range []string{"", "00000000"} {
		if e, reply := c.Approve(now, id); reply.GetApproved() || len(e.Publish) > 0 || !strings.Contains(reply.GetText(), c.Held().GetId()) {
			t.Errorf("id %q: %v", id, reply)
		}
	}
	if _, reply := newCore().Approve(now, ""); reply.GetApproved() || reply.GetText() != "no deletions are held: nothing waits for approval" {
		t.Errorf("with nothing held: %v", reply)
	}
}

func TestWhatComesBackIsHeldNoMore(t *testing.T) {
	c := holding(t)
	id := c.Held().GetId()
	expect(t, c.Step(now, Upsert{pod("p05", "n")}), "")
	expect(t, c.Step(now, Delete{pod("p06", "").Object}), "-Pod a/p06")
	if h := c.Held(); h.GetDeletions() != 13 || h.GetId() != id {
		t.Errorf("held: %v, want 13 under the same id", h)
	}
	expect(t, c.Step(now, list(pods(20)...)), "+Pod a/p06 !deletions_released")
	if c.Held() != nil {
		t.Errorf("held: %v", c.Held())
	}
}

func TestMoreHeldDeletionsNeedAnotherApproval(t *testing.T) {
	c := holding(t)
	id := c.Held().GetId()
	expect(t, c.Step(now, list(pods(4)...)), "!deletions_held")
	if h := c.Held(); h.GetDeletions() != 16 || h.GetId() == id {
		t.Errorf("held: %v, want 16 under another id", h)
	}
}

func TestHeldDeletionsAreDoneOnceTheyAreFewEnough(t *testing.T) {
	c := holding(t)
	expect(t, c.Step(now, list(pods(18)...)), "-Pod a/p18 -Pod a/p19 !deletions_released")
}

// Fault 6: nor does an empty list that a watcher begins with.
func TestAnEmptyListAfterARestartIsHeld(t *testing.T) {
	c := newCore()
	for _, fact := range pods(500) {
		c.Known(fact, 1)
	}
	expect(t, c.Step(now, List{Kinds: kinds, Version: "9"}), "+Complete state !deletions_held")
}

func TestAtShareOneNothingIsHeld(t *testing.T) {
	c := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: 1, Started: started})
	c.Lead(now, 1)
	c.Step(now, list(pods(20)...))
	if e := c.Step(now, list()); len(e.Publish) != 20 || c.Held() != nil {
		t.Errorf("published %d, held %v", len(e.Publish), c.Held())
	}
}
