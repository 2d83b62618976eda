// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// metrics are what a programmer counts.
type metrics struct {
	registry   *prometheus.Registry
	capacities [abi.MapCount]uint64
	latency    prometheus.Histogram
	entries    *prometheus.GaugeVec
	room       *prometheus.GaugeVec
	faults     *prometheus.GaugeVec
	drops      *prometheus.CounterVec
	dropped    map[string]uint64
	revision   *prometheus.GaugeVec
	lag        prometheus.Gauge
	checked    prometheus.Gauge
	flows      prometheus.Gauge
	halfOpen   prometheus.Gauge
	flowsEnded prometheus.Counter
	sweeping   prometheus.Counter
	proxy      *proxyMetrics
	policy     *policyMetrics
	services   *serviceMetrics
	counts     []count
}

// count brings one of the core's counts into a counter.
type count struct {
	counter prometheus.Counter
	of      func(*core.Stats) uint64
	last    uint64
}

func newMetrics(uses []maps.Use) *metrics {
	m := &metrics{
		registry: telemetry.Registry(),
		dropped:  map[string]uint64{},
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "deltaplane_programmer_event_to_kernel_seconds", Help: "From the trigger time of a delta's oldest cause until its rows were in force here.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17),
		}),
		entries:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "deltaplane_programmer_map_entries", Help: "Entries in use, by map."}, []string{"map"}),
		room:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "deltaplane_programmer_map_capacity", Help: "Entries that a map has room for, by map."}, []string{"map"}),
		faults:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "deltaplane_programmer_faults", Help: "What this node can't do at the moment or found wrong of late, by kind; readyz has the text."}, []string{"kind"}),
		drops:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "deltaplane_programmer_drops_total", Help: "Packets and connects that went no further, by reason."}, []string{"reason"}),
		revision:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "deltaplane_programmer_revision", Help: "The revision that the maps hold, by layer."}, []string{"layer"}),
		flows:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_programmer_flows", Help: "Entries of the connection table, two or four a flow, at the last sweep."}),
		flowsEnded: prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_flows_expired_total", Help: "Entries of the connection table that were deleted because their flow was over."}),
		halfOpen:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_programmer_half_open_flows", Help: "Flows of clients outside that have not shown that they hear the answers, at the last sweep; near a sixteenth of --flows in a flood."}),
		sweeping:   prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_sweep_seconds_total", Help: "Time spent looking for flows that are over."}),
		checked:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_programmer_checks_seals", Help: "1 if messages are used only if sealed by a trusted key; 0 if everyone on the bus is believed (no --trusted-keys)."}),
		lag:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_programmer_lag_revisions", Help: "By how many revisions the maps are behind the newest heard of."}),
	}
	m.counts = []count{
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_deltas_applied_total", Help: "Deltas and snapshots that came into force."}), func(s *core.Stats) uint64 { return s.Applied }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_deltas_refused_total", Help: "Deltas and snapshots that were refused whole: they don't fit or can't be right."}), func(s *core.Stats) uint64 { return s.Refused }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_deltas_repeated_total", Help: "Deltas that came again."}), func(s *core.Stats) uint64 { return s.Duplicates }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_deltas_stale_total", Help: "Deltas and heartbeats of compilers that no longer lead."}), func(s *core.Stats) uint64 { return s.StaleEpochs }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_gaps_total", Help: "Times that a delta was missing."}), func(s *core.Stats) uint64 { return s.Gaps }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_digest_mismatches_total", Help: "Times that rows were not those that a digest announces."}), func(s *core.Stats) uint64 { return s.Mismatches }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_foreign_messages_total", Help: "Messages on the bus that were set aside."}), func(s *core.Stats) uint64 { return s.Foreign }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_unsealed_messages_total", Help: "Messages that weren't used because no trusted key has sealed them."}), func(s *core.Stats) uint64 { return s.Unsealed }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_heartbeats_repeated_total", Help: "Heartbeats that were not newer than the newest of the highest epoch."}), func(s *core.Stats) uint64 { return s.Replayed }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_syncs_total", Help: "Questions to a compiler for what is missing."}), func(s *core.Stats) uint64 { return s.Syncs }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_syncs_failed_total", Help: "Questions that were not answered in full."}), func(s *core.Stats) uint64 { return s.SyncsFailed }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_snapshots_total", Help: "Layers that came as a whole."}), func(s *core.Stats) uint64 { return s.Snapshots }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_drifts_total", Help: "Times that the maps were found edited."}), func(s *core.Stats) uint64 { return s.Drifts }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_repairs_total", Help: "Times that the maps were read anew and brought back."}), func(s *core.Stats) uint64 { return s.Repairs }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_map_failures_total", Help: "Times that the kernel refused to write or read a map."}), func(s *core.Stats) uint64 { return s.MapFailures }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_map_writes_total", Help: "Map entries written or deleted."}), func(s *core.Stats) uint64 { return s.Writes }, 0},
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_programmer_received_bytes_total", Help: "Size of the deltas and snapshots that were taken."}), func(s *core.Stats) uint64 { return s.Bytes }, 0},
	}
	m.registry.MustRegister(m.latency, m.entries, m.room, m.faults, m.drops, m.revision, m.lag, m.checked, m.flows, m.halfOpen, m.flowsEnded, m.sweeping)
	for _, c := range m.counts {
		m.registry.MustRegister(c.counter)
	}
	for _, use := range uses {
		m.capacities[use.Map] = use.Capacity
		m.room.WithLabelValues(use.Map.String()).Set(float64(use.Capacity))
	}
	m.proxy = newProxyMetrics(m.registry)
	m.policy = newPolicyMetrics(m.registry)
	m.services = newServiceMetrics()
	m.registry.MustRegister(m.services)
	return m
}

// update takes over what the core counts.
func (m *metrics) update(c *core.Core) {
	stats := c.Stats()
	for i := range m.counts {
		now := m.counts[i].of(&stats)
		m.counts[i].counter.Add(float64(now - m.counts[i].last))
		m.counts[i].last = now
	}
	for which, n := range c.Entries() {
		m.entries.WithLabelValues(abi.Map(which).String()).Set(float64(n))
	}
	m.faults.Reset()
	for _, f := range c.Faults() {
		m.faults.WithLabelValues(f.Kind).Add(1)
	}
	for l, p := range c.Positions() {
		kind := "cluster"
		if l.Name != "" {
			kind = "node"
		}
		m.revision.WithLabelValues(kind).Set(float64(p.Revision))
	}
	m.lag.Set(float64(c.Lag()))
	m.proxy.update(c)
}

func (m *metrics) applied(deltas []core.AppliedDelta) {
	for _, d := range deltas {
		m.proxy.applied(&d)
		if d.Latency > 0 {
			m.latency.Observe(d.Latency.Seconds())
			m.proxy.programming.Observe(d.Latency.Seconds())
		}
	}
}

func (m *metrics) droppedSoFar(counts map[string]uint64) {
	for reason, n := range counts {
		if more := n - m.dropped[reason]; n > m.dropped[reason] {
			m.drops.WithLabelValues(reason).Add(float64(more))
		}
		m.dropped[reason] = n
	}
}

// swept takes over what a sweep found.
func (m *metrics) swept(s bpf.Swept) {
	m.flows.Set(float64(s.Flows - s.FlowsDeleted))
	m.halfOpen.Set(float64(s.HalfOpen))
	m.flowsEnded.Add(float64(s.FlowsDeleted))
	m.sweeping.Add(s.Busy.Seconds())
	m.policy.swept(s)
}
