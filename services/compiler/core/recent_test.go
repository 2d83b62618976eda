// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
)

// BenchmarkRecentOfManyNodes keeps small deltas of 5,000 nodes while it forgets as many.
func BenchmarkRecentOfManyNodes(b *testing.B) {
	r := recent{most: recentBytes}
	add := func(i int) {
		r.add(newEntry(model.Layer{Kind: model.LayerNode, Name: string(rune(i % 5000))},
			model.Position{Revision: model.Revision(i)}, time.Unix(int64(i), 0), [][]byte{make([]byte, 250)}))
	}
	for i := range recentBytes / 250 {
		add(i)
	}
	for i := 0; b.Loop(); i++ {
		add(i)
	}
}

// TestOldDeltasAreForgottenOneByOne adds far more than is kept.
func TestOldDeltasAreForgottenOneByOne(t *testing.T) {
	r := recent{most: 1000}
	l := model.ClusterLayer
	for i := range 10_000 {
		r.add(newEntry(l, model.Position{Revision: model.Revision(i)}, time.Unix(int64(i), 0), [][]byte{make([]byte, 10)}))
	}
	if len(r.order) != 100 || len(r.layers[l]) != 100 || r.bytes != 1000 || cap(r.order) > 1000 {
		t.Errorf("%d and %d deltas of %d bytes are kept, in room for %d; want 100 of 1000", len(r.order), len(r.layers[l]), r.bytes, cap(r.order))
	}
	if m, ok := r.since(l, model.Position{Revision: 9950}, seal.KeyID{}); !ok || len(m) != 50 {
		t.Errorf("%d deltas since revision 9950 (%v), want 50", len(m), ok)
	}
	if _, ok := r.since(l, model.Position{Revision: 9899}, seal.KeyID{}); ok {
		t.Error("a delta that was forgotten is given")
	}
	for _, test := range []struct{ after, want int64 }{{9950, 9950}, {9949, 9949}, {9899, 0}, {9999, 9999}, {10_000, 0}} {
		got := r.committed(l, model.Revision(test.after))
		if (test.want == 0) != got.IsZero() || test.want != 0 && got.Unix() != test.want {
			t.Errorf("what came after revision %d was committed at %v, want %d", test.after, got, test.want)
		}
	}
}
