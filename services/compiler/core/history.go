// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// History is what DELTA says all layers were at one revision, and what each id has meant since. Records are added in the
// log's order, from a checkpoint before the revision on or from the log's first record, to the log's end.
type History struct {
	wanted model.Revision
	fold   *Fold
	// found says that there was such a revision; past that all of it was read, so that fold stays as it is.
	found, past bool
	before      model.Revision // the newest below wanted
	oldest      model.Revision // of all that was folded; 0 if nothing was
	newest      model.Revision // of all that was read
	// What ids have meant after the revision. If not all of that was read, or the log lacks some, nobody knows what those mean
	// that aren't in use.
	sets     map[model.SetID]model.SetKey
	backends map[model.BackendID]model.BackendKey
	later    map[model.Layer]model.Revision // how far layers have come after the revision
	unknown  bool
}

// NewHistory returns the history of a revision, of which nothing was read yet. If it doesn't begin with the log's first
// record, what comes before a checkpoint says nothing.
func NewHistory(wanted model.Revision, fromFirst bool) *History {
	h := &History{
		wanted: wanted, fold: NewFold(0), sets: map[model.SetID]model.SetKey{}, backends: map[model.BackendID]model.BackendKey{},
		later: map[model.Layer]model.Revision{},
	}
	if !fromFirst {
		h.fold.gap = fmt.Errorf("DELTA no longer has what was before")
	}
	return h
}

// Past says that the layers are known: what is read from now on only says what ids have meant since.
func (h *History) Past() bool { return h.past }

// Leave ends reading before the log's end.
func (h *History) Leave() { h.unknown = true }

// Add takes in one record.
func (h *History) Add(r Record) {
	domain, sealed := DomainOf(r.Subject, r.Data)
	switch {
	case !sealed:
		_ = h.fold.addEpoch(r.Data) // what is no epoch says nothing
	case domain == seal.Hold:
	case domain == seal.Delta:
		h.addDelta(r)
	default:
		h.addCheckpoint(domain, r)
	}
}

func (h *History) addDelta(r Record) {
	part, err := wire.DecodeDelta(r.Data)
	if err != nil {
		h.unknown = h.unknown || h.past
		return
	}
	if part.Epoch < h.fold.ruling {
		return // no part of the log
	}
	before := h.newest
	h.newest = max(h.newest, part.To)
	if part.To > h.wanted && !h.past {
		h.past = true
		if h.oldest == 0 && h.fold.gap == nil {
			h.oldest = part.To
		}
	}
	if h.past {
		h.unknown = h.unknown || part.To > before+1 || !h.continues(&part)
		h.note(&part.Change.Put)
		return
	}
	_ = h.fold.Add(r.Subject, r.Data) // leaves a gap, which a checkpoint mends
	h.came(part.To)
}

// continues says whether a part of a delta goes on from what was read of its layer.
func (h *History) continues(part *wire.DeltaPart) bool {
	at, read := h.later[part.Layer]
	if held := h.fold.layers[part.Layer]; !read && held != nil {
		at = held.at.Revision
	}
	h.later[part.Layer] = part.To
	return part.From == at || part.To == at // of a delta another part was read
}

// addCheckpoint takes in a part of a checkpoint. One above the wanted revision only says that it can be gone back to, and
// if it is of none that was read, that the log before it was lost.
func (h *History) addCheckpoint(domain seal.Domain, r Record) {
	if domain == seal.Checkpoint {
		var m schemas.Checkpoint
		err := wire.Unmarshal(r.Data, &m)
		h.unknown = h.unknown || model.Revision(m.GetRevision()) > h.wanted && model.Revision(m.GetRevision()) != h.newest
		h.newest = max(h.newest, model.Revision(m.GetRevision()))
		if err == nil && model.Revision(m.GetRevision()) > h.wanted {
			if h.past = true; h.oldest == 0 {
				h.oldest = model.Revision(m.GetRevision())
			}
		}
	}
	if h.past {
		return
	}
	_ = h.fold.Add(r.Subject, r.Data)
	if h.fold.open == nil {
		h.came(h.fold.revision)
	}
}

// upTo adds what was committed after the log was read: ids may have got another meaning by it. If not all of that is at
// hand, nobody knows what those mean that aren't in use.
func (h *History) upTo(r *recent, newest model.Revision) {
	if h.unknown || h.newest >= newest {
		return
	}
	later := len(r.order)
	for later > 0 && revisionOf(&r.order[later-1]) > h.newest {
		later--
	}
	h.unknown = later == 0 // what was before is forgotten
	for _, e := range r.order[later:] {
		for _, data := range e.messages {
			h.Add(Record{schemas.DeltaSubject(e.layer.String()), data})
		}
	}
}

// revisionOf returns the revision that a delta leads to; 0 if it can't be read.
func revisionOf(e *entry) model.Revision {
	part, err := wire.DecodeDelta(e.messages[0])
	if err != nil {
		return 0
	}
	return part.To
}

// came notes a revision whose delta, or checkpoint, was folded.
func (h *History) came(revision model.Revision) {
	if h.fold.gap != nil {
		return
	}
	if h.oldest == 0 {
		h.oldest = revision
	}
	if revision == h.wanted {
		h.found = true
	} else {
		h.before = revision
	}
}

func (h *History) note(r *model.Rows) {
	for _, row := range r.Sets {
		h.sets[row.ID] = row.SetKey
	}
	for _, row := range r.Backends {
		h.backends[row.ID] = row.BackendKey
	}
}

// lacking says why the layers of the revision aren't known, to who asked for it.
func (h *History) lacking(newest model.Revision) string {
	kept := fmt.Sprintf("DELTA keeps revisions %d to %d", h.oldest, newest)
	switch {
	case h.wanted > newest:
		return fmt.Sprintf("there is no revision %d yet: the newest is %d", h.wanted, newest)
	case h.oldest == 0:
		return fmt.Sprintf("DELTA no longer keeps revision %d, nor any other that could be gone back to", h.wanted)
	case h.wanted < h.oldest:
		return fmt.Sprintf("DELTA no longer keeps revision %d: %s", h.wanted, kept)
	case h.fold.gap != nil:
		return fmt.Sprintf("revision %d can't be read from DELTA: %v. %s, but for what is missing", h.wanted, h.fold.gap, kept)
	case !h.found:
		return fmt.Sprintf("there is no revision %d, the one before it is %d. %s", h.wanted, h.before, kept)
	}
	return ""
}
