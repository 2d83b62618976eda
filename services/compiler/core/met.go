// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
)

// met are ids that a log has given a meaning, or had in quarantine, while other rows counted than its own: nodes may have
// heard of them.
type met struct {
	sets     map[model.SetID]bool
	backends map[model.BackendID]bool
}

func newMet() met {
	return met{map[model.SetID]bool{}, map[model.BackendID]bool{}}
}

// change notes the ids of a change.
func (m *met) change(change *model.Change) {
	for _, id := range change.Remove.Sets {
		m.sets[id] = true
	}
	for _, id := range change.Remove.Backends {
		m.backends[id] = true
	}
	for i := range change.Put.Sets {
		m.sets[change.Put.Sets[i].ID] = true
	}
	for i := range change.Put.Backends {
		m.backends[change.Put.Backends[i].ID] = true
	}
}

// freed notes ids in quarantine.
func (m *met) freed(sets []ids.Freed[model.SetID], backends []ids.Freed[model.BackendID]) {
	for _, f := range sets {
		m.sets[f.ID] = true
	}
	for _, f := range backends {
		m.backends[f.ID] = true
	}
}

// fold notes the ids of all that was folded, and of what couldn't be.
func (m *met) fold(f *Fold) {
	for _, l := range f.layers {
		for id := range l.rows.Sets {
			m.sets[id] = true
		}
		for id := range l.rows.Backends {
			m.backends[id] = true
		}
	}
	m.freed(f.ids.Quarantined())
	for id := range f.met.sets {
		m.sets[id] = true
	}
	for id := range f.met.backends {
		m.backends[id] = true
	}
}

// meet notes the ids of a snapshot that is no part of what is folded. One that can't be read says nothing.
func (f *Fold) meet(snapshot []byte) {
	if f.gap == nil {
		return
	}
	if part, err := wire.DecodeSnapshot(snapshot); err == nil {
		f.met.change(&model.Change{Put: part.Rows})
	}
}

// restMet puts into quarantine what was met and has no meaning in the rows.
func (f *Fold) restMet(now time.Time) {
	f.ids.Rest(f.met.sets, f.met.backends, now)
	f.met = newMet()
}
