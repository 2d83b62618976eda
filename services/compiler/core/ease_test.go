// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// hurry changes a Service 20 times a second, for some seconds, and has the first nodes report each second that they are where
// they were at the beginning, the others that they have all. It returns how many revisions there were in each second.
func (w *world) hurry(seconds, stuck, nodes int) (revisions []int) {
	w.t.Helper()
	old := w.core.Position(model.ClusterLayer)
	for second := range seconds {
		w.commits = nil
		for i := range 20 {
			w.facts(sliceFact(1, second*20+i, 3, w.now))
			w.pass(50 * time.Millisecond)
		}
		revisions = append(revisions, len(w.commits))
		for i := range stuck {
			node := fmt.Sprintf("node-%04d", i)
			report := &schemas.Applied{Node: node, Sent: timestamp(w.now), Positions: wire.PositionsToProto(map[model.Layer]model.Position{
				model.ClusterLayer: old, model.NodeLayer(node): w.core.Position(model.NodeLayer(node)),
			})}
			if _, err := w.core.Applied(w.now, node, marshal(report)); err != nil {
				w.t.Fatalf("%v", err)
			}
		}
		w.reported(stuck, nodes)
	}
	return revisions
}

// Fault 8: nodes that can't keep up, most of them, are told less often, and at once as before when they can.
// Fault 11: more changes than bus and nodes can take come as fewer messages, with all that counts.
func TestNodesThatCantKeepUpAreToldLessOften(t *testing.T) {
	w := crowd(t, 100)
	w.reported(0, 100)
	usual := w.hurry(10, 0, 100)
	if got := usual[9]; got < 14 || got > 16 {
		t.Fatalf("%d revisions in a second when all keep up, want 15 or so: %v", got, usual)
	}
	w.events = nil
	eased := w.hurry(30, 60, 100)
	last := 0
	for _, n := range eased[20:] {
		last += n
	}
	if last < 1 || last > 4 {
		t.Errorf("%d revisions in the last ten seconds while 60 of 100 can't keep up, want two or three: %v", last, eased)
	}
	if w.event("fleet_behind") == nil {
		t.Error("nobody was told that the nodes can't keep up")
	}
	again := w.hurry(45, 0, 100)
	if got := again[44]; got < 14 || got > 16 {
		t.Errorf("%d revisions in a second when all keep up again, want 15 or so: %v", got, again)
	}
	w.pass(time.Second)
	w.checkConverged()
}

// Fault 8: nodes that can't keep up delay nobody as long as they aren't most.
func TestSomeSlowNodesDelayNobody(t *testing.T) {
	w := crowd(t, 100)
	w.reported(0, 100)
	got := w.hurry(30, 50, 100)
	if n := got[29]; n < 14 || n > 16 {
		t.Errorf("%d revisions in a second while 50 of 100 can't keep up, want 15 or so: %v", n, got)
	}
}
