// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// loading is when the maps are to be read as a whole: at the start, after a failed write, and when they drifted.
type loading struct {
	wanted    bool
	busy      bool
	why       string // for events; empty at the start
	drift     []string
	cut       *transaction // what a failed write cut short; in force once repaired
	tries     int          // in a row that failed
	notBefore time.Time
}

func (c *Core) loadIfDue() {
	if c.loading.wanted && !c.loading.busy && !c.now.Before(c.loading.notBefore) {
		c.loading.wanted, c.loading.busy = false, true
		c.do(Load{})
	}
}

// distrust asks to read the maps anew, at once the first time, later after pauses.
func (c *Core) distrust(why string, failed bool) {
	c.loading.wanted, c.loading.why = true, why
	if failed {
		c.stats.MapFailures++
		if c.loading.tries++; c.loading.tries > 1 {
			c.loading.notBefore = c.now.Add(backoff(c.loading.tries) + c.jitter(backoffFirst))
		}
		c.fault(Fault{Kind: "map", Text: why})
	}
}

func (c *Core) loaded(in Loaded) {
	c.loading.busy = false
	if in.Err != nil {
		c.distrust(in.Err.Error(), true)
		return
	}
	in.State.SetTableSlots(cmp.Or(c.config.TableSlots, maglev.DefaultSize))
	if c.state == nil {
		c.resume(in)
		return
	}
	in.State.SetJudging(in.Judging)
	in.State.JudgeAgain() // what was to be judged again before the maps were read may not be
	c.repair(in.State)
}

// resume takes up what the maps hold at the start. Rows that have the digest recorded with them are those of the
// recorded revision: then nothing is to be done, and nothing is written.
func (c *Core) resume(in Loaded) {
	c.state = in.State
	c.state.SetJudging(in.Judging)
	c.clear("map")
	for _, kind := range kinds {
		l, recorded := &c.layers[kind], in.Positions[kind]
		l.position = recorded
		l.known = recorded.Epoch != 0 && recorded.Digest == c.state.Digest(kind)
		c.epoch = max(c.epoch, recorded.Epoch)
		if l.known {
			c.event(false, "resumed", "layer %s: the maps hold revision %d of epoch %d; nothing is written", l, recorded.Revision, recorded.Epoch)
		}
		if n := c.state.Closed(); recorded.Epoch != 0 && !l.known && kind == model.LayerNode && n > 0 {
			c.event(false, "resumed", "layer %s: the maps hold revision %d of epoch %d, but for policies that did not fit: %d "+
				"endpoints are closed; asking what differs", l, recorded.Revision, recorded.Epoch, n)
		} else if recorded.Epoch != 0 && !l.known {
			c.stats.Mismatches++
			c.event(true, "drift", "layer %s: the maps' rows have digest %s and not %s as recorded at revision %d: they were edited, "+
				"or a programmer was killed amid a change; asking what differs", l, c.state.Digest(kind), recorded.Digest, recorded.Revision)
		}
	}
	c.endpoints()
	c.wantSync(c.jitter(syncSpread))
	c.report.wanted = true
	judged := true
	if c.layers[model.LayerNode].known {
		judged = in.Judging == c.state.Policed()
	} else {
		c.state.JudgeAgain() // with the rows that are to come: a programmer may have been killed just before
	}
	if !c.state.Whole() || !c.state.Sure() || !judged {
		c.transact(&transaction{repair: true})
	}
}

// repair takes the maps from what they were found to hold to what they should.
func (c *Core) repair(found *plan.State) {
	wanted := c.state
	c.nameMissing(found, wanted)
	var changes []plan.LayerChange
	for _, kind := range kinds {
		change := model.Diff(found.Tables(kind), wanted.Wanted(kind))
		changes = append(changes, plan.LayerChange{Kind: kind, Change: change, TakeOver: true})
	}
	c.state = found
	c.transact(&transaction{repair: true}, changes...)
}

// nameMissing says what is missing in the maps, which reading them in slices can't name.
func (c *Core) nameMissing(found, wanted *plan.State) {
	var missing []string
	for _, kind := range kinds {
		put := model.Diff(found.Tables(kind), wanted.Tables(kind)).Put
		missing = append(missing, names(&put, wanted)...)
	}
	if len(missing) > 0 && c.loading.cut == nil && c.loading.tries == 0 {
		slices.Sort(missing) // rows come in no order
		c.loading.drift = append(c.loading.drift, "missing or changed: "+few(missing))
	}
}

// names says what rows are called, of a state that has them.
func names(put *model.Rows, in *plan.State) (all []string) {
	for _, f := range put.Frontends {
		all = append(all, "frontend "+f.FrontendKey.String())
	}
	for _, s := range put.Sets {
		all = append(all, fmt.Sprintf("set %d of %s", s.ID, s.Service))
	}
	for _, b := range put.Backends {
		all = append(all, fmt.Sprintf("backend %d (%s port %d)", b.ID, b.Addr, b.Port))
	}
	for _, m := range put.Members {
		all = append(all, fmt.Sprintf("slot of backend %d in set %d", m.Backend, m.Set))
	}
	for _, e := range put.Endpoints {
		all = append(all, "endpoint "+e.Addr.String())
	}
	for _, v := range put.Views {
		all = append(all, fmt.Sprintf("view of set %d → set %d", v.Set, v.Target))
	}
	for _, r := range put.SourceRanges {
		all = append(all, fmt.Sprintf("source range %s of set %d", r.Prefix, r.Set))
	}
	for _, n := range put.Networks {
		all = append(all, "network "+n.Prefix.String())
	}
	for _, h := range put.HealthChecks {
		all = append(all, fmt.Sprintf("health check at port %d", h.Port))
	}
	for _, n := range put.Nodes {
		all = append(all, fmt.Sprintf("node 0x%08x", uint32(n.ID)))
	}
	if len(put.Selves) > 0 {
		all = append(all, "the node's own row")
	}
	return append(all, in.PolicyNames(put)...)
}

// few joins what fits a sentence.
func few(texts []string) string {
	const most = 8
	if n := len(texts); n > most {
		return strings.Join(texts[:most], "; ") + fmt.Sprintf("; and %d more", n-most)
	}
	return strings.Join(texts, "; ")
}

// transact plans changes and gives out the writes, if they are taken.
func (c *Core) transact(t *transaction, changes ...plan.LayerChange) {
	p, err := c.state.Apply(c.config.Capacities, changes...)
	if err != nil {
		c.refused(t, err)
		return
	}
	c.write(t, p)
}

// write gives out the writes of a plan.
func (c *Core) write(t *transaction, p *plan.Plan) {
	t.writes, t.began = p.Writes(), c.now
	if t.with != nil {
		t.with.began = c.now
	}
	c.pending = t
	c.do(Transact{Phases: p.Phases})
	c.sayLeftOut()
	c.sayTableless()
}

// refused keeps what was there and says why. What doesn't fit may fit later; rows or a digest that can't be right are
// asked for as a whole.
func (c *Core) refused(t *transaction, err error) {
	c.stats.Refused++
	kind, lacking := "rows", 0
	if refusal, ok := errors.AsType[*plan.Refusal](err); ok {
		kind, lacking = refusal.Kind, refusal.Lacking
	}
	if t.repair {
		c.fault(Fault{Kind: kind, Text: "repairing the maps: " + err.Error()})
		c.loading.why, c.loading.drift, c.loading.cut = "", nil, nil
		c.compare()
		return
	}
	l := &c.layers[t.kind]
	text := fmt.Sprintf("layer %s, revision %d: %v", l, t.position.Revision, err)
	if kind == "capacity" {
		c.overflowed(l, lacking)
	} else {
		c.stats.Mismatches++
		l.known, l.full = false, false
		l.strayed++
	}
	c.ask(l)
	c.fault(Fault{Kind: kind, Text: text, Layer: l.Layer, Revision: t.position.Revision})
	c.event(true, kind, "%s", text)
	c.report.wanted = true
}

func (c *Core) done(in Done) {
	t := c.pending
	c.pending = nil
	c.sweep.disturbed = c.sweep.disturbed || t.writes > 0
	if in.Err != nil {
		if !t.repair {
			t.each(c.accept) // what the maps should hold now, and will after the repair
			c.loading.cut = t
		}
		c.distrust(in.Err.Error(), true)
		return
	}
	c.clear("map")
	c.loading.tries = 0
	c.stats.Writes += uint64(t.writes)
	if t.repair {
		c.repaired(t, in.Switched)
		return
	}
	t.each(c.accept)
	t.each(func(t *transaction) {
		c.do(Record{t.kind, t.position})
		if t.found != "" {
			c.event(false, "resynced", "%s", t.found)
		}
		c.displaced(t.kind)
		c.applied(t, in.Switched)
	})
}

// each is for both layers, if both change at once.
func (t *transaction) each(of func(*transaction)) {
	for ; t != nil; t = t.with {
		of(t)
	}
}

// displaced asks for the other layer as a whole if a change of this one took rows away from it: ids that meant
// something else there.
func (c *Core) displaced(by model.LayerKind) {
	for _, kind := range kinds {
		if l := &c.layers[kind]; kind != by && l.known && l.position.Digest != c.state.Digest(kind) {
			l.known = false
			c.event(true, "digest", "layer %s: ids of its rows mean something else in the rows of layer %s; asking what differs",
				l, c.layers[by])
			c.ask(l)
		}
	}
}

// accept moves the layer's position.
func (c *Core) accept(t *transaction) {
	l := &c.layers[t.kind]
	l.position, l.known, l.full, l.refusals, l.strayed = t.position, true, false, 0, 0
	c.otherThan(l).paired = false
	l.committed = c.now
	if t.delta != nil && !t.delta.Committed.IsZero() {
		l.committed = t.delta.Committed
	}
	l.heard = max(l.heard, t.position.Revision)
	if l.heard <= t.position.Revision {
		l.behind = time.Time{}
	}
	c.epoch = max(c.epoch, t.position.Epoch)
	if t.kind == model.LayerNode || !c.complete {
		c.endpoints()
	}
}

// repaired says what was found and repaired, and that what a failed write cut short is in force now.
func (c *Core) repaired(t *transaction, at time.Time) {
	if t.writes > 0 {
		c.stats.Repairs++
	}
	if len(c.loading.drift) > 0 {
		c.stats.Drifts++
		text := few(c.loading.drift)
		c.fault(Fault{Kind: "drift", Text: text + "; found by reading the maps, and repaired"})
		c.event(true, "drift", "%s; repaired", text)
	} else if why := c.loading.why; why != "" {
		c.event(false, "repaired", "the maps hold what they should again; what had happened: %s", why)
	}
	cut := c.loading.cut
	c.loading.why, c.loading.drift, c.loading.cut = "", nil, nil
	c.compare()
	if cut != nil {
		cut.each(func(t *transaction) { c.applied(t, at) })
	}
}

// compare looks whether the maps have the rows of the positions. Layers that could not be brought there are asked for
// as a whole.
func (c *Core) compare() {
	for _, kind := range kinds {
		l := &c.layers[kind]
		if l.known && l.position.Digest != c.state.Digest(kind) {
			l.known = false
			c.wantSync(0)
		}
		if l.known {
			c.do(Record{kind, l.position})
		}
	}
	c.endpoints()
	c.report.wanted = true
}

func (c *Core) endpoints() {
	c.complete = c.complete || c.layers[model.LayerCluster].known && c.layers[model.LayerNode].known
	rows := c.state.Tables(model.LayerNode).Endpoints
	wanted := make([]model.Endpoint, 0, len(rows))
	for _, e := range rows {
		wanted = append(wanted, e)
	}
	c.do(Endpoints{Wanted: wanted, Complete: c.complete})
}
