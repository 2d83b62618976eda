// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"
)

// liveJSON says that every node that a commit is for has it in its kernel. Scripts read it.
type liveJSON struct {
	Type        string    `json:"type"` // "live"
	Revision    uint64    `json:"revision"`
	Nodes       int       `json:"nodes"`
	Live        time.Time `json:"live"`
	AfterMillis float64   `json:"afterMillis"` // from the commit to the last node
	Last        string    `json:"last"`        // the node that had it last
}

// rollout is a commit on its way to nodes.
type rollout struct {
	committed time.Time
	missing   map[string]bool // "node layer"
	nodes     map[string]bool
	live      time.Time // when the last node so far had it, and which that is
	last      string
}

// maxUnderway bounds the commits that are waited for: a node that is away for good must not cost memory.
const maxUnderway = 1024

// begin notes who has to apply a commit: every node its cluster layer, and each node its own.
func (t *tail) begin(c commitJSON) {
	r := &rollout{committed: c.Committed, missing: map[string]bool{}, nodes: map[string]bool{}}
	for _, d := range c.Deltas {
		own, isOwn := strings.CutPrefix(d.Layer, "node.")
		for node := range t.names.nodes {
			if !isOwn || node == own {
				r.missing[node+" "+d.Layer], r.nodes[node] = true, true
			}
		}
	}
	if len(r.missing) > 0 && len(t.underway) < maxUnderway {
		t.underway[c.Revision] = r
	}
}

// arrived notes that a node has a delta, and returns what to tell if it was the last.
func (t *tail) arrived(a appliedJSON) *liveJSON {
	r := t.underway[a.Revision]
	if r == nil || !r.missing[a.Node+" "+a.Layer] {
		return nil
	}
	delete(r.missing, a.Node+" "+a.Layer)
	if a.Applied != nil && !a.Applied.Before(r.live) {
		r.live, r.last = *a.Applied, a.Node
	}
	if len(r.missing) > 0 {
		return nil
	}
	delete(t.underway, a.Revision)
	return &liveJSON{
		Type: "live", Revision: a.Revision, Nodes: len(r.nodes), Live: r.live,
		AfterMillis: millis(max(0, r.live.Sub(r.committed))), Last: r.last,
	}
}

func (l liveJSON) line() string {
	return fmt.Sprintf("live on every node it is for (%d), %s after the commit, on %s last", l.Nodes, inMillis(l.AfterMillis), l.Last)
}
