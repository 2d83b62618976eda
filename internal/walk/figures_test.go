// SPDX-License-Identifier: Apache-2.0

package walk_test

import (
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
)

// wrong returns rows of which n, evenly spread, are edited: a third is missing, a third other, a third too many.
func wrong(rows model.Rows, n int) *model.Tables {
	held := tablesOf(rows)
	var c model.Change
	for i := range n {
		at := i * (len(rows.Backends) / n)
		b := rows.Backends[at]
		switch i % 3 {
		case 0:
			b.Port++
			c.Put.Backends = append(c.Put.Backends, b)
		case 1:
			c.Remove.Members = append(c.Remove.Members, rows.Members[at])
		default:
			c.Put.Members = append(c.Put.Members, model.Member{Set: 1 << 30, Backend: b.ID})
		}
	}
	held.Apply(&c, model.Digest{})
	return held
}

// TestFewWrongRowsCostFewBytes holds what a walk costs to budgets, among 100,000 rows.
func TestFewWrongRowsCostFewBytes(t *testing.T) {
	rows := endpoints(0, 50_000)
	r := newReplica(rows, 0)
	for _, test := range []struct{ wrong, rounds, down, up int }{
		{1, 7, 2_000, 400},
		{100, 8, 60_000, 4_000},
		{5_000, 40, 1_500_000, 120_000},
	} {
		held := wrong(rows, test.wrong)
		w := walk.New(r.Layer, held)
		b := follow(t, w, 256<<10, func() *replica { return r })
		if c := arrived(t, w, held, r.Position); c.Put.Len()+c.Remove.Len() != test.wrong {
			t.Errorf("%d wrong: %d put and %d removed", test.wrong, c.Put.Len(), c.Remove.Len())
		}
		if b.rounds > test.rounds || b.down > test.down || b.up > test.up {
			t.Errorf("%d wrong cost %+v, want at most %d rounds, %d bytes down, %d up", test.wrong, b, test.rounds, test.down, test.up)
		}
	}
}

// BenchmarkWalk finds wrong rows among a million, and takes all of them.
func BenchmarkWalk(b *testing.B) {
	rows := endpoints(0, 500_000)
	r := newReplica(rows, 0)
	r.signer = seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	r.trust = seal.NewTrust(r.signer.Public())
	for _, n := range []int{1, 100, 10_000, 0} {
		name := fmt.Sprintf("%d wrong of %d", n, r.Tables.Len())
		held := model.NewTables()
		if n == 0 {
			name = fmt.Sprintf("all %d", r.Tables.Len())
		} else {
			held = wrong(rows, n)
		}
		b.Run(name, func(b *testing.B) {
			var took bill
			var tree, longest time.Duration
			for b.Loop() {
				begun := time.Now()
				w := walk.New(r.Layer, held)
				for ready := false; !ready; {
					step := time.Now()
					ready = w.Prepare(50_000)
					longest = max(longest, time.Since(step))
				}
				tree += time.Since(begun)
				took = follow(b, w, 256<<10, func() *replica { return r })
				w.Change()
			}
			b.ReportMetric(float64(took.down), "B-down")
			b.ReportMetric(float64(took.up), "B-up")
			b.ReportMetric(float64(took.rounds), "questions")
			b.ReportMetric(float64(took.messages), "messages")
			b.ReportMetric(float64(tree.Milliseconds())/float64(b.N), "ms-tree")
			b.ReportMetric(float64(longest.Milliseconds()), "ms-longest-step")
		})
	}
}
