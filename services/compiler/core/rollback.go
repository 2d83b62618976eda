// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/steps"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/fleet"
)

// causeRollback is the kind of the cause of a revision that makes rows what they were.
const causeRollback = "Rollback"

// Rollback makes all layers what DELTA says they were at the revision of a history, and holds: nothing is compiled until
// Resume. The answer, a RollbackReply, goes to whoever to stands for once DELTA has all of it.
func (c *Core) Rollback(now time.Time, to any, r *schemas.RollbackRequest, h *History) Output {
	if len(c.appending) > 0 {
		return c.afterwards(func(now time.Time) Output { return c.Rollback(now, to, r, h) }, func() Output {
			return notRolledBack(to, "the log is slow and many are waiting: ask again later")
		})
	}
	if !c.Leads() || !c.settled {
		return notRolledBack(to, "the compiler can't roll back yet, it waits "+c.Waiting())
	}
	h.upTo(c.recent, c.revision)
	if why := h.lacking(c.revision); why != "" {
		return notRolledBack(to, why)
	}
	small, why := c.tooLarge(h)
	if why != "" {
		return notRolledBack(to, why)
	}
	c.ids.Advance(now)
	sets, backends := c.ids.Quarantined()
	stages, kept := c.backTo(h)
	m := &schemas.RollbackReply{Layers: uint32(len(inAll(stages))), Revision: uint64(c.revision)}
	for _, stage := range stages {
		for _, change := range stage {
			m.Rows += uint64(change.Put.Len() + change.Remove.Len())
		}
	}
	if r.GetDryRun() {
		c.renumber() // ids were given that nobody will have
		c.ids.Restore(sets, backends)
		m.Text = fmt.Sprintf("going back from revision %d to %d changes %d rows in %d layers%s", c.revision, h.wanted, m.Rows, m.Layers, keptText(kept)+smallText(small))
		return Output{Answers: []Answer{one(to, m)}}
	}
	before := c.revision
	c.commitRollback(now, stages, r, h)
	m.Done, m.Revision = true, uint64(c.revision)
	m.Text = fmt.Sprintf("all is as at revision %d again, by revision %d, for %s: %d rows in %d layers have changed. Changes of the cluster wait until somebody resumes%s",
		h.wanted, c.revision, teller(r.GetBy()), m.Rows, m.Layers, keptText(kept)+smallText(small))
	event := c.event(now, schemas.Severity_SEVERITY_WARNING, "rolled_back", fmt.Sprintf("from revision %d: %s", before, m.Text), nil)
	c.later = append(c.later, func(time.Time) Output {
		return Output{Answers: []Answer{one(to, m)}, Events: []*schemas.Event{event}}
	})
	return c.append()
}

// commitRollback commits stages and, with the last of them, the hold.
func (c *Core) commitRollback(now time.Time, stages []compile.Stage, r *schemas.RollbackRequest, h *History) {
	hold := &schemas.Hold{
		Revision: uint64(h.wanted), RolledBack: uint64(c.revision), By: r.GetBy(), Since: timestamp(now), StateSequence: c.done,
	}
	why := causes{list: []model.Cause{{Kind: causeRollback, Name: strconv.FormatUint(uint64(h.wanted), 10), Manager: r.GetBy(), Trigger: now}}}
	c.compiling = c.done
	for _, stage := range stages {
		c.commit(now, stage, func(model.Layer) causes { return why })
	}
	if len(c.appending) == 0 {
		c.appending = append(c.appending, step{})
	}
	last := &c.appending[len(c.appending)-1]
	record := c.holdRecord(hold)
	last.more = append(last.more, record)
	last.bytes, last.messages = last.bytes+len(record.Data), last.messages+1
	c.log.hold = hold
	c.countHeld(0)
	c.compiled, c.engine = nil, nil
}

// backTo returns what turns the rows there are into those of a history: each stage is a whole of its own, as package steps
// has it. A node that wasn't there then has no Services' rows afterwards; it keeps its policies, since nothing may be open
// because a row is missing. Those nodes are kept.
func (c *Core) backTo(h *History) (stages []compile.Stage, kept []string) {
	wanted := c.renumbered(h)
	for l, held := range c.layers {
		if then := wanted[l]; l.Kind == model.LayerNode && (then == nil || then.Len() == 0) && held.rows.Len() > 0 {
			wanted[l] = withoutServices(held.rows)
			kept = append(kept, l.Name)
		}
	}
	if then := wanted[model.ClusterLayer]; then != nil {
		wanted[model.ClusterLayer] = withNodesOf(c.rows(model.ClusterLayer), then)
	}
	slices.Sort(kept)
	stages = make([]compile.Stage, 3)
	for i := range stages {
		stages[i] = compile.Stage{}
	}
	for l, then := range wanted {
		changes := steps.Between(c.rows(l), then)
		for i, change := range changes {
			if len(changes) == 1 {
				i = 1 // with what isn't policies' where there are more
			}
			if !change.Empty() {
				stages[i][l] = change
			}
		}
	}
	return slices.DeleteFunc(stages, func(s compile.Stage) bool { return len(s) == 0 }), kept
}

// withNodesOf returns rows with the nodes there are: how one is reached is no choice that was made, and going back to what
// it was would lose packets between nodes.
func withNodesOf(now, then *model.Tables) *model.Tables {
	all := *then
	all.Nodes = now.Nodes
	return &all
}

// withoutServices returns the rows of a node's layer that aren't about Services, and share its tables.
func withoutServices(t *model.Tables) *model.Tables {
	rest := *t
	rest.Frontends, rest.Sets, rest.Backends, rest.Members = nil, nil, nil, model.NewTables().Members
	rest.Views, rest.SourceRanges, rest.HealthChecks = nil, nil, nil
	return &rest
}

// tooLarge returns the nodes whose maps have no room for the rows of a history, by what they say of them. It is a reason
// not to go back only if most say so: a node without room keeps the rows that it has and tells, and one that lies must not
// keep the others from going back.
func (c *Core) tooLarge(h *History) (small []string, why string) {
	told := 0
	for _, p := range c.fleet.Progress(c.wanted(), c.last.at) {
		if len(p.Report.GetMaps()) == 0 {
			continue
		}
		told++
		if text := noRoom(h, p); text != "" {
			small, why = append(small, p.Node), cmp.Or(why, text)
		}
	}
	if 2*len(small) <= told {
		return small, ""
	}
	return small, why
}

// noRoom says why the rows of a history don't fit a node's maps; empty if they do as far as it is known.
func noRoom(h *History, p fleet.Progress) string {
	for _, use := range p.Report.GetMaps() {
		if use.GetCapacity() == 0 {
			continue
		}
		rows := 0
		for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(p.Node)} {
			if held := h.fold.layers[l]; held != nil {
				rows += rowsOf(use.GetName(), held.rows)
			}
		}
		if uint64(rows) > use.GetCapacity() {
			return fmt.Sprintf("revision %d doesn't fit node %s: its map %s has room for %d entries, then there were %d", h.wanted, p.Node, use.GetName(), use.GetCapacity(), rows)
		}
	}
	return ""
}

// rowsOf returns how many entries some rows take at least in a node's map.
func rowsOf(name string, t *model.Tables) int {
	switch table, _, _ := strings.Cut(name, "_v"); table {
	case "frontends":
		return len(t.Frontends)
	case "sets":
		return len(t.Sets)
	case "slots":
		return len(t.Members)
	case "backends":
		return len(t.Backends)
	case "endpoints":
		return len(t.Endpoints)
	}
	return 0
}

func notRolledBack(to any, why string) Output {
	return Output{Answers: []Answer{one(to, &schemas.RollbackReply{Text: why})}}
}

func keptText(nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	text := fmt.Sprintf("; %d nodes weren't there then, they keep their policies and have no Services", len(nodes))
	return text + fmt.Sprintf(" (%s, …)", nodes[0])
}

func smallText(nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d nodes say that their maps have no room for it, they keep what they have (%s, …)", len(nodes), nodes[0])
}

func inOrderOf(layers map[model.Layer]*layer) []*layer {
	list := make([]*layer, 0, len(layers))
	for _, l := range slices.SortedFunc(maps.Keys(layers), compareLayers) {
		list = append(list, layers[l])
	}
	return list
}

func sorted[K cmp.Ordered, R any](rows map[K]R) []R {
	list := make([]R, 0, len(rows))
	for _, k := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, rows[k])
	}
	return list
}
