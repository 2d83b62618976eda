// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// Input is something that happened.
type Input interface{ input() }

// Tick says that time passed. It should come every TickInterval or so.
type Tick struct{}

// TickInterval is how often Tick is useful.
const TickInterval = 100 * time.Millisecond

// Loaded answers Load.
type Loaded struct {
	State     *plan.State
	Positions map[model.LayerKind]model.Position
	Judging   bool // connections of pods are judged
	Err       error
}

// Done answers Transact.
type Done struct {
	// Switched is when the new rows were in force: before the grace period, after which old rows are reclaimed.
	Switched time.Time
	Err      error
}

// Slice answers Read. Its entries are good until the next Read.
type Slice struct {
	Map     abi.Map
	Entries []Entry
	End     bool
	Err     error
}

// Entry is one entry of a map.
type Entry struct{ Key, Value []byte }

// Delta is a delta, whole, from the bus or from a sync.
type Delta struct {
	model.Delta
	Bytes int // of the messages that brought it
	// Synced says that it came in answer to Sync.
	Synced bool
}

// Branches is what some branches of a layer hold, in answer to Sync.
type Branches struct {
	model.Branches
	Bytes int
}

// Heartbeat is how far the compiler has come.
type Heartbeat struct {
	Epoch     model.Epoch
	Revision  model.Revision
	Positions map[model.Layer]model.Position
	Sent      time.Time // by the compiler's clock
}

// SyncEnded says that the answer to Sync is complete, or why it isn't.
type SyncEnded struct {
	Err error
	// More deltas are there than there was room for.
	More bool
	// After is how long the compiler wants the node to wait before it asks the same again.
	After time.Duration
}

// Reconnected says that the bus is back, or there for the first time: what was sent meanwhile is lost.
type Reconnected struct{}

// Foreign says that a message was set aside.
type Foreign struct {
	Subject string
	Err     error
	// Unsealed says that no trusted key has sealed it.
	Unsealed bool
}

// Failed says that what a plan left to be reclaimed could not be. What the maps hold is unknown.
type Failed struct{ Err error }

// Unrecorded says that a Record failed.
type Unrecorded struct{ Err error }

// Unreported says that a Report with these deltas could not be published.
type Unreported struct{ Deltas []AppliedDelta }

// Hooks says what could not be attached or opened; empty if all is well.
type Hooks struct {
	Kind    string // of the fault; "hook" if empty
	Problem string
}

func (Tick) input()        {}
func (Loaded) input()      {}
func (Done) input()        {}
func (Slice) input()       {}
func (Delta) input()       {}
func (Branches) input()    {}
func (Heartbeat) input()   {}
func (SyncEnded) input()   {}
func (Reconnected) input() {}
func (Foreign) input()     {}
func (Failed) input()      {}
func (Unrecorded) input()  {}
func (Unreported) input()  {}
func (Hooks) input()       {}
