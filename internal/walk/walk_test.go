// SPDX-License-Identifier: Apache-2.0

package walk_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/walk"
)

// anyRows draws rows of several tables, so that addresses and ids stand in more than one.
func anyRows(t *rapid.T, label string) (rows model.Rows) {
	most := rapid.SampledFrom([]int{3, 40, 400}).Draw(t, label+" most")
	ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 1000), 0, most, rapid.ID[int]).Draw(t, label)
	generation := rapid.IntRange(0, 1).Draw(t, "generation")
	for _, id := range ids {
		switch part := endpoints(id, 1); id % 5 {
		case 0:
			rows.Append(&part)
		case 1:
			rows.Members = append(rows.Members, part.Members...)
		case 2:
			rows.Peers = append(rows.Peers, model.Peer{Addr: netip.AddrFrom4([4]byte{10, 1, byte(id >> 8), byte(id)}), Identity: model.IdentityID(1 + generation)})
		case 3:
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(id >> 8), byte(id), 0}), 24)
			rows.Blocks = append(rows.Blocks, model.Block{Prefix: p, Identity: 7})
			rows.Networks = append(rows.Networks, model.Network{Prefix: p, Kind: model.NetworkPods})
		default:
			more := pods(generation, id)
			rows.Append(&more)
		}
	}
	return rows
}

func tablesOf(rows model.Rows) *model.Tables {
	t := model.NewTables()
	t.Apply(&model.Change{Put: rows}, model.Digest{})
	return t
}

// Promise P1: whatever a node holds, it comes to what the compiler has, and what it is told is bounded by both.
func TestAnyRowsComeToAnyOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := tablesOf(anyRows(t, "held"))
		r := newReplica(anyRows(t, "wanted"), 0)
		room := rapid.SampledFrom([]int{1, 500, 1 << 18}).Draw(t, "room")
		w := walk.New(r.Layer, held)
		if rapid.Bool().Draw(t, "all") {
			w = walk.NewOfAll(r.Layer, held)
		}
		b := follow(t, w, room, func() *replica { return r })
		arrived(t, w, held, r.Position)
		if most := 400 + 400*(held.Len()+r.Tables.Len()); b.down > most {
			t.Fatalf("%d bytes for %d and %d rows, want at most %d", b.down, held.Len(), r.Tables.Len(), most)
		}
	})
}

// Fault 1: it goes on while the compiler commits, whichever of two replicas answers, of which one is behind, and also if
// the deltas since are no longer kept.
func TestAWalkGoesOnWhileRowsChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := tablesOf(anyRows(t, "held"))
		wanted := anyRows(t, "wanted")
		keep := rapid.SampledFrom([]int{0, 2, 1000}).Draw(t, "deltas kept")
		ahead, behind := newReplica(wanted, keep), newReplica(wanted, keep)
		var owed []*model.Change
		commits := rapid.IntRange(0, 60).Draw(t, "commits")
		w := walk.New(ahead.Layer, held)
		follow(t, w, rapid.SampledFrom([]int{1, 2000}).Draw(t, "room"), func() *replica {
			if commits > 0 && rapid.Bool().Draw(t, "commit") {
				commits--
				c := &model.Change{Put: anyRows(t, "put")}
				c.Trim(ahead.Tables)
				if id := rapid.IntRange(0, 1000).Draw(t, "remove"); len(c.Put.Endpoints) == 0 {
					c.Remove.Endpoints = []netip.Addr{pods(0, id).Endpoints[0].Addr}
				}
				ahead.commit(c)
				owed = append(owed, c)
			}
			if len(owed) > 0 && (commits == 0 || rapid.Bool().Draw(t, "catch up")) {
				behind.commit(owed[0])
				owed = owed[1:]
			}
			if rapid.Bool().Draw(t, "who") {
				return behind
			}
			return ahead
		})
		_, at := w.Change()
		for behind.Position.Revision < at.Revision {
			behind.commit(owed[0])
			owed = owed[1:]
		}
		if behind.Position.Revision == at.Revision {
			arrived(t, w, held, behind.Position)
		}
	})
}

// Promise P7: who answers at random wastes a bounded amount of time and bytes, and that it led nowhere is seen.
func TestWhoeverLiesWastesLittle(t *testing.T) {
	rows := endpoints(0, 2000)
	held := tablesOf(rows)
	honest := newReplica(rows, 0)
	random := rand.New(rand.NewPCG(1, 1))
	w := walk.New(honest.Layer, held)
	prepare(w)
	bytes := 0
	for !w.Done() {
		a := model.Branches{Layer: honest.Layer, Position: honest.Position}
		for _, b := range w.Question().Branches {
			h := model.Held{Branch: b, Digests: new([model.Fanout]uint64)}
			for i := range h.Digests {
				h.Digests[i] = random.Uint64()
			}
			a.Held = append(a.Held, h)
			bytes += 140
		}
		if _, err := w.Take(a, 140*len(a.Held)); err != nil {
			if bytes > 8<<20 {
				t.Errorf("it took %d bytes to see", bytes)
			}
			return
		}
	}
	t.Error("random answers led somewhere")
}

func TestAnswersToOtherQuestionsChangeNothing(t *testing.T) {
	rows := endpoints(0, 500)
	r := newReplica(rows, 0)
	w := walk.New(r.Layer, tablesOf(endpoints(0, 499)))
	prepare(w)
	for _, other := range []model.Branches{
		{Layer: model.NodeLayer("b"), Position: r.Position, Held: []model.Held{{Branch: model.Root}}},
		{Layer: r.Layer, Position: r.Position, Held: []model.Held{{Branch: 0x1a}}},
	} {
		if useful, err := w.Take(other, 100); useful || err != nil {
			t.Errorf("an answer to another question: useful %v, %v", useful, err)
		}
	}
	b := follow(t, w, 1<<18, func() *replica { return r })
	c, _ := w.Change()
	if b.down > 3000 || c.Put.Len() != 2 || c.Remove.Len() != 0 {
		t.Errorf("%d bytes and a change of %d rows", b.down, c.Put.Len())
	}
}
