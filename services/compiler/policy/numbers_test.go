// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// TestWhoBeganLateGivesTheSameNumbers has an engine that has only just loaded state and rows make the same change as one
// that has seen everything: each stage comes to the same rows, numbers included.
//
// Fault 14: a standby that joined late compiles what its leader compiles.
func TestWhoBeganLateGivesTheSameNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, w := draw{t}, newWorld()
		var last model.IdentityID
		for range rapid.IntRange(1, 12).Draw(t, "groups") {
			late := &world{w.db, New(Limits{}), maps.Clone(w.tables)}
			for node, tables := range w.tables {
				late.tables[node] = tables.Clone()
			}
			w.engine.CountFrom(last)
			late.engine.CountFrom(last)
			late.engine.Load(w.db.Snapshot(), late.tables)
			var facts []*schemas.Fact
			for range rapid.IntRange(1, 6).Draw(t, "facts") {
				if d.one(2) {
					facts = append(facts, d.policy())
				} else {
					facts = append(facts, d.world())
				}
			}
			changed := w.changes(t, facts...)
			ours, theirs := w.engine.Update(w.db.Snapshot(), changed), late.engine.Update(w.db.Snapshot(), changed)
			if len(ours) != len(theirs) {
				t.Fatalf("%d stages, and %d of who began late", len(ours), len(theirs))
			}
			for i := range ours {
				last = newest(last, ours[i])
				w.take(t, ours[i])
				late.take(t, theirs[i])
				if diff := cmp.Diff(w.tables, late.tables, compare); diff != "" {
					t.Fatalf("stage %d (-who saw all +who began late):\n%s", i, diff)
				}
			}
		}
	})
}

// newest returns the highest number that was put.
func newest(last model.IdentityID, s Stage) model.IdentityID {
	for _, change := range s {
		for _, row := range change.Put.Peers {
			last = max(last, row.Identity)
		}
		for _, row := range change.Put.Blocks {
			last = max(last, row.Identity)
		}
	}
	return last
}

// A class that no node has rows of uses up no number.
func TestWhoIsKnownNowhereHasNoNumber(t *testing.T) {
	w := newWorld()
	for i := range 5 {
		w.follow(t, client(i, map[string]string{"role": fmt.Sprint(i)}), allowing(fmt.Sprint("p", i), 80, labelled("role", fmt.Sprint(i))))
	}
	if n, _ := w.engine.Counts(); n != 5 || w.engine.next != 0 {
		t.Errorf("%d classes, and number %d was given, want 5 and none: no pod is selected", n, w.engine.next)
	}
	w.follow(t, podOn("n1", "server", "10.0.0.1", map[string]string{"app": "server"}))
	if n := len(w.identities()); n != 5 || w.engine.next != 5 {
		t.Errorf("%d identities, and number %d was given, want 5 and 5", n, w.engine.next)
	}
}
