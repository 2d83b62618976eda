// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// reports gathers what the nodes say they have applied.
type reports struct {
	mu     sync.Mutex
	newest map[string]*schemas.Applied
	deltas []*schemas.AppliedDelta
	moved  chan struct{} // closed and made anew when something arrives
}

func listen(conn *bus.Conn) (*reports, error) {
	r := &reports{newest: map[string]*schemas.Applied{}, moved: make(chan struct{})}
	_, err := conn.Subscribe(schemas.SubjectAllApplied, func(m bus.Message) {
		var applied schemas.Applied
		if proto.Unmarshal(m.Data, &applied) == nil {
			r.add(&applied)
		}
	})
	return r, err
}

func (r *reports) add(applied *schemas.Applied) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest[applied.GetNode()] = applied
	r.deltas = append(r.deltas, applied.GetDeltas()...)
	close(r.moved)
	r.moved = make(chan struct{})
}

// take returns what was applied since the last take.
func (r *reports) take() []*schemas.AppliedDelta {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.deltas
	r.deltas = nil
	return taken
}

// waitFor waits until the compiler has compiled STATE up to a sequence and every node's cluster layer is at its revision.
func (r *reports) waitFor(ctx context.Context, conn *bus.Conn, sequence uint64, nodes int) error {
	for {
		r.mu.Lock()
		moved := r.moved
		r.mu.Unlock()
		behind, err := r.behind(ctx, conn, sequence, nodes)
		if err == nil && behind == 0 {
			return nil
		}
		select {
		case <-moved:
		case <-time.After(20 * time.Millisecond): // the compiler may move without any report
		case <-ctx.Done():
			return fmt.Errorf("wait for %d nodes, %d are behind: %w (last answer: %v)", nodes, behind, ctx.Err(), fmt.Sprint(err))
		}
	}
}

func (r *reports) behind(ctx context.Context, conn *bus.Conn, sequence uint64, nodes int) (int, error) {
	status, err := status(ctx, conn)
	if err != nil || status.GetStateSequence() < sequence {
		return nodes, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	behind := nodes
	for _, applied := range r.newest {
		for _, p := range applied.GetPositions() {
			if p.GetLayer() == "cluster" && p.GetRevision() == status.GetRevision() {
				behind--
			}
		}
	}
	return behind, nil
}

func status(ctx context.Context, conn *bus.Conn) (*schemas.Status, error) {
	data, err := conn.Request(ctx, schemas.SubjectStatus, nil)
	if err != nil {
		return nil, err
	}
	var s schemas.Status
	return &s, proto.Unmarshal(data, &s)
}

// summary prints p50 and p99 of the latencies, and what was written, in the form that benchstat reads.
func summary(name string, deltas []*schemas.AppliedDelta, changes int) {
	var latencies []time.Duration
	var writes, bytes uint64
	for _, d := range deltas {
		latencies = append(latencies, d.GetLatency().AsDuration())
		writes += d.GetWrites()
		bytes += d.GetBytes()
	}
	if len(latencies) == 0 {
		fmt.Printf("# %s: nothing was applied\n", name)
		return
	}
	slices.Sort(latencies)
	at := func(share float64) time.Duration { return latencies[int(share*float64(len(latencies)-1))] }
	fmt.Printf("BenchmarkPipeline/%s %d %.2f p50-ms %.2f p99-ms %.2f max-ms %.2f writes/delta %.0f bytes/delta %.2f changes/delta\n",
		name, len(deltas), milli(at(0.5)), milli(at(0.99)), milli(latencies[len(latencies)-1]),
		float64(writes)/float64(len(deltas)), float64(bytes)/float64(len(deltas)), float64(changes)/float64(len(deltas)))
}

func milli(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
