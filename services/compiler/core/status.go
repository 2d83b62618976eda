// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// The bounds of what people are told at once.
const (
	maxEvents   = 100  // of objects set aside, in one go
	maxSetAside = 1000 // in a status
)

// Applied takes in what a node reports, on the subject of that node. An error says why it is ignored.
func (c *Core) Applied(now time.Time, node string, data []byte) (out Output, err error) {
	report := &schemas.Applied{}
	if err := wire.Unmarshal(data, report); err != nil {
		return out, err
	}
	if report.GetNode() != node {
		return out, fmt.Errorf("a report of node %.64q came on the subject of node %s: it is ignored", report.GetNode(), node)
	}
	if err := c.fleet.Report(report, now); err != nil {
		return out, err
	}
	if positions, err := wire.PositionsFromProto(report.GetPositions()); err == nil {
		out.Outranked = c.outranked(positions)
	}
	return out, nil
}

// Converged returns how many nodes hold what they should, and how many don't.
func (c *Core) Converged(now time.Time) (converged, behind int) {
	return c.fleet.Counts(c.Position, now)
}

// Status answers how the cluster stands.
func (c *Core) Status(now time.Time, to any) Output {
	m := &schemas.Status{
		Epoch: uint64(c.epoch), Revision: uint64(c.last.revision), Committed: timestamp(c.last.at), Causes: c.last.causes,
		Leader: c.o.Holder, Cluster: c.db.Snapshot().Cluster(), Rows: uint64(c.Rows()), SetAside: c.allAside(),
		StateSequence: c.done,
	}
	for _, p := range c.fleet.Progress(c.Position, now) {
		node := &schemas.NodeStatus{
			Node: p.Node, Applied: p.Report, Converged: p.Converged, Behind: uint64(p.Behind), Reason: p.Reason,
		}
		if p.P50 > 0 {
			node.LatencyP50, node.LatencyP99 = durationpb.New(p.P50), durationpb.New(p.P99)
		}
		m.Nodes = append(m.Nodes, node)
	}
	c.fit(m)
	return Output{Answers: []Answer{one(to, m)}}
}

// fit makes a status one message: in large clusters converged nodes are told without their reports, then not at
// all, those that are behind stay.
func (c *Core) fit(m *schemas.Status) {
	if proto.Size(m) <= c.o.MaxMessage {
		return
	}
	for _, n := range m.GetNodes() {
		if n.GetConverged() {
			n.Applied = nil
		}
	}
	slices.SortStableFunc(m.Nodes, func(a, b *schemas.NodeStatus) int {
		switch {
		case a.GetConverged() == b.GetConverged():
			return 0
		case b.GetConverged():
			return -1
		}
		return 1
	})
	for len(m.GetNodes()) > 0 && proto.Size(m) > c.o.MaxMessage {
		m.Nodes = m.GetNodes()[:len(m.GetNodes())*3/4]
	}
}

// allAside returns the objects that aren't compiled, in order of their names.
func (c *Core) allAside() []*schemas.SetAside {
	var list []*schemas.SetAside
	for row := range c.db.Snapshot().SetAside() {
		list = append(list, &schemas.SetAside{Object: row.Object, Reason: row.Reason})
	}
	for _, aside := range c.aside {
		for _, row := range aside {
			list = append(list, &schemas.SetAside{Object: row.Object, Reason: row.Reason})
		}
	}
	slices.SortFunc(list, func(a, b *schemas.SetAside) int {
		return strings.Compare(objectName(a.GetObject())+a.GetReason(), objectName(b.GetObject())+b.GetReason())
	})
	return list[:min(len(list), maxSetAside)]
}

// SetAside returns how many objects aren't compiled.
func (c *Core) SetAside() (n int) {
	for range c.db.Snapshot().SetAside() {
		n++
	}
	for _, aside := range c.aside {
		n += len(aside)
	}
	return n
}

// setAside notes what of a unit isn't compiled, and tells what is new.
func (c *Core) setAside(now time.Time, unit compile.Unit, aside []state.SetAside) (events []*schemas.Event) {
	old := c.aside[unit]
	if len(aside) == 0 {
		delete(c.aside, unit)
		return nil
	}
	c.aside[unit] = aside
	for _, s := range aside {
		if !slices.ContainsFunc(old, func(o state.SetAside) bool {
			return objectName(o.Object) == objectName(s.Object) && o.Reason == s.Reason
		}) {
			events = append(events, c.asideEvent(now, s))
		}
	}
	return events
}

func (c *Core) setAllAside(now time.Time, units map[compile.Unit][]state.SetAside) (events []*schemas.Event) {
	for unit := range c.aside {
		if units[unit] == nil {
			delete(c.aside, unit)
		}
	}
	for unit, aside := range units {
		events = append(events, c.setAside(now, unit, aside)...)
	}
	return c.bound(now, events)
}

// bound keeps a flood of events from drowning what else is said.
func (c *Core) bound(now time.Time, events []*schemas.Event) []*schemas.Event {
	if extra := len(events) - maxEvents; extra > 0 {
		events = append(events[:maxEvents], c.event(now, schemas.Severity_SEVERITY_WARNING, "object_set_aside",
			fmt.Sprintf("%d more objects are set aside: `deltaplane status` names them", extra), nil))
	}
	return events
}

func (c *Core) asideEvent(now time.Time, s state.SetAside) *schemas.Event {
	text := objectName(s.Object) + " is set aside, all else works: " + s.Reason
	return c.event(now, schemas.Severity_SEVERITY_WARNING, "object_set_aside", text, s.Object)
}

func (c *Core) event(now time.Time, severity schemas.Severity, kind, text string, object *schemas.ObjectRef) *schemas.Event {
	return &schemas.Event{
		Severity: severity, Service: "compiler", Kind: kind, Text: text, Object: object, Happened: timestamp(now),
	}
}

func objectName(o *schemas.ObjectRef) string {
	return model.Cause{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}.String()
}
