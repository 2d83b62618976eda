// SPDX-License-Identifier: Apache-2.0

package walk_test

import (
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
)

// replica is a compiler's layer with the deltas that it keeps.
type replica struct {
	walk.Source
	recent []model.Delta
	keep   int // deltas
	signer *seal.Signer
	trust  *seal.Trust // nil where nothing is sealed
}

func newReplica(rows model.Rows, keep int) *replica {
	r := &replica{keep: keep, Source: walk.Source{Layer: model.ClusterLayer, Tables: model.NewTables(), Tree: &model.Tree{}}}
	r.commit(&model.Change{Put: rows})
	return r
}

// commit changes the rows, as one revision.
func (r *replica) commit(c *model.Change) {
	d := model.Delta{Epoch: 1, Layer: r.Layer, From: r.Position.Revision, To: r.Position.Revision + 1, Change: *c}
	r.Tree.Apply(c)
	d.DigestAfter = r.Tables.Apply(c, r.Position.Digest)
	r.Position = model.Position{Epoch: 1, Revision: d.To, Digest: d.DigestAfter}
	r.recent = append(r.recent, d)
	r.recent = r.recent[max(0, len(r.recent)-r.keep):]
}

// since returns the deltas since a position, if they are kept.
func (r *replica) since(p model.Position) ([]model.Delta, bool) {
	for i, d := range r.recent {
		if d.From == p.Revision {
			return r.recent[i:], true
		}
	}
	return nil, p.Revision == r.Position.Revision
}

// bill is what a walk took.
type bill struct{ rounds, up, down, messages int }

// failer is what testing.T and rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// follow asks until the walk is done. Before each answer it calls next, which returns who answers.
func follow(t failer, w *walk.Walk, room int, next func() *replica) (b bill) {
	t.Helper()
	prepare(w)
	for !w.Done() {
		if b.rounds++; b.rounds > 100_000 {
			t.Fatalf("no end after %d rounds", b.rounds)
		}
		r := next()
		if since, wanted := w.Since(); wanted {
			deltas, held := r.since(since)
			for _, d := range deltas {
				w.Delta(&d, 200)
			}
			b.down += 200 * len(deltas)
			if !held {
				take(t, w, r.branches(t, []model.Branch{model.Root}, room, &b))
			}
			continue
		}
		q := w.Question()
		b.up += 40 + 4*len(q.Branches)
		if !q.All {
			take(t, w, r.branches(t, q.Branches, room, &b))
			continue
		}
		message := r.Message(r.Rows(walk.PieceAt(q.From, r.Tree.Len(), max(1, room/40))))
		take(t, w, r.sealed(t, message, &b))
	}
	return b
}

// sealed seals a message, counts it, and opens it again.
func (r *replica) sealed(t failer, message []byte, b *bill) []byte {
	t.Helper()
	if r.trust != nil {
		message = r.signer.SealOne(seal.Branches, message)
		if _, err := r.trust.Open(seal.Branches, message); err != nil {
			t.Fatalf("%v", err)
		}
	}
	b.down += len(message)
	b.messages++
	return message
}

func prepare(w *walk.Walk) {
	for !w.Prepare(1000) {
	}
}

func (r *replica) branches(t failer, ask []model.Branch, room int, b *bill) []byte {
	message, _ := r.Branches(ask, room)
	return r.sealed(t, message, b)
}

func take(t failer, w *walk.Walk, message []byte) {
	t.Helper()
	a, err := walk.Decode(message)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if _, err := w.Take(a, len(message)); err != nil {
		t.Fatalf("%v", err)
	}
}

// arrived checks that a walk leads from what was held to what the position says.
func arrived(t failer, w *walk.Walk, held *model.Tables, want model.Position) *model.Change {
	t.Helper()
	c, at := w.Change()
	got := held.Clone()
	if digest := got.Apply(c, held.Digest()); digest != at.Digest || at.Digest != want.Digest {
		t.Fatalf("the walk ends with digest %s, at %v, want %v", digest, at, want)
	}
	return c
}

// endpoints are rows of about the size that most have: backends and memberships of Services.
func endpoints(from, n int) (rows model.Rows) {
	for i := from; i < from+n; i++ {
		b := model.Backend{ID: model.BackendID(i + 1), State: model.BackendActive, BackendKey: model.BackendKey{
			Set: model.SetID(i/50 + 1), Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 8080,
		}}
		rows.Backends = append(rows.Backends, b)
		rows.Members = append(rows.Members, model.Member{Set: b.Set, Backend: b.ID})
	}
	return rows
}

// pods are rows that say something else in each generation.
func pods(generation int, ids ...int) (rows model.Rows) {
	for _, id := range ids {
		rows.Endpoints = append(rows.Endpoints, model.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 1, byte(id >> 8), byte(id)}), Pod: fmt.Sprintf("shop/web-%d-%d", id, generation),
		})
	}
	return rows
}
