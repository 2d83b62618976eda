// SPDX-License-Identifier: Apache-2.0

// Package core decides what a node's programmer does: which deltas it applies, when it asks for what it lacks, what
// it reports and how it repairs. It is pure: inputs go in by Step, effects come out, and the time is an argument. It
// has no clock, goroutine, lock, network or map of its own.
//
// It promises that the maps only ever go from one compiled state to the next: a delta is applied if it continues
// exactly what is there and leads to the digest it announces, else nothing is. Whatever goes wrong ends in one of two
// ways, both told by name: what was there stays, or the maps are read anew and repaired by difference.
//
// The one thing to know: effects that touch the maps (Load, Transact, Read) are carried out in order and answered by
// their inputs before anything else is put in.
package core

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// Config is what a Core is made with.
type Config struct {
	Node       string
	Capacities plan.Capacities
	// TableSlots is the slots of a Maglev table; 0 is maglev.DefaultSize.
	TableSlots uint32
	// Seed is for jitter, so that nodes don't all ask at the same moment.
	Seed uint64
}

// Core is the state of a programmer.
type Core struct {
	config Config
	layers [model.LayerNode + 1]layer
	// state is what the maps hold once the effects given out are carried out; nil until they were first read.
	state *plan.State
	epoch model.Epoch // the highest heard of
	led   time.Time   // when it was last heard of
	beat  struct {    // the newest heartbeat that counted
		epoch model.Epoch
		sent  time.Time
		heard time.Time // when the newest that counts came; the start, if none has
		// What was counted when it came.
		unsealed, replayed uint64
		// Since then: how often another server of the bus was wanted, and when the next is.
		moves  int
		moveAt time.Time
	}
	random *rand.Rand

	complete bool // all layers were known, once

	loading loading
	pending *transaction
	sync    syncing
	sweep   sweep
	report  reporting
	stats   Stats
	out     []Effect
	now     time.Time
}

// layer is how far one layer has come.
type layer struct {
	model.Layer
	// position is what the maps hold, if known: the rows are exactly those of that revision.
	position model.Position
	known    bool
	// full says that what was to come didn't fit, refusals how often in a row. Only a whole snapshot can tell whether
	// it fits by now; it is asked for at retry, or when what came since took away as many rows as there was no room for.
	full     bool
	refusals int
	retry    time.Time
	lacking  int
	// behind is when a heartbeat said that there is more than we have; zero if it doesn't.
	behind time.Time
	heard  model.Revision // the newest revision that a heartbeat or delta spoke of
	back   bool           // the newest heartbeat spoke of a position below ours
	// committed is when the compiler came to our position, by its clock, or when we did, where that isn't known.
	committed time.Time
	// walk is the way to what a compiler has, while it is looked for; strayed counts those in a row that led elsewhere.
	walk    *walk.Walk
	strayed int
	// paired says that what the walk has led to doesn't go with the other layer's rows: that one is walked too.
	paired bool
}

// transaction is what is being written.
type transaction struct {
	kind     model.LayerKind
	position model.Position // to be recorded
	delta    *Delta         // what brought it; none for what was found by a walk
	found    string         // what a walk found, to be told once it is in force
	bytes    int
	writes   int
	began    time.Time
	repair   bool         // brings the maps to where the positions already are
	with     *transaction // the other layer's that is one with this; its writes are counted here
}

// Stats counts what happened, for metrics.
type Stats struct {
	Applied, Refused, Duplicates, StaleEpochs, Gaps, Mismatches uint64
	Foreign, Syncs, SyncsFailed, Drifts, Repairs                uint64
	MapFailures, Writes, Bytes, Unsealed, Replayed              uint64
	// Walks are layers that were looked through for what differs, Snapshots those that were taken as a whole.
	Walks, Snapshots uint64
}

// kinds are the layers of a node.
var kinds = []model.LayerKind{model.LayerCluster, model.LayerNode}

// New returns a core that has yet to read the maps. The first Step, a Tick, asks for that.
func New(config Config) *Core {
	c := &Core{config: config, random: rand.New(rand.NewPCG(config.Seed, 1))}
	c.layers[model.LayerCluster].Layer = model.ClusterLayer
	c.layers[model.LayerNode].Layer = model.NodeLayer(config.Node)
	c.report.faults = map[string]Fault{}
	c.loading.wanted = true
	return c
}

// Step takes one input and returns what is to be done, in order.
func (c *Core) Step(now time.Time, in Input) []Effect {
	c.now, c.out = now, nil
	switch in := in.(type) {
	case Tick:
	case Loaded:
		c.loaded(in)
	case Done:
		c.done(in)
	case Slice:
		c.slice(in)
	case Delta:
		c.live(in)
	case Branches:
		c.branches(in)
	case Heartbeat:
		c.heartbeat(in)
	case SyncEnded:
		c.syncEnded(in)
	case Reconnected:
		c.sync.tries, c.sync.notBefore = 0, c.now
		c.wantSync(c.jitter(syncSpread))
		c.report.wanted = true
	case Unreported:
		c.unreported(in)
	case Foreign:
		c.foreign(in)
	case Failed:
		c.distrust(in.Err.Error(), true)
	case Unrecorded:
		c.fault(Fault{Kind: "map", Text: "recording how far the maps have come: " + in.Err.Error()})
	case Hooks:
		c.hooks(in)
	default:
		panic(fmt.Sprintf("core: input of type %T", in))
	}
	c.settle()
	return c.out
}

// settle does what time or the last input has made due. Nothing is due while the maps are being written or read.
func (c *Core) settle() {
	if c.pending == nil {
		c.loadIfDue()
	}
	c.checkSilence()
	if c.state == nil || c.pending != nil || c.loading.busy {
		return
	}
	if c.finishWalk() {
		return
	}
	c.checkBehind()
	c.syncIfDue()
	c.sweepIfDue()
	c.reportIfDue()
}

func (c *Core) do(e Effect) { c.out = append(c.out, e) }

// jitter returns a random part of d.
func (c *Core) jitter(d time.Duration) time.Duration { return time.Duration(c.random.Int64N(int64(d))) }

// ours returns the layer if it is one of this node's, else nil.
func (c *Core) ours(l model.Layer) *layer {
	for _, kind := range kinds {
		if c.layers[kind].Layer == l {
			return &c.layers[kind]
		}
	}
	return nil
}

// Positions returns how far each layer has come, with the digest of what is in the maps; layers that never had rows
// are left out.
func (c *Core) Positions() map[model.Layer]model.Position {
	positions := map[model.Layer]model.Position{}
	for _, kind := range kinds {
		l := &c.layers[kind]
		if l.position.Epoch == 0 || c.state == nil {
			continue
		}
		p := l.position
		p.Digest = c.state.Digest(kind)
		positions[l.Layer] = p
	}
	return positions
}

// State returns what the maps hold, to be read only; nil before they were first read.
func (c *Core) State() *plan.State { return c.state }

// Stats returns the counts so far.
func (c *Core) Stats() Stats { return c.stats }

// Entries returns how many entries each map holds.
func (c *Core) Entries() (entries [abi.MapCount]int) {
	if c.state != nil {
		entries = c.state.Entries()
	}
	return entries
}

// Lag returns by how many revisions the layers are behind the newest heard of, the most of any.
func (c *Core) Lag() uint64 {
	var most uint64
	for _, kind := range kinds {
		if l := &c.layers[kind]; l.heard > l.position.Revision {
			most = max(most, uint64(l.heard-l.position.Revision))
		}
	}
	return most
}

// Current says that the maps hold all that was heard of.
func (c *Core) Current() bool {
	if c.state == nil || c.loading.tries > 0 || c.pending != nil || c.Lag() > 0 {
		return false
	}
	return c.layers[model.LayerCluster].known && c.layers[model.LayerNode].known
}

// Ready says why this node is not known to hold what it should; nil if it does.
func (c *Core) Ready() error {
	switch {
	case c.state == nil:
		return fmt.Errorf("the maps have not been read yet")
	case c.loading.tries > 0:
		return fmt.Errorf("the maps could not be written or read (%d tries); trying again", c.loading.tries)
	}
	for _, kind := range kinds {
		if l := &c.layers[kind]; !l.known {
			return fmt.Errorf("layer %s: waiting for a compiler to say what it should have; what the maps hold is used meanwhile", l)
		}
	}
	for _, f := range c.Faults() {
		if f.Kind != "drift" && f.Kind != Pressure && f.Kind != "clock" && f.Kind != silent { // which was repaired, is yet to come, hinders nothing
			return fmt.Errorf("%s: %s", f.Kind, f.Text)
		}
	}
	return nil
}

// Faults returns what this node can't do at the moment, or found wrong of late, oldest first.
func (c *Core) Faults() []Fault {
	faults := make([]Fault, 0, len(c.report.faults))
	for _, f := range c.report.faults {
		faults = append(faults, f)
	}
	slices.SortFunc(faults, func(a, b Fault) int { return a.Since.Compare(b.Since) })
	return faults
}
