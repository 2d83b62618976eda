// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/reporting"
)

// report publishes what this node holds, and says whether it could. What is no news expires: it would fill APPLIED.
func (l *link) report(r core.Report, drops map[string]uint64) bool {
	v := l.service
	holds := reporting.Holds{Uses: v.uses(r.Entries), Drops: drops, External: v.external()}
	keep := time.Duration(0)
	if r.Idle {
		keep = schemas.IdleReportTTL
	}
	sent := l.publish(schemas.AppliedSubject(v.settings.node), l.reports.Write(time.Now(), r, holds), keep)
	if !sent {
		l.reports.Lost()
	}
	return sent
}

// uses says how full the maps are. Of those that programs write the last sweep knows.
func (v *service) uses(entries [abi.MapCount]int) []*schemas.MapUse {
	uses := make([]*schemas.MapUse, 0, abi.MapCount+2)
	for m, n := range entries {
		uses = append(uses, &schemas.MapUse{Name: abi.Map(m).String(), Entries: uint64(n), Capacity: v.metrics.capacities[m]})
	}
	if v.settings.maps != mapsKernel {
		return uses
	}
	swept := v.health.lastSwept()
	return append(uses,
		&schemas.MapUse{Name: "flows", Entries: uint64(swept.Flows - swept.FlowsDeleted), Capacity: uint64(v.settings.flows)},
		&schemas.MapUse{Name: "affinities", Entries: uint64(swept.Affinities - swept.AffinitiesDeleted), Capacity: uint64(v.settings.affinities)},
		&schemas.MapUse{Name: "connections", Entries: uint64(swept.Connections - swept.ConnectionsDeleted), Capacity: uint64(v.settings.connections)})
}

func (l *link) event(e core.Event) {
	severity := schemas.Severity_SEVERITY_INFO
	if e.Warning {
		severity = schemas.Severity_SEVERITY_WARNING
	}
	l.say(&schemas.Event{Severity: severity, Kind: e.Kind, Text: e.Text})
}

// say publishes an event, with who says it and when filled in. While the bus is away it is kept for later.
func (l *link) say(e *schemas.Event) {
	e.Service, e.Node = "programmer", l.service.settings.node
	e.Happened = timestamppb.New(time.Now())
	wire.BoundEvent(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsaid = append(l.unsaid[max(0, len(l.unsaid)-unsaidMost+1):], e)
	l.sayUnsaid()
}

// sayRest publishes what was kept.
func (l *link) sayRest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sayUnsaid()
}

func (l *link) sayUnsaid() {
	for len(l.unsaid) > 0 && l.publish(schemas.EventSubject("programmer", l.service.settings.node), l.unsaid[0], 0) {
		l.unsaid = l.unsaid[1:]
	}
}

// dumpBytes is the size of one message of a dump, with room for what is around the rows.
const dumpBytes = schemas.MaxMessageBytes / 2

// dump answers with all that the maps hold.
func (l *link) dump(ctx context.Context, _ []byte, reply func([]byte) error) {
	if err := l.sendDump(ctx, reply); err != nil {
		l.service.log.Warn("a dump was not answered", "error", err)
		refusal, _ := proto.Marshal(&schemas.DumpReply{Refused: err.Error(), Last: true}) // of plain fields, so it can't fail
		_ = reply(refusal)                                                                // if the bus is away, nobody waits
	}
}

func (l *link) sendDump(ctx context.Context, reply func([]byte) error) error {
	layers, positions, err := l.service.actual(ctx)
	if err != nil {
		return err
	}
	var messages []*schemas.DumpReply
	for _, rows := range layers {
		parts, err := wire.SplitRows(rows, dumpBytes)
		if err != nil {
			return err
		}
		for _, part := range parts {
			messages = append(messages, &schemas.DumpReply{Rows: part, Sequence: uint32(len(messages))})
		}
	}
	messages[0].Positions = wire.PositionsToProto(positions)
	messages[0].Maps = l.service.uses(l.service.health.counted())
	messages[len(messages)-1].Last = true
	for _, m := range messages {
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if err := reply(data); err != nil {
			return err
		}
	}
	return nil
}
