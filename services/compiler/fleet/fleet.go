// SPDX-License-Identifier: Apache-2.0

// Package fleet knows how far each node has come, from the nodes' own reports.
//
// It promises that a node counts as converged only if it has said that its kernel holds, at the newest
// revision of each of its layers, rows of the same digest; that whoever doesn't is named with the reason; and
// that memory is bounded whatever is reported. It is pure: time comes with each call.
package fleet

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// The bounds of what is kept.
const (
	// MaxStrangers bounds the nodes that report and that the cluster doesn't know.
	MaxStrangers = 256
	// maxLatencies is of how many deltas a node's latency is told.
	maxLatencies = 1024
	// maxFaults bounds the faults that are kept of one report.
	maxFaults = 16
)

// Nodes report once in 10 s when there is no news.
const (
	// SilentAfter is how long a node may say nothing until it no longer counts as converged.
	SilentAfter = 30 * time.Second
	// quietAfter is how long a node that is behind may say nothing until that is the likeliest reason.
	quietAfter = 12 * time.Second
)

// Fleet is all nodes.
type Fleet struct {
	nodes     map[string]*node
	strangers int // of nodes, those that the cluster doesn't know
	known     int // how many nodes the cluster has
	// removed are nodes that the cluster had until not long ago, and since when Forget knows; zero before that.
	removed map[string]time.Time
}

type node struct {
	known     bool // the cluster has a Node of that name
	report    *schemas.Applied
	positions map[model.Layer]model.Position
	heard     time.Time
	latencies latencies
}

// New returns a Fleet without nodes.
func New() *Fleet { return &Fleet{nodes: map[string]*node{}, removed: map[string]time.Time{}} }

// Know tells which nodes the cluster has. One that it has no longer is forgotten. Its programmer may have a few
// last things to say; if it goes on for longer, it is a stranger.
func (f *Fleet) Know(names map[string]bool) {
	f.strangers, f.known = 0, len(names)
	for name, n := range f.nodes {
		if n.known && !names[name] {
			delete(f.nodes, name)
			f.removed[name] = time.Time{}
		}
		n.known = names[name]
	}
	for name := range names {
		delete(f.removed, name)
		if f.nodes[name] == nil {
			f.nodes[name] = &node{known: true}
		}
	}
	for _, n := range f.nodes {
		if !n.known {
			f.strangers++
		}
	}
}

// Report takes in what a node reports, in whatever order reports come. The fleet owns the report from then on.
func (f *Fleet) Report(report *schemas.Applied, now time.Time) error {
	name := report.GetNode()
	if err := wire.Name("node", name); err != nil {
		return fmt.Errorf("report of what is applied: %w", err)
	}
	positions, err := wire.PositionsFromProto(report.GetPositions())
	if err != nil {
		return fmt.Errorf("report of node %s: %w", name, err)
	}
	if _, removed := f.removed[name]; removed {
		return nil // its last words
	}
	n := f.nodes[name]
	if n != nil && n.report != nil && report.GetSent().AsTime().Before(n.report.GetSent().AsTime()) {
		return nil // an older one, out of the log
	}
	if n == nil {
		if f.strangers >= MaxStrangers {
			return fmt.Errorf("report of node %s: the cluster has no such node, and %d others report that it doesn't know either: it is ignored",
				name, f.strangers)
		}
		n = &node{}
		f.nodes[name] = n
		f.strangers++
	}
	n.heard, n.report = now, report
	n.positions = map[model.Layer]model.Position{}
	for _, layer := range layersOf(name) {
		if p, told := positions[layer]; told {
			n.positions[layer] = p
		}
	}
	for _, d := range report.GetDeltas() {
		n.latencies.add(d.GetLatency().AsDuration())
	}
	report.Deltas = nil // told in latencies; the rest would only be kept
	report.Faults = report.GetFaults()[:min(len(report.GetFaults()), maxFaults)]
	return nil
}

// Forget drops nodes that the cluster doesn't have and that have fallen silent: nobody should wait for a machine that
// was taken away. If the cluster has no nodes at all, reports are all that tells of them, and they stay for so long.
func (f *Fleet) Forget(now time.Time, after time.Duration) {
	for name, since := range f.removed {
		if since.IsZero() {
			f.removed[name] = now
		} else if now.Sub(since) > SilentAfter {
			delete(f.removed, name)
		}
	}
	if f.known > 0 {
		after = SilentAfter
	}
	for name, n := range f.nodes {
		if !n.known && now.Sub(n.heard) > after {
			delete(f.nodes, name)
			f.strangers--
		}
	}
}

func layersOf(node string) []model.Layer {
	return []model.Layer{model.ClusterLayer, model.NodeLayer(node)}
}

// Progress is how one node stands.
type Progress struct {
	Node      string
	Report    *schemas.Applied // the last one; nil if the node has never reported; not to be changed
	Converged bool
	Behind    model.Revision // how many revisions
	Reason    string         // why it isn't converged, for people
	P50, P99  time.Duration  // of the last deltas applied, from trigger to kernel
}

// Progress returns how all nodes stand, in order of their names. Want is where each layer should be.
func (f *Fleet) Progress(want func(model.Layer) model.Position, now time.Time) []Progress {
	all := make([]Progress, 0, len(f.nodes))
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		n := f.nodes[name]
		p := Progress{Node: name, Report: n.report}
		p.Behind, p.Reason = n.behind(name, want, now)
		p.Converged = p.Reason == ""
		p.P50, p.P99 = n.latencies.quantiles()
		all = append(all, p)
	}
	return all
}

// Counts returns how many nodes are converged and how many aren't.
func (f *Fleet) Counts(want func(model.Layer) model.Position, now time.Time) (converged, behind int) {
	for name, n := range f.nodes {
		if _, reason := n.behind(name, want, now); reason == "" {
			converged++
		} else {
			behind++
		}
	}
	return converged, behind
}

func (n *node) behind(name string, want func(model.Layer) model.Position, now time.Time) (revisions model.Revision, reason string) {
	if n.report == nil {
		return 0, "it has never reported: is its programmer running, and does it reach the bus?"
	}
	for _, layer := range layersOf(name) {
		should, is := want(layer), n.positions[layer]
		switch {
		case is.Revision < should.Revision:
			if by := should.Revision - is.Revision; by > revisions {
				revisions = by
				reason = fmt.Sprintf("layer %s is at revision %d of %d", layer, is.Revision, should.Revision)
			}
		case is.Revision > should.Revision && reason == "":
			reason = fmt.Sprintf("layer %s is at revision %d, beyond the compiler's %d: it will be told what to hold",
				layer, is.Revision, should.Revision)
		case is.Digest != should.Digest && reason == "":
			reason = fmt.Sprintf("layer %s has digest %s, it should have %s: something else writes its maps",
				layer, is.Digest, should.Digest)
		}
	}
	if faults := n.report.GetFaults(); len(faults) > 0 {
		reason = faults[0].GetText()
	}
	if silent := now.Sub(n.heard); silent > SilentAfter || (reason != "" && silent > quietAfter) {
		reason = fmt.Sprintf("silent for %s: is its programmer running, and does it reach the bus?", silent.Truncate(time.Second))
	}
	return revisions, reason
}

// latencies are the last maxLatencies ones, in a ring that grows to that.
type latencies struct {
	ring []time.Duration
	next int
}

func (l *latencies) add(d time.Duration) {
	if d <= 0 {
		return
	}
	if len(l.ring) < maxLatencies {
		l.ring = append(l.ring, d)
		return
	}
	l.ring[l.next] = d
	l.next = (l.next + 1) % maxLatencies
}

func (l *latencies) quantiles() (p50, p99 time.Duration) {
	if len(l.ring) == 0 {
		return 0, 0
	}
	sorted := slices.Sorted(slices.Values(l.ring))
	return sorted[(len(sorted)-1)*50/100], sorted[(len(sorted)-1)*99/100]
}
