// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// pending is what waits to be compiled: units, each with the changes that touched it.
type pending struct {
	units       map[compile.Unit]*causes
	first, last time.Time
}

// causes are a bounded list of changes, in the order they came.
type causes struct {
	list    []model.Cause
	leftOut uint32
}

func (p *pending) add(touch state.Touch, now time.Time) {
	if p.units == nil {
		p.units, p.first = map[compile.Unit]*causes{}, now
	}
	p.last = now
	for _, unit := range compile.Touched(&touch) {
		p.unit(unit).add(touch.Cause)
	}
}

func (p *pending) unit(u compile.Unit) *causes {
	c := p.units[u]
	if c == nil {
		c = &causes{}
		p.units[u] = c
	}
	return c
}

func (p *pending) names() []compile.Unit { return slices.Collect(maps.Keys(p.units)) }

// add keeps of one object only its newest change, and when the first of them came about.
func (c *causes) add(cause model.Cause) {
	for i, old := range c.list {
		if old.Kind == cause.Kind && old.Namespace == cause.Namespace && old.Name == cause.Name {
			if !old.Trigger.IsZero() && old.Trigger.Before(cause.Trigger) {
				cause.Trigger = old.Trigger
			}
			c.list[i] = cause
			return
		}
	}
	if len(c.list) >= model.MaxCauses {
		c.leftOut++
		return
	}
	c.list = append(c.list, cause)
}

// gather merges the causes of units that changed one layer, oldest first.
func (p *pending) gather(units []compile.Unit) causes {
	seen := map[model.Cause]bool{}
	var all causes
	for _, u := range units {
		c := p.units[u]
		if c == nil {
			continue
		}
		all.leftOut += c.leftOut
		for _, cause := range c.list {
			if !seen[cause] {
				seen[cause] = true
				all.list = append(all.list, cause)
			}
		}
	}
	slices.SortFunc(all.list, func(a, b model.Cause) int {
		return cmp.Or(a.Trigger.Compare(b.Trigger), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	if extra := len(all.list) - model.MaxCauses; extra > 0 {
		all.list = all.list[:model.MaxCauses]
		all.leftOut += uint32(extra)
	}
	return all
}

// forgetTriggers is for the first compilation there is: its objects may be years old, and how long it took from
// their last changes until now tells nothing.
func (c *causes) forgetTriggers() {
	for i := range c.list {
		c.list[i].Trigger = time.Time{}
	}
}

// oldest returns when the first of the causes came about, zero if unknown.
func (c *causes) oldest() time.Time {
	for _, cause := range c.list {
		if !cause.Trigger.IsZero() && cause.Trigger.Unix() > 0 {
			return cause.Trigger
		}
	}
	return time.Time{}
}

func causesToProto(list []model.Cause) []*schemas.Cause {
	messages := make([]*schemas.Cause, len(list))
	for i, c := range list {
		messages[i] = wire.CauseToProto(c)
	}
	return messages
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
