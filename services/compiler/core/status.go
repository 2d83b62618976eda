// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// The bounds of what people are told at once.
const (
	maxEvents      = 100  // of objects set aside, in one go
	maxSetAside    = 1000 // in a status
	maxReason      = 1 << 10
	foreignPerTime = 10 * time.Second // one event
)

// Applied takes in what a node reports, on the subject of that node. An error says why it is ignored.
func (c *Core) Applied(now time.Time, node string, data []byte) (out Output, err error) {
	report := &schemas.Applied{}
	err = wire.Unmarshal(data, report)
	if err == nil && report.GetNode() != node {
		err = fmt.Errorf("a report of node %.64q came on the subject of node %.64q: it is ignored", report.GetNode(), node)
	}
	if err == nil {
		err = c.fleet.Report(report, now)
	}
	if err != nil {
		out.Events = c.foreign(now, "report of a node", err)
		return out, err
	}
	if positions, err := wire.PositionsFromProto(report.GetPositions()); err == nil {
		if out.Outranked = c.outranked(node, positions); out.Outranked == nil {
			c.lift(now, node, positions)
		}
	}
	return out, nil
}

// Flooded takes in that a node reports more often than it is listened to.
func (c *Core) Flooded(now time.Time, node string) Output {
	c.fleet.Flooded(node, now)
	return Output{}
}

// strange counts messages that can't be used.
type strange struct {
	count int // since the last event
	next  time.Time
}

// foreign counts messages that can't be used, and tells of the first in a while.
func (c *Core) foreign(now time.Time, what string, err error) []*schemas.Event {
	c.strange.count++
	if now.Before(c.strange.next) {
		return nil
	}
	text := fmt.Sprintf("a %s was set aside, all else works: %v (%d messages since the last time this was said)", what, err, c.strange.count)
	c.strange.count, c.strange.next = 0, now.Add(foreignPerTime)
	return []*schemas.Event{c.event(now, schemas.Severity_SEVERITY_WARNING, "foreign_message", text, nil)}
}

// allAside returns the objects that aren't compiled, in order of their names.
func (c *Core) allAside() []*schemas.SetAside {
	var list []*schemas.SetAside
	for row := range c.db.Snapshot().SetAside() {
		list = append(list, toldAside(*row))
	}
	for _, aside := range c.aside {
		for _, row := range aside {
			list = append(list, toldAside(row))
		}
	}
	for _, row := range c.refused {
		list = append(list, toldAside(row))
	}
	slices.SortFunc(list, func(a, b *schemas.SetAside) int {
		return strings.Compare(objectName(a.GetObject())+a.GetReason(), objectName(b.GetObject())+b.GetReason())
	})
	return list[:min(len(list), maxSetAside)]
}

// toldAside is what people are told of an object. Whatever a fact is called, it fits a message.
func toldAside(s state.SetAside) *schemas.SetAside {
	o := s.Object
	named := wire.CauseToProto(model.Cause{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUid()})
	reason := s.Reason
	if len(reason) > maxReason {
		reason = fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(reason[:maxReason], ""), len(reason))
	}
	return &schemas.SetAside{Object: named.GetObject(), Reason: reason}
}

// SetAside returns how many objects aren't compiled.
func (c *Core) SetAside() (n int) {
	for range c.db.Snapshot().SetAside() {
		n++
	}
	for _, aside := range c.aside {
		n += len(aside)
	}
	return n + len(c.refused)
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
		if !told(old, s) {
			events = append(events, c.asideEvent(now, s))
		}
	}
	return events
}

// setAsideOf is setAside of several units, in their order: the same history says the same.
func (c *Core) setAsideOf(now time.Time, units map[compile.Unit][]state.SetAside) (events []*schemas.Event) {
	for _, unit := range slices.SortedFunc(maps.Keys(units), compile.Unit.Compare) {
		events = append(events, c.setAside(now, unit, units[unit])...)
	}
	return events
}

func (c *Core) setAllAside(now time.Time, units map[compile.Unit][]state.SetAside) (events []*schemas.Event) {
	maps.DeleteFunc(c.aside, func(unit compile.Unit, _ []state.SetAside) bool { return units[unit] == nil })
	return c.bound(now, append(events, c.setAsideOf(now, units)...))
}

// refuse notes which policies are beyond the limits, and tells what is new.
func (c *Core) refuse(now time.Time, refused []state.SetAside) (events []*schemas.Event) {
	for _, s := range refused {
		if !told(c.refused, s) {
			events = append(events, c.asideEvent(now, s))
		}
	}
	c.refused = refused
	return events
}

// told says that an object was set aside before, for the same reason.
func told(before []state.SetAside, s state.SetAside) bool {
	return slices.ContainsFunc(before, func(o state.SetAside) bool {
		return objectName(o.Object) == objectName(s.Object) && o.Reason == s.Reason
	})
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
	told := toldAside(s)
	text := objectName(told.GetObject()) + " is set aside, all else works: " + told.GetReason()
	return c.event(now, schemas.Severity_SEVERITY_WARNING, "object_set_aside", text, told.GetObject())
}

func (c *Core) event(now time.Time, severity schemas.Severity, kind, text string, object *schemas.ObjectRef) *schemas.Event {
	return &schemas.Event{
		Severity: severity, Service: "compiler", Kind: kind, Text: text, Object: object, Happened: timestamp(now),
	}
}

func objectName(o *schemas.ObjectRef) string {
	return model.Cause{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}.String()
}
