// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// change is one of the demo's changes: it is the revisions after from, up to to.
type change struct {
	what     string
	from, to uint64
}

// heard is what the demo has picked up from the bus.
type heard struct {
	mu      sync.Mutex
	applied map[string][]*schemas.AppliedDelta // by node
	drops   []*schemas.Event
}

// listen keeps what nodes report.
func (d *demo) listen() error {
	d.heard.applied = map[string][]*schemas.AppliedDelta{}
	conn := d.lab.Conn()
	_, err := conn.Subscribe(schemas.SubjectAllApplied, func(m bus.Message) {
		var report schemas.Applied
		if wire.Unmarshal(m.Data, &report) != nil {
			return
		}
		d.heard.mu.Lock()
		defer d.heard.mu.Unlock()
		d.heard.applied[report.GetNode()] = append(d.heard.applied[report.GetNode()], report.GetDeltas()...)
	})
	if err != nil {
		return err
	}
	_, err = conn.Subscribe(schemas.SubjectAllEvents, func(m bus.Message) {
		var event schemas.Event
		if wire.Unmarshal(m.Data, &event) != nil || event.GetDrop() == nil {
			return
		}
		d.heard.mu.Lock()
		defer d.heard.mu.Unlock()
		d.heard.drops = append(d.heard.drops, proto.CloneOf(&event))
	})
	return err
}

// converged shows that all nodes hold the same, at the newest revision.
func (d *demo) converged(ctx context.Context) error {
	status, err := d.lab.Status(ctx)
	if err != nil {
		return err
	}
	d.step("converged", "every node reports what is in its %s: revision and digest", d.mapsWord())
	table := newTable("NODE", "REVISION", "CLUSTER DIGEST", "STATE")
	digests := map[string]bool{}
	newest := uint64(0)
	for _, n := range status.GetNodes() {
		for _, p := range n.GetApplied().GetPositions() {
			if p.GetLayer() != "cluster" {
				continue
			}
			digest := fmt.Sprintf("%x", p.GetDigest())
			digests[digest] = true
			newest = max(newest, p.GetRevision())
			state := "converged"
			if !n.GetConverged() {
				state = n.GetReason()
				d.fault("node %s: %s", n.GetNode(), state)
			}
			table.row(n.GetNode(), strconv.FormatUint(p.GetRevision(), 10), digest, state)
		}
	}
	d.block(table.String())
	if len(digests) != 1 {
		d.fault("the nodes hold %d different digests", len(digests))
	}
	d.nodesEqual = len(digests) == 1
	return nil
}

func (d *demo) mapsWord() string {
	if d.memory != "" {
		return "maps"
	}
	return "kernel"
}

// costs adds up what each change wrote and what came over the bus for it.
func (d *demo) costs(context.Context) error {
	if len(d.changes) == 0 {
		return nil
	}
	d.step("cost", "what each change cost a node: entries written to its maps, bytes from the bus, time from the change to the %s", d.mapsWord())
	table := newTable("CHANGE", "WRITES", "BYTES", "DELTAS", "SLOWEST")
	for _, c := range d.changes {
		t := d.tally(c)
		table.row(c.what, each(t.writes), each(t.bytes), each(t.deltas), t.slowest.Round(100*time.Microsecond).String())
	}
	d.block(table.String())
	return nil
}

// tally is what one change cost: one number for each node.
type tally struct {
	writes, bytes, deltas []uint64
	slowest               time.Duration
}

func (d *demo) tally(c change) (t tally) {
	d.heard.mu.Lock()
	defer d.heard.mu.Unlock()
	for _, node := range d.lab.Nodes() {
		var writes, bytes, deltas uint64
		for _, a := range d.heard.applied[node] {
			if a.GetRevision() <= c.from || a.GetRevision() > c.to {
				continue
			}
			writes += a.GetWrites()
			bytes += a.GetBytes()
			deltas++
			t.slowest = max(t.slowest, a.GetLatency().AsDuration())
		}
		t.writes, t.bytes, t.deltas = append(t.writes, writes), append(t.bytes, bytes), append(t.deltas, deltas)
	}
	return t
}

// each writes the range that numbers of nodes span.
func each(numbers []uint64) string {
	least, most := numbers[0], numbers[0]
	for _, n := range numbers {
		least, most = min(least, n), max(most, n)
	}
	if least == most {
		return grouped(most)
	}
	return grouped(least) + "–" + grouped(most)
}

// eventPatience is how long a drop may take from the kernel to the bus.
const eventPatience = 5 * time.Second

// refusal dials a Service that nobody serves.
func (d *demo) refusal(ctx context.Context) error {
	if len(d.empty) == 0 || len(d.sources) == 0 {
		d.step("refusal", "every Service has backends: there is nothing to refuse")
		return nil
	}
	t, from := d.empty[0], d.sources[0]
	report, err := d.lab.Probe(ctx, plainProbe(t, from))
	if err != nil {
		return err
	}
	r := report.Results[0]
	d.step("refusal", "%s has no backends, so a client is told at once", t.name())
	d.refused = r.Outcome == agent.Refused
	d.point("%s from %s: %s after %s", t.name(), from.name, d.verdict(d.refused, string(r.Outcome)), time.Duration(r.LatencyMicros)*time.Microsecond)
	if d.memory != "" {
		d.point("the model's reason: %s", r.Error)
		return nil
	}
	event := d.dropOf(ctx, func(drop *schemas.Drop) bool { return drop.GetReason() == model.ReasonNoBackend.String() })
	if event == nil {
		d.fault("no event about the refusal came over the bus within %s", eventPatience)
		return nil
	}
	d.point("on the bus: %s, reason %s (%s)", event.GetText(), event.GetDrop().GetReason(), event.GetNode())
	return nil
}

// dropOf waits for the event of a drop on the bus; nil if none comes in time.
func (d *demo) dropOf(ctx context.Context, such func(*schemas.Drop) bool) (event *schemas.Event) {
	ctx, cancel := context.WithTimeout(ctx, eventPatience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		d.heard.mu.Lock()
		if i := slices.IndexFunc(d.heard.drops, func(e *schemas.Event) bool { return such(e.GetDrop()) }); i >= 0 {
			event = d.heard.drops[i]
		}
		d.heard.mu.Unlock()
		if event != nil {
			return event
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
