// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// accounts are what was used so far.
type accounts struct {
	server, compiler, nodes time.Duration
	varz                    varz
}

func (c *cluster) account() (a accounts, err error) {
	add := func(to *time.Duration, p *stage.Process) {
		cpu, errCPU := p.CPU()
		*to += cpu
		err = errors.Join(err, errCPU)
	}
	add(&a.server, c.server)
	add(&a.compiler, c.compiler)
	for _, w := range c.workers {
		add(&a.nodes, w.Process)
	}
	v, errVarz := c.varz()
	a.varz = v
	return a, errors.Join(err, errVarz)
}

// measure runs a step and prints what nodes saw, what was sent, and what it cost.
func (c *cluster) measure(ctx context.Context, name string, changes int, step func() error) error {
	if name != "start" {
		if _, err := c.do("reset"); err != nil {
			return err
		}
	}
	before, err := c.account()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := step(); err != nil {
		return err
	}
	took := time.Since(began)
	if err := pause(ctx, 1500*time.Millisecond); err != nil { // the last reports of the nodes
		return err
	}
	after, err := c.account()
	if err != nil {
		return err
	}
	seen, err := c.do("seen")
	if err != nil {
		return err
	}
	c.print(name, changes, took, seen, before, after)
	return nil
}

func (c *cluster) print(name string, changes int, took time.Duration, seen virtual.Seen, before, after accounts) {
	nodes := float64(c.nodes)
	line := func(what, format string, args ...any) {
		fmt.Printf("BenchmarkFleet/%s/%d/%s 1 "+format+"\n", append([]any{name, c.nodes, what}, args...)...)
	}
	line("took", "%.2f s", took.Seconds())
	if len(seen.Latencies) > 0 {
		slices.Sort(seen.Latencies)
		line("event-to-node", "%.1f p50-ms %.1f p99-ms %.1f max-ms", millis(at(seen.Latencies, 0.5)), millis(at(seen.Latencies, 0.99)), millis(at(seen.Latencies, 1)))
	}
	var toAll []int64
	partly := 0
	for _, r := range seen.Revisions {
		if r.Nodes == c.nodes {
			toAll = append(toAll, r.Last)
		} else {
			partly++
		}
	}
	if len(toAll) > 0 {
		slices.Sort(toAll)
		line("event-to-all", "%.1f p50-ms %.1f p99-ms %.1f max-ms %d revisions %d revisions-by-sync", millis(at(toAll, 0.5)), millis(at(toAll, 0.99)), millis(at(toAll, 1)), len(toAll), partly)
	}
	if len(seen.WholeAfter) > 0 {
		slices.Sort(seen.WholeAfter)
		line("start-to-whole", "%.1f p50-ms %.1f p99-ms %.1f max-ms", millis(at(seen.WholeAfter, 0.5)), millis(at(seen.WholeAfter, 0.99)), millis(at(seen.WholeAfter, 1)))
	}
	n := seen.Counts
	seconds := took.Seconds()
	line("to-node", "%.2f deltas/node %.2f deltas/node/s %.0f delta-B/node %.0f heartbeat-B/node/s %.2f answers/node %.0f answer-B/node",
		float64(n["deltas"])/nodes, float64(n["deltas"])/nodes/seconds, float64(n["deltas-bytes"])/nodes,
		float64(n["heartbeats-bytes"])/nodes/(seconds+1.5), float64(n["answers"])/nodes, float64(n["answers-bytes"])/nodes)
	line("from-node", "%.2f reports/node %.0f report-B/node %.2f questions/node %d syncs-failed %d dropped %d reconnects %d unsent",
		float64(n["reports"])/nodes, float64(n["reports-bytes"])/nodes, float64(n["questions"])/nodes, n["syncs-failed"], n["dropped"], n["reconnects"], n["unsent"])
	if changes > 0 {
		line("writes", "%.2f writes/node/change", float64(seen.Writes)/nodes/float64(changes))
	}
	out := max(1, after.varz.OutMessages-before.varz.OutMessages)
	line("server", "%.2f cpu-s %.1f cpu-us/delivery %d deliveries %d MB-out %d slow-consumers %d peak-MiB", (after.server - before.server).Seconds(),
		float64((after.server-before.server).Microseconds())/float64(out), out, (after.varz.OutBytes-before.varz.OutBytes)>>20, after.varz.SlowConsumers-before.varz.SlowConsumers, peak(c.server))
	line("compiler", "%.2f cpu-s %d peak-MiB", (after.compiler - before.compiler).Seconds(), peak(c.compiler))
	mib := 0
	for _, w := range c.workers {
		mib += peak(w.Process)
	}
	line("nodes", "%.2f cpu-s %.0f peak-KiB/node", (after.nodes - before.nodes).Seconds(), float64(mib)*1024/nodes)
	for _, text := range seen.Warnings[:min(3, len(seen.Warnings))] {
		fmt.Printf("# warning: %.300s\n", text)
	}
}

func peak(p *stage.Process) int {
	mib, err := p.PeakRSS()
	if err != nil {
		return 0
	}
	return mib
}

// at returns a quantile of what is sorted.
func at[N int32 | int64](sorted []N, share float64) N {
	return sorted[int(share*float64(len(sorted)-1))]
}

func millis[N int32 | int64](micros N) float64 { return float64(micros) / 1000 }
