// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"fmt"
	"time"
)

const (
	// reportEvery bounds reports: the first of a while goes at once.
	reportEvery = time.Second
	// reportIdle is how often a node reports without news, reportTroubled while something is wrong: a node that lags
	// and is silent for 5 s counts as lost.
	reportIdle     = 10 * time.Second
	reportTroubled = 3 * time.Second
	// reportAnew is within what time all nodes report whole to a compiler that has begun to lead.
	reportAnew = 2 * time.Second
	// reportDeltas bounds what one report lists.
	reportDeltas = 256
	// driftShown is how long drift that was repaired is reported as a fault, so that whoever looks sees it; the event
	// stays on the bus.
	driftShown = 5 * time.Second
	// foreignEvery bounds events about messages that were set aside.
	foreignEvery = 10 * time.Second
)

type reporting struct {
	wanted bool
	whole  bool      // the next one leaves out nothing
	next   time.Time // not before
	idle   time.Time // at the latest
	deltas []AppliedDelta
	faults map[string]Fault

	foreign, unsealed setAside
}

// setAside counts messages that weren't used since the last event about one.
type setAside struct {
	count uint64
	next  time.Time
}

func (c *Core) reportIfDue() {
	r := &c.report
	for key, f := range r.faults {
		if f.Kind == "drift" && c.now.Sub(f.Since) > driftShown {
			delete(r.faults, key)
			r.wanted = true
		}
	}
	if c.now.Before(r.next) || !r.wanted && c.now.Before(r.idle) {
		return
	}
	idle := !r.wanted
	r.wanted = false
	r.next, r.idle = c.now.Add(reportEvery), c.now.Add(reportIdle)
	if c.Ready() != nil {
		r.idle = c.now.Add(reportTroubled)
	}
	c.do(Report{Positions: c.Positions(), Deltas: r.deltas, Faults: c.Faults(), Entries: c.state.Entries(), Idle: idle, Whole: r.whole})
	r.deltas, r.whole = nil, false
}

// reportWhole has everything reported soon.
func (c *Core) reportWhole() {
	c.report.whole = true
	c.report.idle = earlier(c.report.idle, c.now.Add(c.jitter(reportAnew)))
}

// applied notes that a delta is in force, for the next report.
func (c *Core) applied(t *transaction, switched time.Time) {
	c.stats.Applied++
	l := &c.layers[t.kind]
	for _, kind := range []string{"capacity", "rows", "digest"} {
		c.clear(kind)
		c.clear(kind + " " + l.String())
	}
	a := AppliedDelta{Layer: l.Layer, Epoch: t.position.Epoch, To: t.position.Revision, Applied: switched, Writes: t.writes, Bytes: t.bytes, Took: max(0, switched.Sub(t.began))}
	if t.delta != nil {
		a.Causes = t.delta.Causes
		a.Latency = latency(t.delta, switched)
	}
	if len(c.report.deltas) == reportDeltas {
		c.report.deltas = c.report.deltas[1:]
	}
	c.report.deltas = append(c.report.deltas, a)
	c.report.wanted = true
}

// latency is from the oldest trigger to now; 0 if no cause has one.
func latency(d *Delta, now time.Time) time.Duration {
	var oldest time.Time
	for _, cause := range d.Causes {
		if t := cause.Trigger; !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return max(now.Sub(oldest), 0)
}

func (c *Core) fault(f Fault) {
	key := f.Kind
	if f.Layer.Kind != 0 {
		key += " " + f.Layer.String()
	}
	f.Since = c.now
	if old, standing := c.report.faults[key]; standing && f.Kind != "drift" {
		f.Since = old.Since
	}
	c.report.faults[key] = f
	c.report.wanted = true
}

func (c *Core) clear(key string) {
	if _, standing := c.report.faults[key]; standing {
		delete(c.report.faults, key)
		c.report.wanted = true
	}
}

func (c *Core) event(warning bool, kind, format string, args ...any) {
	c.do(Event{Warning: warning, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// unreported takes back what a report could not be published with; it goes out once the bus is back.
func (c *Core) unreported(in Unreported) {
	all := append(in.Deltas, c.report.deltas...)
	c.report.deltas = all[max(0, len(all)-reportDeltas):]
}

// foreign counts messages that were set aside and tells about the first in a while.
func (c *Core) foreign(in Foreign) {
	kind, seen := "foreign_message", &c.report.foreign
	if in.Unsealed {
		kind, seen = "unsealed_message", &c.report.unsealed
		c.stats.Unsealed++
	} else {
		c.stats.Foreign++
	}
	seen.count++
	if c.now.Before(seen.next) {
		return
	}
	c.event(true, kind, "a message on %s was set aside: %v (%d since the last time this was said)", in.Subject, in.Err, seen.count)
	seen.count, seen.next = 0, c.now.Add(foreignEvery)
}

func (c *Core) hooks(in Hooks) {
	kind := cmp.Or(in.Kind, "hook")
	old, standing := c.report.faults[kind]
	switch {
	case in.Problem == "":
		c.clear(kind)
	case !standing || old.Text != in.Problem:
		c.fault(Fault{Kind: kind, Text: in.Problem})
		c.event(true, kind, "%s", in.Problem)
	}
}
