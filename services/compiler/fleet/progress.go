// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Wanted is where layers should be.
type Wanted struct {
	// Position returns the newest position of a layer.
	Position func(model.Layer) model.Position
	// Since returns when the first revision of a layer after the one given was committed; zero if that is longer ago than is
	// known.
	Since func(model.Layer, model.Revision) time.Time
}

// Standing is how a node stands.
type Standing int

// The standings. A node that is Updating lacks only what was committed in the last UpdatingFor.
const (
	Converged Standing = iota
	Updating
	Behind
	Lost
)

// Standings lists all, with their words.
var Standings = map[Standing]string{Converged: "converged", Updating: "updating", Behind: "behind", Lost: "lost"}

// Progress is how one node stands, and why.
type Progress struct {
	Node     string
	Report   *schemas.Applied // the last one; nil if the node has never reported; not to be changed
	Standing Standing
	Behind   model.Revision // how many revisions
	Drifted  bool           // it has a layer's newest revision, and other rows
	Since    time.Time      // when the oldest revision that it lacks was committed; zero if it lacks none or that isn't known
	Reason   string         // why it isn't converged, for people
	P50, P99 time.Duration  // of the last deltas applied, from trigger to kernel
}

// Progress returns how all nodes stand, in order of their names.
func (f *Fleet) Progress(want Wanted, now time.Time) []Progress {
	all := make([]Progress, 0, len(f.nodes))
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		n := f.nodes[name]
		p := n.progress(name, want, now)
		p.P50, p.P99 = n.latencies.quantiles()
		all = append(all, p)
	}
	return all
}

// Counts returns how many nodes stand how.
func (f *Fleet) Counts(want Wanted, now time.Time) map[Standing]int {
	counts := map[Standing]int{}
	for name, n := range f.nodes {
		counts[n.gap(name, want, now).standing]++
	}
	return counts
}

// Late counts the nodes that lack what was committed UpdatingFor ago or longer, of those that have spoken of late and say
// nothing that would explain it.
func (f *Fleet) Late(want Wanted, now time.Time) (late, of int) {
	for name, n := range f.nodes {
		if n.report == nil || now.Sub(n.heard) > missedAfter || n.fault(now) != "" {
			continue
		}
		of++
		if g := n.gap(name, want, now); !g.differs && g.behind > 0 && now.Sub(g.since) > UpdatingFor {
			late++
		}
	}
	return late, of
}

// Lacking returns the nodes that aren't lost and haven't reported a revision, or what came after it, in order of their
// names.
func (f *Fleet) Lacking(revision model.Revision, want Wanted, now time.Time) (names []string) {
	for name, n := range f.nodes {
		if !n.away(now) && n.lacks(name, revision, want) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Of returns how one node stands.
func (f *Fleet) Of(name string, want Wanted, now time.Time) Progress {
	return f.nodes[name].progress(name, want, now)
}

// Latency returns quantiles of the last deltas of all nodes, from trigger to kernel; 0 if none are known.
func (f *Fleet) Latency() (p50, p99 time.Duration) {
	var h histogram
	for _, n := range f.nodes {
		n.latencies.into(&h)
	}
	return h.quantiles()
}

// lacks says whether a node may lack a revision: of some layer it has neither that revision, nor the newest if that is
// older, with its rows.
func (n *node) lacks(name string, revision model.Revision, want Wanted) bool {
	if n.report == nil {
		return true
	}
	for i, layer := range layersOf(name) {
		should, is := want.Position(layer), n.positions[i]
		if is.Revision < min(should.Revision, revision) || is.Revision == should.Revision && is.Digest != should.Digest {
			return true
		}
	}
	return false
}

// gap is what lies between where a node is and where it should be.
type gap struct {
	standing Standing
	layer    int // of layersOf, which lies farthest behind
	behind   model.Revision
	since    time.Time
	differs  bool // some layer is beyond, or has other rows
}

func (n *node) gap(name string, want Wanted, now time.Time) (g gap) {
	first := true
	for i, layer := range layersOf(name) {
		should, is := want.Position(layer), n.positions[i]
		switch {
		case is.Revision < should.Revision:
			if by := should.Revision - is.Revision; by > g.behind {
				g.behind, g.layer = by, i
			}
			if since := want.Since(layer, is.Revision); first || since.Before(g.since) {
				g.since, first = since, false
			}
		case is.Revision > should.Revision || is.Digest != should.Digest:
			if g.differs = true; g.behind == 0 {
				g.layer = i
			}
		}
	}
	switch {
	case n.away(now):
		g.standing = Lost
	case n.report == nil || g.differs || n.fault(now) != "" || now.Sub(n.heard) > SilentAfter:
		g.standing = Behind
	case g.behind > 0 && now.Sub(g.since) > UpdatingFor:
		g.standing = Behind
	case g.behind > 0:
		g.standing = Updating
	}
	return g
}

// away says whether a node is lost. One whose programmer reports is there, whatever became of its kubelet.
func (n *node) away(now time.Time) bool {
	return n.lost && now.Sub(n.heard) > missedAfter
}

// fault returns what is wrong with the node: what it says, and that it says too much. That a map is nearly full is a
// warning only.
func (n *node) fault(now time.Time) string {
	if !n.flooded.IsZero() && now.Sub(n.flooded) <= floodedFor {
		return "it floods: it reports or asks many times a second, and most of that isn't read"
	}
	for _, f := range n.report.GetFaults() {
		if f.GetKind() != "pressure" {
			return f.GetText()
		}
	}
	return ""
}

func (n *node) progress(name string, want Wanted, now time.Time) Progress {
	g := n.gap(name, want, now)
	p := Progress{Node: name, Report: n.report, Standing: g.standing, Behind: g.behind, Since: g.since}
	if g.standing == Converged {
		return p
	}
	layer := layersOf(name)[g.layer]
	should, is := want.Position(layer), n.positions[g.layer]
	p.Drifted = n.report != nil && is.Revision == should.Revision && is.Digest != should.Digest
	p.Reason = n.reason(g, layer, should, is, now)
	return p
}

// reason says why a node isn't converged, for people.
func (n *node) reason(g gap, layer model.Layer, should, is model.Position, now time.Time) string {
	silent, fault := now.Sub(n.heard), n.fault(now)
	switch {
	case g.standing == Lost:
		return "its Lease has expired: the node is away, and nobody waits for it"
	case n.report == nil:
		return "it has never reported: is its programmer running, and does it reach the bus?"
	case silent > SilentAfter || silent > quietAfter && g.standing == Behind && g.behind > 0 && fault == "":
		return fmt.Sprintf("silent for %s: is its programmer running, and does it reach the bus?", silent.Truncate(time.Second))
	case fault != "":
		return fault
	case is.Revision < should.Revision:
		return fmt.Sprintf("layer %s is at revision %d of %d", layer, is.Revision, should.Revision)
	case is.Revision > should.Revision:
		return fmt.Sprintf("layer %s is at revision %d, beyond the compiler's %d: it will be told what to hold", layer, is.Revision, should.Revision)
	}
	return fmt.Sprintf("layer %s has digest %s, it should have %s: something else writes its maps", layer, is.Digest, should.Digest)
}
