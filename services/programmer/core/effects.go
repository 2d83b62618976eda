// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// Effect is something to be done.
type Effect interface{ effect() }

// Load asks to read all maps and recorded positions; Loaded answers it.
type Load struct{}

// Transact asks to carry out a plan; Done answers it. After the first failure nothing more of it may be done.
type Transact struct{ Phases []plan.Phase }

// Record asks to record a layer's position beside the maps. Nothing answers it.
type Record struct {
	Kind     model.LayerKind
	Position model.Position
}

// Read asks to read a slice of a map; Slice answers it.
type Read struct {
	Map   abi.Map
	Start bool // from the start, else from where the last Read ended
	Limit int
}

// Sync asks a compiler for what the node lacks: deltas since a position, or what branches of a layer hold. Deltas and
// Branches follow as inputs, then SyncEnded.
type Sync struct {
	Positions map[model.Layer]model.Position
	Walks     []model.Walk
	Room      int // for the answer, bytes
	// Within is how long the next message of the answer may take.
	Within time.Duration
}

// Report is to be published.
type Report struct {
	Positions map[model.Layer]model.Position
	Deltas    []AppliedDelta
	Faults    []Fault
	Entries   [abi.MapCount]int
	// Idle says that there is no news: it tells that the node is there.
	Idle bool
	// Whole says that nothing may be left out: another compiler leads, and may have heard nothing yet.
	Whole bool
}

// AppliedDelta is one delta that came into force, as in schemas.AppliedDelta.
type AppliedDelta struct {
	Layer   model.Layer
	Epoch   model.Epoch
	To      model.Revision
	Applied time.Time
	Latency time.Duration // from the oldest cause's trigger; 0 if unknown
	Took    time.Duration // from the plan to the rows being in force
	Writes  int
	Bytes   int
	Causes  []model.Cause
}

// Pressure is the kind of a fault that is a warning: a map is nearly full.
const Pressure = "pressure"

// Fault is something the node could not do, or found wrong.
type Fault struct {
	Kind     string // "capacity", "rows", "digest", "drift", "map", "hook", "health_check", "healthz" or Pressure
	Text     string
	Since    time.Time
	Layer    model.Layer
	Revision model.Revision
}

// Event is something people should know.
type Event struct {
	Warning bool
	Kind    string // as of a Fault, or "foreign_message", "repaired", "resumed", "resynced"
	Text    string
}

// Endpoints are the pods' addresses whose interfaces are to be attached, and no others.
type Endpoints struct {
	Wanted []model.Endpoint
	// Complete says that the maps have held all that a compiler said, once at least.
	Complete bool
}

// Elsewhere asks to reach the bus by another of its servers, if it has any. Nothing answers it.
type Elsewhere struct{}

func (Load) effect()      {}
func (Transact) effect()  {}
func (Record) effect()    {}
func (Read) effect()      {}
func (Sync) effect()      {}
func (Report) effect()    {}
func (Event) effect()     {}
func (Endpoints) effect() {}
func (Elsewhere) effect() {}
