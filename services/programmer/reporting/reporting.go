// SPDX-License-Identifier: Apache-2.0

// Package reporting writes what a node reports. It is pure but for what it remembers of the report before.
//
// It promises that a report with news says all there is, and that one without leaves out what is as it was: thousands of
// nodes report for days, and most of what they hold doesn't change.
package reporting

import (
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

// WholeEvery is how often a node says all in any case, for a compiler that has only begun to listen.
const WholeEvery = 2 * time.Minute

// Writer writes the reports of one node. Its exported fields don't change.
type Writer struct {
	Node     string
	MapsKind string // "kernel" or "memory"
	// ChecksSeals says that the node uses only what a key that it trusts has sealed.
	ChecksSeals bool

	before Holds
	// latencies are those of the last deltas, in microseconds, oldest first.
	latencies []uint32
	whole     time.Time // when the last report that left out nothing was written
}

// Holds is what a node says beside what its core has to say.
type Holds struct {
	Uses     []*schemas.MapUse // how full the maps are
	Drops    map[string]uint64 // so far, by reason's word
	External *schemas.External // nil if no packets come
}

func (h Holds) equal(o Holds) bool {
	return maps.Equal(h.Drops, o.Drops) && proto.Equal(h.External, o.External) &&
		slices.EqualFunc(h.Uses, o.Uses, func(a, b *schemas.MapUse) bool { return proto.Equal(a, b) })
}

// Write returns a report: what the core has to say, and what the node holds.
func (w *Writer) Write(now time.Time, r core.Report, holds Holds) *schemas.Applied {
	applied := &schemas.Applied{
		Node: w.Node, Positions: wire.PositionsToProto(r.Positions), Sent: timestamppb.New(now), MapsKind: w.MapsKind, ChecksSeals: w.ChecksSeals,
	}
	for _, d := range r.Deltas {
		a := &schemas.AppliedDelta{
			Layer: d.Layer.String(), Epoch: uint64(d.Epoch), Revision: uint64(d.To), Applied: timestamppb.New(d.Applied),
			Writes: uint64(d.Writes), Bytes: uint64(d.Bytes),
		}
		if d.Latency > 0 {
			a.Latency = durationpb.New(d.Latency)
			w.remember(d.Latency)
		}
		applied.Deltas = append(applied.Deltas, a)
	}
	for _, f := range r.Faults {
		fault := &schemas.Fault{Kind: f.Kind, Text: f.Text, Since: timestamppb.New(f.Since), Revision: uint64(f.Revision)}
		if f.Layer.Kind != 0 {
			fault.Layer = f.Layer.String()
		}
		applied.Faults = append(applied.Faults, fault)
	}
	if r.Idle && !r.Whole && now.Sub(w.whole) < WholeEvery && holds.equal(w.before) {
		applied.AsBefore = true
		return applied
	}
	applied.Maps, applied.Drops, applied.External = holds.Uses, holds.Drops, holds.External
	if r.Idle || r.Whole {
		applied.LatencyMicros = slices.Clone(w.latencies)
	}
	w.before, w.whole = holds, now
	return applied
}

// remember keeps a latency, and the last ones before it.
func (w *Writer) remember(latency time.Duration) {
	w.latencies = append(w.latencies, uint32(min(latency.Microseconds(), math.MaxUint32)))
	w.latencies = w.latencies[max(0, len(w.latencies)-schemas.MaxLatencies):]
}

// Lost says that the report before didn't get away, so that the next one leaves out nothing.
func (w *Writer) Lost() { w.whole = time.Time{} }
