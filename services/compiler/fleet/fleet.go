// SPDX-License-Identifier: Apache-2.0

// Package fleet knows how far each node has come, from the nodes' own reports.
//
// It promises that a node counts as converged only if it has said that its kernel holds, at the newest
// revision of each of its layers, rows of the same digest; that whoever doesn't is named with the reason; and
// that memory is bounded whatever is reported. It is pure: time comes with each call.
package fleet

import (
	"fmt"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// The bounds of what is kept.
const (
	// MaxStrangers bounds the nodes that report and that the cluster doesn't know.
	MaxStrangers = 256
	// maxFaults bounds the faults that are kept of one report, maxText the text of each, in bytes.
	maxFaults = 16
	maxText   = 4 << 10
	// maxWords bounds the maps, and the reasons of drops, that a node names, maxWord the bytes of such a name.
	maxWords = 128
	maxWord  = 64
)

// Nodes report once in 10 s when there is no news, every 3 s while something is wrong, and once a second while they change.
const (
	// SilentAfter is how long a node may say nothing until it no longer counts as converged.
	SilentAfter = 30 * time.Second
	// missedAfter is how long an idle node may say nothing until it is no longer there, if its kubelet isn't either.
	missedAfter = 12 * time.Second
	// quietAfter is how long a node that lacks something may say nothing until that is the likeliest reason.
	quietAfter = 4 * time.Second
	// UpdatingFor is how long what was committed may take until a node that lacks it is behind: deltas take milliseconds,
	// but a node that changes all the time reports once a second.
	UpdatingFor = 2 * time.Second
	// floodedFor is how long a node is named after it has reported too often.
	floodedFor = 30 * time.Second
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
	lost      bool // and its Lease has expired
	report    *schemas.Applied
	positions [2]model.Position // of layersOf; zero if it told none
	heard     time.Time
	flooded   time.Time // when it was last found to report too often
	latencies latencies
}

// New returns a Fleet without nodes.
func New() *Fleet { return &Fleet{nodes: map[string]*node{}, removed: map[string]time.Time{}} }

// Know tells which nodes the cluster has, and whether each is lost. One that it has no longer is forgotten. Its
// programmer may have a few last things to say; if it goes on for longer, it is a stranger.
func (f *Fleet) Know(lost map[string]bool) {
	f.strangers, f.known = 0, len(lost)
	for name, n := range f.nodes {
		_, known := lost[name]
		if n.known && !known {
			delete(f.nodes, name)
			f.removed[name] = time.Time{}
		}
		n.known, n.lost = known, lost[name]
	}
	for name, is := range lost {
		delete(f.removed, name)
		if f.nodes[name] == nil {
			f.nodes[name] = &node{known: true, lost: is}
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
	if n != nil && n.report != nil && report.GetSent().AsTime().Before(n.report.GetSent().AsTime()) && now.Sub(n.heard) <= missedAfter {
		return nil // an older one, out of the log; if nothing newer follows, the node's clock went back
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
	if report.GetAsBefore() {
		report.Maps, report.Drops, report.External = n.report.GetMaps(), n.report.GetDrops(), n.report.GetExternal()
	}
	n.heard, n.report = now, report
	for i, layer := range layersOf(name) {
		n.positions[i] = positions[layer]
	}
	if !n.latencies.begin(report.GetLatencyMicros()) {
		for _, d := range report.GetDeltas() {
			n.latencies.add(d.GetLatency().AsDuration())
		}
	}
	report.LatencyMicros = nil
	report.Deltas = nil // told in latencies; the rest would only be kept
	bound(report)
	return nil
}

// bound cuts what is kept of a report, and shown to people, to what an honest node says: it is told in each status.
func bound(report *schemas.Applied) {
	report.MapsKind = wire.Clean(report.GetMapsKind(), maxWord)
	report.Faults = report.GetFaults()[:min(len(report.GetFaults()), maxFaults)]
	for _, f := range report.GetFaults() {
		f.Kind, f.Text, f.Layer = wire.Clean(f.GetKind(), maxWord), wire.Clean(strings.ReplaceAll(f.GetText(), "\n", "; "), maxText), wire.Clean(f.GetLayer(), wire.MaxName)
		f.Stream = ""
	}
	if len(report.GetMaps()) > maxWords || len(report.GetDrops()) > maxWords {
		report.Maps, report.Drops = nil, nil
	}
	if e := report.GetExternal(); e != nil {
		e.Device, e.Masqueraded = wire.Clean(e.GetDevice(), maxWord), wire.Clean(e.GetMasqueraded(), maxText)
		e.Uplinks = e.GetUplinks()[:min(len(e.GetUplinks()), schemas.MaxUplinks)]
		for _, u := range e.GetUplinks() {
			u.Interface, u.Xdp, u.Reason = wire.Clean(u.GetInterface(), maxWord), wire.Clean(u.GetXdp(), maxWord), wire.Clean(u.GetReason(), maxText)
		}
	}
	for _, use := range report.GetMaps() {
		use.Name = wire.Clean(use.GetName(), maxWord)
	}
	for reason, n := range report.GetDrops() {
		if cleaned := wire.Clean(reason, maxWord); cleaned != reason {
			delete(report.Drops, reason)
			report.Drops[cleaned] += n
		}
	}
}

// Flooded notes that a node reports more often than it is listened to.
func (f *Fleet) Flooded(name string, now time.Time) {
	if n := f.nodes[name]; n != nil {
		n.flooded = now
	}
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

// layersOf returns the layers that a node has.
func layersOf(node string) [2]model.Layer {
	return [2]model.Layer{model.ClusterLayer, model.NodeLayer(node)}
}

// Holds says whether a node has reported that it holds a layer at a position.
func (f *Fleet) Holds(name string, l model.Layer, at model.Position) bool {
	n := f.nodes[name]
	if n == nil {
		return false
	}
	for i, layer := range layersOf(name) {
		if layer == l {
			return n.positions[i].Revision == at.Revision && n.positions[i].Digest == at.Digest
		}
	}
	return false
}
