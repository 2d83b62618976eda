// SPDX-License-Identifier: Apache-2.0

package carry

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// late is what a plan has left to do once its grace period is over: nothing points at it any more, so it can wait,
// and what comes next need not. The next plan was made as if it were done; so late comes first if that plan writes one of
// the same entries, or makes programs look for one: for a view or source range of a set that it writes or leads to, or for
// a verdict of a rule set or on an identity that it leads to.
type late struct {
	phase   plan.Phase
	grace   chan error // of a grace period in the background; nil if there is none
	entries map[entry]struct{}
	roots   map[model.SetID]struct{} // of the views and source ranges among the entries
	// Rule sets and identities of the verdicts among the entries.
	ruleSets   map[model.RuleSetID]struct{}
	identities map[model.IdentityID]struct{}
	records    []core.Record
}

type entry struct {
	in  abi.Map
	key string
}

func (d *Driver) postpone(phase plan.Phase) {
	d.late = &late{
		phase: phase, entries: map[entry]struct{}{}, roots: map[model.SetID]struct{}{},
		ruleSets: map[model.RuleSetID]struct{}{}, identities: map[model.IdentityID]struct{}{},
	}
	for _, batch := range phase.Batches {
		for _, w := range batch {
			d.late.entries[entry{w.Map, string(w.Key)}] = struct{}{}
			if w.Map == abi.Views || w.Map == abi.SourceRanges {
				d.late.roots[plan.RootOf(w)] = struct{}{}
			}
			if w.Map == abi.Verdicts {
				key := plan.VerdictOf(w)
				d.late.ruleSets[key.RuleSet], d.late.identities[key.Identity] = struct{}{}, struct{}{}
			}
		}
	}
	if d.Background {
		grace := make(chan error, 1)
		d.late.grace = grace
		go func() { grace <- d.Maps.Grace() }() // finish waits for it
	}
}

// inTheWay says whether late must be done before phases.
func (l *late) inTheWay(phases []plan.Phase) bool {
	for _, phase := range phases {
		for _, batch := range phase.Batches {
			for _, w := range batch {
				_, same := l.entries[entry{w.Map, string(w.Key)}]
				_, looked := l.roots[plan.RootOf(w)]
				if same || looked || l.judges(w) {
					return true
				}
			}
		}
	}
	return len(phases) > 0 && phases[0].Grace
}

// judges says whether a write has programs look for verdicts that are among the entries.
func (l *late) judges(w maps.Write) bool {
	if len(l.ruleSets) == 0 || w.Value == nil {
		return false
	}
	switch w.Map {
	case abi.Endpoints:
		for _, id := range plan.JudgesOf(w) {
			if _, is := l.ruleSets[id]; is {
				return true
			}
		}
	case abi.Peers, abi.Blocks:
		_, is := l.identities[plan.IdentityOf(w)]
		return is
	}
	return false
}

// finish does what is late, if anything is.
func (d *Driver) finish() error {
	l := d.late
	if l == nil {
		return nil
	}
	d.late = nil
	if l.grace != nil {
		if err := <-l.grace; err != nil {
			return fmt.Errorf("before the phase %q: %w", l.phase.Name, err)
		}
		l.phase.Grace = false
	}
	if err := d.phase(l.phase); err != nil {
		return err
	}
	for _, r := range l.records {
		if err := d.Maps.SetPosition(r.Kind, r.Position); err != nil {
			return fmt.Errorf("recording how far the maps have come: %w", err)
		}
	}
	return nil
}

// Late is readable when Finish has something to do that needs no more waiting; nil if there is nothing to do.
func (d *Driver) Late() <-chan error {
	if d.late == nil {
		return nil
	}
	return d.late.grace
}

// Finish does what is late, having waited for its grace period, and what follows if that fails. It returns effects as
// Step does. waited is what was read from Late, if it was.
func (d *Driver) Finish(waited ...error) (others []core.Effect) {
	if len(waited) > 0 && d.late != nil && d.late.grace != nil {
		d.late.grace <- waited[0]
	}
	for d.late != nil {
		if err := d.finish(); err != nil {
			others = append(others, d.Step(core.Failed{Err: err})...)
		}
	}
	return others
}
