// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
)

// recent are the newest deltas of all layers as they went out, bounded by their bytes: what a node that missed
// some can be given.
type recent struct {
	most, bytes int
	order       []entry // of all layers, oldest first
	layers      map[model.Layer][]entry
}

// recentBytes is how much is kept unless Options say otherwise.
const recentBytes = 32 << 20

// entry is one delta.
type entry struct {
	layer    model.Layer
	from     model.Position
	at       time.Time // when it was committed
	messages [][]byte
	bytes    int
}

func newEntry(l model.Layer, from model.Position, at time.Time, messages [][]byte) entry {
	e := entry{layer: l, from: from, at: at, messages: messages}
	for _, data := range messages {
		e.bytes += len(data)
	}
	return e
}

func (r *recent) add(e entry) {
	if r.layers == nil {
		r.layers = map[model.Layer][]entry{}
	}
	r.order = append(r.order, e)
	r.layers[e.layer] = append(r.layers[e.layer], e)
	r.bytes += e.bytes
	for r.bytes > r.most {
		r.evict()
	}
}

// evict forgets the oldest delta. The lists lose their first entry by moving on, since there are 100,000 of them: what
// lies before is emptied here, and given back when a list grows.
func (r *recent) evict() {
	oldest, of := r.order[0], r.layers[r.order[0].layer]
	r.order[0], of[0] = entry{}, entry{}
	r.order = r.order[1:]
	r.bytes -= oldest.bytes
	if rest := of[1:]; len(rest) > 0 {
		r.layers[oldest.layer] = rest
	} else {
		delete(r.layers, oldest.layer)
	}
}

// since returns the deltas that lead from a position to the newest revision; ok is false if some are no longer held, are
// sealed by another key, which the node may not trust any more, or the position was never one of the layer's.
func (r *recent) since(l model.Layer, at model.Position, key seal.KeyID) (entries []entry, ok bool) {
	i, ok := r.from(l, at)
	if !ok {
		return nil, false
	}
	entries = slices.Clone(r.layers[l][i:]) // what is forgotten is emptied in place
	for _, e := range entries {
		if seal.KeyOf(e.messages[0]) != key {
			return nil, false
		}
	}
	return entries, true
}

// reaches says whether the deltas since a position are held.
func (r *recent) reaches(l model.Layer, at model.Position) bool {
	_, ok := r.from(l, at)
	return ok
}

// from returns where the delta that begins at a position is. Each begins where the one before ends.
func (r *recent) from(l model.Layer, at model.Position) (i int, ok bool) {
	entries := r.layers[l]
	i, ok = slices.BinarySearchFunc(entries, at.Revision, func(e entry, revision model.Revision) int {
		return cmp.Compare(e.from.Revision, revision)
	})
	return i, ok && entries[i].from.Digest == at.Digest
}

// committed returns when the first delta of a layer after a revision was; zero if that is no longer held.
func (r *recent) committed(l model.Layer, after model.Revision) time.Time {
	list := r.layers[l]
	i, held := slices.BinarySearchFunc(list, after, func(e entry, after model.Revision) int {
		return cmp.Compare(e.from.Revision, after)
	})
	if i == len(list) || i == 0 && !held {
		return time.Time{}
	}
	return list[i].at
}
