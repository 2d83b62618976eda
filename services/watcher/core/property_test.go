// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// pool is how many pods there may be: enough for deletions to be held.
const pool = 24

// world is a cluster with a watcher and its STATE. Objects are told by their Pod's node.
type world struct {
	t       *rapid.T
	core    *Core
	standby *Core // sees what core sees, and what it publishes
	epoch   uint64
	share   float64
	state   map[Key]*schemas.Fact // what STATE keeps, tombstones too
	objects map[Key]string        // what the source has
	bad     map[Key]bool          // of these, what can't be used
	seen    map[Key]bool          // what the core has last seen to be there
}

// start begins anew, with a watcher that has seen nothing yet.
func (w *world) start() {
	w.standby = w.fresh()
	w.failover()
}

// fresh returns a watcher that knows STATE and nothing of the source.
func (w *world) fresh() *Core {
	c := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: w.share, Started: started})
	for _, fact := range w.state {
		c.Known(fact, 1)
	}
	return c
}

// failover has the standby lead, and another stand by.
func (w *world) failover() {
	w.core, w.standby = w.standby, w.fresh()
	w.epoch++
	w.take(w.core.Lead(now, w.epoch))
}

// step gives both watchers an input.
func (w *world) step(in Input) {
	w.take(w.standby.Step(now, in))
	w.take(w.core.Step(now, in))
}

// take does what the effects ask for, and checks that nothing is said twice.
func (w *world) take(e Effects) {
	for _, p := range e.Publish {
		var fact schemas.Fact
		if err := proto.Unmarshal(p.Data, &fact); err != nil {
			w.t.Fatal(err)
		}
		key := KeyOf(fact.GetObject())
		if before := w.state[key]; before != nil && proto.Equal(trimmed(before), trimmed(&fact)) {
			w.t.Fatalf("published again: %v", &fact)
		}
		if p.Tombstone() && w.seen[key] {
			w.t.Fatalf("deleted though it is there: %s", key)
		}
		w.state[key] = &fact
		w.standby.Known(&fact, 1)
	}
}

func trimmed(fact *schemas.Fact) *schemas.Fact {
	return &schemas.Fact{Object: &schemas.ObjectRef{Uid: fact.GetObject().GetUid()}, State: fact.State}
}

func (w *world) stored() map[Key]string {
	out := map[Key]string{}
	for key, fact := range w.state {
		if fact.GetPod() != nil {
			out[key] = fact.GetPod().GetNode()
		}
	}
	return out
}

func (w *world) input(key Key) Input {
	w.seen[key] = true
	fact := pod(key.Name, w.objects[key])
	if w.bad[key] {
		return Refusal{Object: fact.GetObject(), Reason: "no good"}
	}
	return Upsert{fact}
}

func (w *world) list() List {
	l := List{Kinds: kinds}
	clear(w.seen)
	for key := range w.objects {
		switch in := w.input(key).(type) {
		case Upsert:
			l.Facts = append(l.Facts, in.Fact)
		case Refusal:
			l.Refused = append(l.Refused, in)
		}
	}
	return l
}

func (w *world) act() {
	key := Key{"Pod", "a", fmt.Sprint("p", rapid.IntRange(0, pool-1).Draw(w.t, "pod"))}
	switch rapid.SampledFrom([]string{"put", "put", "put", "spoil", "delete", "miss", "miss", "list", "list", "partial", "restart", "failover", "failover", "approve", "approve"}).Draw(w.t, "act") {
	case "put":
		w.objects[key] = fmt.Sprint("n", rapid.IntRange(0, 2).Draw(w.t, "node"))
		delete(w.bad, key)
		w.step(w.input(key))
	case "spoil":
		if _, there := w.objects[key]; there {
			w.bad[key] = true
			w.step(w.input(key))
		}
	case "delete":
		delete(w.objects, key)
		delete(w.bad, key)
		delete(w.seen, key)
		w.step(Delete{&schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: key.Name}})
	case "miss": // the watch was away: objects come and go unseen
		w.miss(rapid.Uint32().Draw(w.t, "missed"))
	case "list":
		w.step(w.list())
	case "partial":
		before := len(w.stored())
		w.step(List{Kinds: kinds, Incomplete: "test"})
		if after := len(w.stored()); after != before {
			w.t.Fatalf("an incomplete list deleted %d objects", before-after)
		}
	case "restart":
		w.start()
	case "failover":
		w.failover()
	case "approve":
		e, _ := w.core.Approve(now, w.core.Held().GetId())
		w.take(e)
	}
}

// miss makes the objects whose bits are set go if they are there, and come if they aren't.
func (w *world) miss(bits uint32) {
	for i := range pool {
		key := Key{"Pod", "a", fmt.Sprint("p", i)}
		if bits>>i&1 == 0 {
			continue
		}
		if _, there := w.objects[key]; there {
			delete(w.objects, key)
			delete(w.bad, key)
		} else {
			w.objects[key] = "n9"
		}
	}
}

func TestAnyRoadLeadsToTheLastState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			t: t, state: map[Key]*schemas.Fact{}, objects: map[Key]string{}, bad: map[Key]bool{}, seen: map[Key]bool{},
			share: rapid.SampledFrom([]float64{0, 0.2, DefaultMaxDeleteShare, 1}).Draw(t, "share"),
		}
		w.start()
		for range rapid.IntRange(50, 200).Draw(t, "acts") {
			w.act()
		}
		clear(w.bad) // in the end everything is good, listed and approved
		w.step(w.list())
		if held := w.core.Held(); held != nil {
			e, reply := w.core.Approve(now, held.GetId())
			if !reply.GetApproved() {
				t.Fatal(reply)
			}
			w.take(e)
		}
		if diff := cmp.Diff(w.objects, w.stored()); diff != "" {
			t.Fatalf("STATE (-want +got):\n%s", diff)
		}
		if got := w.core.Objects()["Pod"]; got != len(w.objects) {
			t.Fatalf("%d objects counted, want %d", got, len(w.objects))
		}
		before := maps.Clone(w.state)
		w.start()
		w.step(w.list())
		if len(before) != len(w.state) {
			t.Fatal("a restart with nothing new published something")
		}
	})
}
