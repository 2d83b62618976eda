// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// How much is checked: so many Services a heartbeat, in order of their names; and everything once in fullEvery,
// or more seldom when there are so many rows that it would take more than about 1 % of a core.
const (
	servicesAtOnce = 16
	fullEvery      = time.Minute
	fullPerRow     = 400 * time.Microsecond
)

// checkState is how far the checks have come.
type checkState struct {
	next, full time.Time
	after      state.Name // the Service that was checked last
	last       *Mismatch
}

// Mismatch is an incremental compilation that led to other rows than a full one, with both for the report.
type Mismatch struct {
	At       time.Time
	Revision model.Revision
	Found    string
	// By layer: the rows that the incremental compilations led to where a full one leads to others, and those.
	Incremental, Full map[model.Layer]model.Rows
}

// sample compares some of the rows with a compilation anew while nothing else is to be done.
func (c *Core) sample(now time.Time) (out Output) {
	if !c.Leads() || c.compiled == nil || len(c.appending) > 0 || !c.pending.empty() || now.Before(c.check.next) {
		return out
	}
	if c.check.next.IsZero() {
		c.check.full = now.Add(c.fullInterval())
	}
	c.check.next = now.Add(c.o.Heartbeat)
	if !now.Before(c.check.full) {
		c.check.full = now.Add(c.fullInterval())
		return c.checkAll(now, "")
	}
	checked := 0
	for svc := range c.compiled.ServicesFrom(c.check.after) {
		if checked++; checked > servicesAtOnce {
			c.check.after = svc.Name
			return out
		}
		c.stats.Checks++
		if err := compile.Check(c.compiled, c.ids, c.o.Settings, c.rows, svc.Name); err != nil {
			return c.checkAll(now, fmt.Sprintf("Service %s: %v", svc.Name, err))
		}
	}
	c.check.after = state.Name{}
	return out
}

func (c *Core) fullInterval() time.Duration {
	return max(fullEvery, time.Duration(c.Rows())*fullPerRow)
}

// checkAll compiles everything; if that leads to other rows than there are, they are put right and both are
// reported.
func (c *Core) checkAll(now time.Time, found string) (out Output) {
	c.stats.Checks++
	stages := compile.Compare(c.compiled, c.ids, c.newEngine(), c.o.Settings, c.tables()).Stages
	if len(stages) == 0 && found == "" {
		return out
	}
	m := &Mismatch{
		At: now, Revision: c.revision, Found: found, Incremental: map[model.Layer]model.Rows{}, Full: map[model.Layer]model.Rows{},
	}
	rows := 0
	for l, change := range inAll(stages) {
		m.Incremental[l], m.Full[l] = c.before(l, change), change.Put
		rows += change.Put.Len() + change.Remove.Len()
	}
	c.stats.Mismatches++
	c.check.last, out.Mismatch = m, m
	out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_ERROR, "incremental_mismatch", fmt.Sprintf(
		"after revision %d compiling everything leads to %d other rows in %d layers than the changes had led to; they are put right now: please report this bug with the compiler's log. %s",
		c.revision, rows, len(m.Full), found), nil))
	out.Add(c.compileAll(now))
	return out
}

// inAll returns what stages change together, by layer; for people, so what one puts and a later one removes stays.
func inAll(stages []compile.Stage) compile.Stage {
	all := compile.Stage{}
	for _, stage := range stages {
		for l, change := range stage {
			if all[l] == nil {
				all[l] = &model.Change{}
			}
			all[l].Put.Append(&change.Put)
			all[l].Remove.Append(&change.Remove)
		}
	}
	return all
}

// before returns the rows that a change replaces or removes.
func (c *Core) before(l model.Layer, change *model.Change) model.Rows {
	held := c.rows(l)
	changed := held.Clone()
	changed.Apply(change, model.Digest{})
	return model.Diff(changed, held).Put
}
