// SPDX-License-Identifier: Apache-2.0

package virtual

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

// traffic counts messages and their bytes.
type traffic struct{ messages, bytes atomic.Uint64 }

func (t *traffic) add(bytes int) {
	t.messages.Add(1)
	t.bytes.Add(uint64(bytes))
}

// counts are of all nodes of this process.
type counts struct {
	deltas, heartbeats, answers traffic // heard
	reports, asked              traffic // said

	events, dropped, reconnects, syncsFailed, unsent atomic.Uint64
}

func (c *counts) reset() {
	for _, t := range []*traffic{&c.deltas, &c.heartbeats, &c.answers, &c.reports, &c.asked} {
		t.messages.Store(0)
		t.bytes.Store(0)
	}
	for _, n := range []*atomic.Uint64{&c.events, &c.dropped, &c.reconnects, &c.syncsFailed, &c.unsent} {
		n.Store(0)
	}
}

// Counts by name: messages and bytes of what is heard and said, and how often something happened.
type Counts map[string]uint64

func (c *counts) values() Counts {
	values := Counts{
		"events": c.events.Load(), "dropped": c.dropped.Load(), "reconnects": c.reconnects.Load(),
		"syncs-failed": c.syncsFailed.Load(), "unsent": c.unsent.Load(),
	}
	for name, t := range map[string]*traffic{
		"deltas": &c.deltas, "heartbeats": &c.heartbeats, "answers": &c.answers, "reports": &c.reports, "questions": &c.asked,
	} {
		values[name], values[name+"-bytes"] = t.messages.Load(), t.bytes.Load()
	}
	return values
}

// Revision is how one revision of the cluster layer came to nodes.
type Revision struct {
	Revision model.Revision
	Nodes    int
	// From the trigger of its oldest cause to the kernel of the first and of the last node, in microseconds.
	First, Last int64
}

// Seen is what some nodes saw. It travels as JSON between processes.
type Seen struct {
	Counts    Counts
	Revisions []Revision
	// Latencies of all deltas of the cluster layer, from trigger to kernel.
	Latencies Histogram
	// Whole is how many nodes hold all that they heard of; WholeAfter how long it took each since it was started.
	Whole      int
	WholeAfter Histogram
	// BackAfter is how long each connection that was lost was away.
	BackAfter Histogram
	Writes    uint64
	Warnings  []string // some
}

// Add adds what others saw.
func (s *Seen) Add(other Seen) {
	if s.Counts == nil {
		s.Counts = Counts{}
	}
	for name, n := range other.Counts {
		s.Counts[name] += n
	}
	all := map[model.Revision]Revision{}
	for _, r := range slices.Concat(s.Revisions, other.Revisions) {
		if old, known := all[r.Revision]; known {
			r.Nodes, r.First, r.Last = r.Nodes+old.Nodes, min(r.First, old.First), max(r.Last, old.Last)
		}
		all[r.Revision] = r
	}
	s.Revisions = slices.SortedFunc(maps.Values(all), func(a, b Revision) int { return int(a.Revision) - int(b.Revision) })
	s.Latencies.Add(other.Latencies)
	s.WholeAfter.Add(other.WholeAfter)
	s.BackAfter.Add(other.BackAfter)
	s.Whole += other.Whole
	s.Writes += other.Writes
	s.Warnings = append(s.Warnings, other.Warnings...)
}

// ledger notes when deltas of the cluster layer came into force.
type ledger struct {
	mu   sync.Mutex
	kept noted
}

type noted struct {
	revisions                        map[model.Revision]Revision
	latencies, wholeAfter, backAfter Histogram
	writes                           uint64
	warnings                         []string
}

const warningsMost = 20

func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = noted{}
}

func (l *ledger) applied(d core.AppliedDelta) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept.writes += uint64(d.Writes)
	if d.Layer != model.ClusterLayer || d.Latency <= 0 {
		return
	}
	if l.kept.revisions == nil {
		l.kept.revisions = map[model.Revision]Revision{}
	}
	took := d.Latency.Microseconds()
	r, known := l.kept.revisions[d.To]
	if !known {
		r = Revision{Revision: d.To, First: took, Last: took}
	}
	r.Nodes, r.First, r.Last = r.Nodes+1, min(r.First, took), max(r.Last, took)
	l.kept.revisions[d.To] = r
	l.kept.latencies.Note(d.Latency)
}

func (l *ledger) whole(after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept.wholeAfter.Note(after)
}

func (l *ledger) back(after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept.backAfter.Note(after)
}

func (l *ledger) warn(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept.warnings) < warningsMost {
		l.kept.warnings = append(l.kept.warnings, text)
	}
}

func (l *ledger) seen() (s Seen) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &l.kept
	s.Latencies.Add(k.latencies)
	s.WholeAfter.Add(k.wholeAfter)
	s.BackAfter.Add(k.backAfter)
	s.Revisions, s.Writes, s.Warnings = slices.Collect(maps.Values(k.revisions)), k.writes, slices.Clone(k.warnings)
	return s
}
