// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// State is what a node's maps hold: the rows of each layer, and where this node has put a set's members. The order
// of members has no meaning on the bus; slots are the node's own.
//
// Invariants, once repaired: the slots of a set are its members in some order, none twice; slotsOf and pointersTo
// count what points at a row; entries counts what the maps hold.
type State struct {
	tables     [model.LayerNode + 1]*model.Tables
	slots      map[model.SetID][]model.BackendID
	pointersTo map[model.SetID]int32 // frontends and views
	slotsOf    map[model.BackendID]int32
	entries    [abi.MapCount]int
	digests    [model.LayerNode + 1]model.Digest
	uses       uses
	maglev     tables
	scratch    scratch

	judging bool // connections are judged: what the maps' epoch says
	rejudge bool // what judges may have changed without that the epoch went on
	stale   stale
	aside   aside
	closers map[model.RuleSetID]bool // rule sets that have neither verdicts nor, where there is no room, a row

	// What a crash, a failed write or a person left behind. All are empty once a plan has been carried out.
	stray   map[slot]struct{}      // slots that no set counts
	foreign map[entryKey]struct{}  // entries that can't be read as rows
	damaged map[model.SetID]uint32 // sets whose slots aren't members, each once, and the count in the map
}

type slot struct {
	set   model.SetID
	index uint32
}

type entryKey struct {
	in  abi.Map
	key string
}

// kinds are the layers that a node holds.
var kinds = []model.LayerKind{model.LayerCluster, model.LayerNode}

// Empty returns the state of empty maps.
func Empty() *State {
	s := &State{
		slots:      map[model.SetID][]model.BackendID{},
		pointersTo: map[model.SetID]int32{},
		slotsOf:    map[model.BackendID]int32{},
		uses:       newUses(),
		stale:      newStale(),
		stray:      map[slot]struct{}{},
		foreign:    map[entryKey]struct{}{},
		damaged:    map[model.SetID]uint32{},
		maglev:     newTables(),
	}
	for _, kind := range kinds {
		s.tables[kind] = model.NewTables()
	}
	return s
}

func (s *State) layerOfSet(id model.SetID) model.LayerKind {
	if _, held := s.tables[model.LayerNode].Sets[id]; held {
		return model.LayerNode
	}
	return model.LayerCluster
}

// Tables returns the rows of one layer, to be read only.
func (s *State) Tables(kind model.LayerKind) *model.Tables { return s.tables[kind] }

// Digest returns the digest of the rows that one layer should hold: of those in the maps, and of those of policy that
// didn't fit; see LeftOut.
func (s *State) Digest(kind model.LayerKind) model.Digest {
	d := s.digests[kind]
	if kind == model.LayerNode {
		d[0], d[1] = d[0]+s.aside.offset[0], d[1]+s.aside.offset[1]
	}
	return d
}

// Entries returns how many entries each map holds.
func (s *State) Entries() [abi.MapCount]int { return s.entries }

// Whole says that the maps hold the rows and nothing else: nothing was left behind.
func (s *State) Whole() bool { return len(s.stray)+len(s.foreign)+len(s.damaged) == 0 }

// Sure says that what is in Maglev tables is known, too: it isn't after the maps were read.
func (s *State) Sure() bool { return !s.maglev.unsure }

// set returns a set's row and layer; layer 0 if there is no such set.
func (s *State) set(id model.SetID) (model.BackendSet, model.LayerKind) {
	for _, kind := range kinds {
		if row, held := s.tables[kind].Sets[id]; held {
			return row, kind
		}
	}
	return model.BackendSet{}, 0
}

// backend returns a backend's row and layer; layer 0 if there is no such backend.
func (s *State) backend(id model.BackendID) (model.Backend, model.LayerKind) {
	for _, kind := range kinds {
		if row, held := s.tables[kind].Backends[id]; held {
			return row, kind
		}
	}
	return model.Backend{}, 0
}

// Service returns the ServicePort of a set, if there is such a set.
func (s *State) Service(id model.SetID) (port model.ServicePort, held bool) {
	row, kind := s.set(id)
	return row.Service, kind != 0
}

// Size returns how many members a set has.
func (s *State) Size(id model.SetID) int { return len(s.slots[id]) }

func (s *State) serviceOf(id model.SetID) string {
	if row, kind := s.set(id); kind != 0 {
		return row.Service.String()
	}
	return "no Service"
}

func word(kind model.LayerKind) string { return model.Layer{Kind: kind, Name: "this"}.String() }

// policed says whether there are policies.
func (s *State) policed() bool {
	self, _ := selves.held(s, model.SelfKey{})
	return self.Policed
}

// told says whether anyone has said so.
func (s *State) told() bool {
	_, kind := selves.held(s, model.SelfKey{})
	return kind != 0
}

// Policed says whether there are policies, as far as the rows say.
func (s *State) Policed() bool { return s.policed() }

// SetJudging says whether the maps' epoch has connections judged. Else they are taken to be if there are policies.
func (s *State) SetJudging(judging bool) { s.judging = judging }

// JudgeAgain has the next plan begin another epoch, whatever it changes: it is not known that the last one was begun.
func (s *State) JudgeAgain() { s.rejudge = true }
