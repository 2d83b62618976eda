// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func syncAt(node string, l model.Layer, p model.Position) []byte {
	return marshal(&schemas.SyncRequest{Node: node, Positions: []*schemas.Position{wire.PositionToProto(l, p)}})
}

// Fault 5: a log that was restored from a backup may stand where nothing of a layer differs and all the same below what a
// node holds.
func TestALayerBelowANodesIsLifted(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	w.restart(Options{})
	w.facts(shopFacts(3, 2)...)
	w.ready()
	w.pass(time.Second)
	l := model.NodeLayer("n1")
	ours := w.core.Position(l)
	node := model.Position{Epoch: ours.Epoch, Revision: ours.Revision + 40, Digest: model.Digest{1}}
	if ours.Epoch >= w.core.epoch {
		t.Fatalf("the layer is at %v, want an epoch before %d: it hasn't changed", ours, w.core.epoch)
	}
	w.forget()
	w.do(w.core.Sync(w.now, nil, syncAt("n1", l, node)))
	if r := w.replies(); len(r) != 1 || !strings.Contains(r[0].GetRefused(), "goes above") {
		t.Errorf("the node is told %v", r)
	}
	w.pass(100 * time.Millisecond)
	lifted := w.core.Position(l)
	if lifted.Epoch != w.core.epoch || lifted.Revision != node.Revision+1 || lifted.Digest != ours.Digest {
		t.Errorf("the layer is at %v, want above %v with the same rows", lifted, node)
	}
	if d := w.heard(l); len(d) != 1 || d[0].GetPut() != nil && len(d[0].GetPut().GetEndpoints()) > 0 {
		t.Errorf("%d deltas, want one without rows", len(d))
	}
	w.checkConverged()
	w.pass(time.Second)
	w.forget()
	w.do(w.core.Sync(w.now, nil, syncAt("n1", l, node)))
	if r := w.replies(); r[0].GetRefused() != "" {
		t.Errorf("then the node is told %v", r)
	}
}

// Fault 13: nodes that lie about where they are make no more than one revision in a while.
func TestNodesThatLieLiftSeldom(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	w.restart(Options{})
	w.facts(shopFacts(3, 2)...)
	w.ready()
	w.pass(time.Second)
	before := w.core.Revision()
	for range 100 {
		lie := w.core.Position(model.ClusterLayer)
		lie.Revision++
		report := &schemas.Applied{Node: "n1", Positions: []*schemas.Position{wire.PositionToProto(model.ClusterLayer, lie)}}
		if lie.Revision > w.core.Revision() {
			lie.Epoch--
		}
		if _, err := w.core.Applied(w.now, "n1", marshal(report)); err != nil {
			t.Fatal(err)
		}
		w.pass(100 * time.Millisecond)
	}
	if n := w.core.Revision() - before; n > 2 {
		t.Errorf("%d revisions in 10 s, want at most 2", n)
	}
}

func TestANodeBeyondOurOwnEpochShowsAnotherLog(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	beyond := model.Position{Epoch: w.core.epoch, Revision: w.core.Revision() + 10}
	w.do(w.core.Sync(w.now, nil, syncAt("n1", model.ClusterLayer, beyond)))
	if want := (Outranked{"n1", w.core.epoch, beyond.Revision}); w.outranked == nil || *w.outranked != want {
		t.Errorf("outranked %v, want %v", w.outranked, want)
	}
}

// Fault 13: a node that says again and again that it is beyond the log is heeded three times, then once in ten minutes; that
// takes nothing from what others say.
func TestALiarsWordIsSpent(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	w.restart(Options{})
	w.facts(shopFacts(3, 2)...)
	w.ready()
	w.pass(time.Second)
	says := func(node string) (lifted bool) {
		t.Helper()
		beyond := w.core.Position(model.ClusterLayer)
		beyond.Epoch, beyond.Revision = w.core.epoch-1, w.core.Revision()+5
		if p := w.core.Position(model.ClusterLayer); p.Epoch >= beyond.Epoch {
			beyond.Epoch, beyond.Revision = p.Epoch, p.Revision+5
		}
		before := w.core.Revision()
		w.core.lift(w.now, node, map[model.Layer]model.Position{model.ClusterLayer: beyond})
		w.pass(liftEvery + time.Second)
		return w.core.Revision() > before
	}
	for i := range 10 {
		if got, want := says("n1"), i < 3; got != want {
			t.Errorf("time %d: its word is heeded: %v, want %v", i, got, want)
		}
	}
	if !says("n2") {
		t.Error("another node's word isn't heeded")
	}
	w.pass(toLift.refill)
	if !says("n1") {
		t.Error("after a while its word isn't heeded")
	}
}
