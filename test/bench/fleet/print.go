// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// print prints a result in lines of benchstat's format.
func (c *cluster) print(r result) {
	line := func(what, format string, args ...any) {
		fmt.Printf("BenchmarkFleet/%s/%d/%s 1 "+format+"\n", append([]any{r.step, c.nodes, what}, args...)...)
	}
	times := func(what string, h virtual.Histogram) {
		if h.Count > 0 {
			line(what, "%.1f p50-ms %.1f p99-ms %.1f max-ms %d times", millis(h.At(0.5)), millis(h.At(0.99)), millis(h.At(1)), h.Count)
		}
	}
	line("took", "%.2f s", r.took.Seconds())
	times("event-to-node", r.seen.Latencies)
	toAll, others := c.toAll(r.seen)
	times("event-to-all", toAll)
	if others > 0 {
		line("not-to-all-by-deltas", "%d revisions", others)
	}
	times("start-to-whole", r.seen.WholeAfter)
	times("away", r.seen.BackAfter)
	c.printMessages(r, line)
	c.printCosts(r, line)
	for _, text := range r.seen.Warnings[:min(3, len(r.seen.Warnings))] {
		fmt.Printf("# warning: %.300s\n", text)
	}
}

// toAll says when the last node had each revision that came to all of them as a delta, and how many others there were.
func (c *cluster) toAll(seen virtual.Seen) (h virtual.Histogram, others int) {
	for _, r := range seen.Revisions {
		if r.Nodes == c.nodes {
			h.Note(time.Duration(r.Last) * time.Microsecond)
		} else {
			others++
		}
	}
	return h, others
}

func (c *cluster) printMessages(r result, line func(what, format string, args ...any)) {
	n, nodes := r.seen.Counts, float64(c.nodes)
	each := func(what string) float64 { return float64(n[what]) / nodes }
	seconds := (r.took + settle).Seconds()
	line("to-node", "%.2f deltas/node %.2f deltas/node/s %.0f delta-B/node %.0f heartbeat-B/node/s %.2f answers/node %.0f answer-B/node",
		each("deltas"), each("deltas")/seconds, each("deltas-bytes"), each("heartbeats-bytes")/seconds, each("answers"), each("answers-bytes"))
	line("from-node", "%.2f reports/node %.0f report-B/node %.2f questions/node %d syncs-failed %d dropped %d reconnects %d unsent",
		each("reports"), each("reports-bytes"), each("questions"), n["syncs-failed"], n["dropped"], n["reconnects"], n["unsent"])
	if r.changes > 0 {
		line("a-change", "%d changes %.0f changes/s %.2f writes/node %.1f delta-B/node %.4f deltas/node", r.changes, float64(r.changes)/r.took.Seconds(), float64(r.seen.Writes)/nodes/float64(r.changes),
			each("deltas-bytes")/float64(r.changes), each("deltas")/float64(r.changes))
	}
}

func (c *cluster) printCosts(r result, line func(what, format string, args ...any)) {
	u, out := r.used, max(1, r.used.varz.OutMessages)
	line("server", "%.2f cpu-s %.1f cpu-us/delivery %d deliveries %d MB-out %d slow-consumers %d MiB %d peak-MiB", u.server.Seconds(),
		float64(u.server.Microseconds())/float64(out), out, u.varz.OutBytes>>20, u.varz.SlowConsumers, memory(c.server.RSS), memory(c.server.PeakRSS))
	line("compiler", "%.2f cpu-s %d MiB %d peak-MiB", u.compiler.Seconds(), memory(c.compiler.RSS), memory(c.compiler.PeakRSS))
	now, peak := 0, 0
	for _, w := range c.workers {
		now, peak = now+memory(w.RSS), peak+memory(w.PeakRSS)
	}
	heard := max(1, r.seen.Counts["deltas"]+r.seen.Counts["heartbeats"]+r.seen.Counts["answers"])
	line("nodes", "%.2f cpu-s %.1f cpu-us/message %d MiB %d peak-MiB %d peak-KiB/node", u.nodes.Seconds(),
		float64(u.nodes.Microseconds())/float64(heard), now, peak, peak<<10/c.nodes)
	machine := (r.took + settle).Seconds() * float64(runtime.NumCPU()) / 100
	line("processors", "%.0f server-%% %.0f compiler-%% %.0f nodes-%% %.0f watcher-%% of %d", u.server.Seconds()/machine, u.compiler.Seconds()/machine,
		u.nodes.Seconds()/machine, u.watcher.Seconds()/machine, runtime.NumCPU())
}

// memory is in MiB; a process that has ended has none.
func memory(of func() (int, error)) int {
	mib, err := of()
	if err != nil {
		return 0
	}
	return mib
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// first lets server and compiler go before the nodes, as if they had machines of their own.
func first(processes ...*stage.Process) {
	for _, p := range processes {
		if err := p.First(); err != nil {
			fmt.Println("# server and compiler compete with the nodes for the processors:", err)
		}
	}
}
