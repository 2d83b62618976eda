// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
	"github.com/deltaplane/deltaplane/services/compiler/fleet"
)

// metrics are what a compiler counts.
type metrics struct {
	registry *prometheus.Registry

	leader, epoch, revision, setAside prometheus.Gauge
	checked, able, inStep             prometheus.Gauge
	alarms, bytes                     *prometheus.GaugeVec
	holding, held, pace               prometheus.Gauge
	rows, nodes                       *prometheus.GaugeVec
	identities, ruleSets              prometheus.Gauge
	policies                          *prometheus.GaugeVec

	commitCount, deltaBytes, deltaRows  prometheus.Counter
	facts, unchanged, units, mismatches prometheus.Counter
	checks, dropped, unsent, foreign    prometheus.Counter
	unread, unanswered                  prometheus.Counter
	unsealed, terms                     prometheus.Counter
	syncs, events, broken               *prometheus.CounterVec
	append, compile, latency            prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{registry: telemetry.Registry()}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_compiler_" + name, Help: help})
		m.registry.MustRegister(g)
		return g
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "deltaplane_compiler_" + name, Help: help}, labels)
		m.registry.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_compiler_" + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "deltaplane_compiler_" + name, Help: help}, []string{label})
		m.registry.MustRegister(c)
		return c
	}
	seconds := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "deltaplane_compiler_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		})
		m.registry.MustRegister(h)
		return h
	}
	m.leader = gauge("leader", "1 while this compiler leads.")
	m.epoch = gauge("epoch", "The epoch that this compiler leads in, or led in last.")
	m.revision = gauge("revision", "The newest revision.")
	m.holding = gauge("holding", "1 while nothing is compiled because somebody has rolled back and nobody has resumed.")
	m.held = gauge("held_changes", "Changes of objects that wait for somebody to resume.")
	m.setAside = gauge("objects_set_aside", "Objects that aren't compiled; status and events name them.")
	m.checked = gauge("checks_seals", "1 if messages are used only if sealed by a trusted key; 0 if everyone on the bus is believed (no --trusted-keys).")
	m.able = gauge("able", "1 if this compiler could lead: it has read STATE to its end.")
	m.inStep = gauge("in_step", "1 while this compiler stands by and has compiled the same as the leader, so that it takes over at once; 1 while it leads.")
	m.alarms = gauges("stream_alarms", "1 while something is wrong with a stream, by stream and kind; each compiler's last look, every 5 s.", "stream", "kind")
	m.bytes = gauges("stream_bytes", "How large a stream is (of: stored) and may become (of: limit).", "stream", "of")
	m.rows = gauges("rows", "Rows in all layers, by table.", "table")
	m.nodes = gauges("nodes", "Nodes, by how they stand: converged, updating (what was committed in the last 2 s is on its way), behind or lost (the Lease has expired).", "state")
	m.policies = gauges("policies", "Policies, by whether they are understood and within the limits: enforced, or refused, which closes what they select.", "state")
	m.identities = gauge("policy_identities", "Sets of addresses that policies tell apart.")
	m.ruleSets = gauge("policy_rule_sets", "Combinations of policies that pods have in one direction.")
	m.pace = gauge("pace_seconds", "How long there is between two messages to a node when there is always something to tell: more than usual while most nodes can't keep up.")
	m.terms = counter("terms_total", "Terms of leading begun.")
	m.commitCount = counter("commits_total", "Revisions that the log has accepted.")
	m.deltaBytes = counter("delta_bytes_total", "Bytes of deltas, as sent to the nodes of each layer.")
	m.deltaRows = counter("delta_rows_total", "Rows put or removed by deltas.")
	m.facts = counter("facts_total", "Facts taken in.")
	m.unchanged = counter("facts_unchanged_total", "Facts that said nothing new.")
	m.units = counter("units_compiled_total", "Services, nodes and networks compiled.")
	m.mismatches = counter("incremental_mismatches_total", "Times that incremental and full compilation differed; each is a bug to report.")
	m.checks = counter("checks_total", "Comparisons of rows with a compilation anew.")
	m.broken = counters("reads_broken_total", "Times that reading a stream broke off, since messages were missing on the way or the server was away, by stream.", "stream")
	m.dropped = counter("messages_dropped_total", "Times that messages from the bus were dropped because this process was too slow.")
	m.unsent = counter("messages_unsent_total", "Messages that could not be sent because the bus was away.")
	m.foreign = counter("reports_ignored_total", "Nodes' reports that can't be read, or of nodes that the cluster doesn't have.")
	m.unread = counter("reports_unread_total", "Nodes' reports that weren't read because the node sends more than 10 a second; status names it.")
	m.unanswered = counter("questions_unread_total", "Nodes' questions what they lack that weren't read because the node asks more than 200 times a second; status names it.")
	m.unsealed = counter("unsealed_messages_total", "Messages of STATE, DELTA and other compilers that weren't used because no trusted key has sealed them, or because they are old facts that were put back.")
	m.syncs = counters("sync_answers_total", "Answers to nodes that asked what they lack, by layer: deltas, branches (digests, and few rows), rows (all, a piece at a time), refused.", "answer")
	m.events = counters("events_total", "Events told, by kind.", "kind")
	m.append = seconds("append_duration_seconds", "How long it takes to append a batch to DELTA.")
	m.compile = seconds("compile_duration_seconds", "How long it takes to compile what was touched, with all that waited.")
	m.latency = seconds("event_to_commit_seconds", "From the oldest trigger of a revision until the log has accepted it.")
	return m
}

// streams shows how the streams stand.
func (m *metrics) streams(states []streams.State, alarms []streams.Alarm) {
	for _, of := range schemas.Streams {
		for _, kind := range streams.Kinds {
			m.alarms.WithLabelValues(of.Name, string(kind)).Set(0)
		}
	}
	for _, a := range alarms {
		m.alarms.WithLabelValues(a.Stream, string(a.Kind)).Set(1)
	}
	for _, is := range states {
		m.bytes.WithLabelValues(is.Name, "stored").Set(float64(is.Bytes))
		m.bytes.WithLabelValues(is.Name, "limit").Set(float64(is.MaxBytes))
	}
}

func oneIf(so bool) float64 {
	if so {
		return 1
	}
	return 0
}

// commits counts revisions.
func (m *metrics) commits(list []core.Commit) {
	for _, c := range list {
		m.commitCount.Inc()
		m.deltaBytes.Add(float64(c.Bytes))
		m.deltaRows.Add(float64(c.Rows))
		if !c.Oldest.IsZero() {
			m.latency.Observe(time.Since(c.Oldest).Seconds())
		}
	}
}

// count adds what the core has counted since before.
func (m *metrics) count(before, after core.Stats) {
	for counter, n := range map[prometheus.Counter]int{
		m.facts: after.Facts - before.Facts, m.unchanged: after.Unchanged - before.Unchanged,
		m.units: after.Units - before.Units, m.mismatches: after.Mismatches - before.Mismatches, m.checks: after.Checks - before.Checks,
		m.syncs.WithLabelValues("deltas"):   after.SyncDeltas - before.SyncDeltas,
		m.syncs.WithLabelValues("branches"): after.SyncBranches - before.SyncBranches,
		m.syncs.WithLabelValues("rows"):     after.SyncPieces - before.SyncPieces,
		m.syncs.WithLabelValues("refused"):  after.SyncRefused - before.SyncRefused,
	} {
		counter.Add(float64(n))
	}
}

// gauges sets what is so at the moment.
func (m *metrics) gauges(c *core.Core) {
	m.leader.Set(0)
	if c.Leads() {
		m.leader.Set(1)
		m.epoch.Set(float64(c.Epoch()))
	}
	m.able.Set(oneIf(c.Able()))
	m.inStep.Set(oneIf(c.Leads() || c.Agrees()))
	m.revision.Set(float64(c.Revision()))
	m.pace.Set(c.Pace().Seconds())
	m.setAside.Set(float64(c.SetAside()))
	m.holding.Set(oneIf(c.Hold() != nil))
	m.held.Set(float64(c.Hold().GetChanges()))
	for table, rows := range c.Tables() {
		m.rows.WithLabelValues(table).Set(float64(rows))
	}
	policies := c.Policies()
	m.policies.WithLabelValues("enforced").Set(float64(policies.InForce - policies.Refused))
	m.policies.WithLabelValues("refused").Set(float64(policies.Refused))
	m.identities.Set(float64(policies.Identities))
	m.ruleSets.Set(float64(policies.RuleSets))
	standings := c.Standings(time.Now())
	for standing, word := range fleet.Standings {
		m.nodes.WithLabelValues(word).Set(float64(standings[standing]))
	}
}
