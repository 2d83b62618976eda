// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// metrics are what a watcher counts.
type metrics struct {
	registry   *prometheus.Registry
	objects    *prometheus.GaugeVec
	published  *prometheus.CounterVec
	suppressed prometheus.Counter
	setAside   prometheus.Gauge
	held       prometheus.Gauge
	watches    *prometheus.CounterVec
	leader     prometheus.Gauge
	able       prometheus.Gauge
	seals      prometheus.Gauge
	terms      prometheus.Counter
	dropped    prometheus.Counter
	alarms     *prometheus.GaugeVec
	bytes      *prometheus.GaugeVec
	append     prometheus.Histogram
	door       *prometheus.CounterVec
	reviews    prometheus.Counter
}

func newMetrics() *metrics {
	name := func(n, help string) (string, string) { return "deltaplane_watcher_" + n, help }
	gauge := func(n, help string) prometheus.GaugeOpts {
		n, help = name(n, help)
		return prometheus.GaugeOpts{Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.CounterOpts {
		n, help = name(n, help)
		return prometheus.CounterOpts{Name: n, Help: help}
	}
	m := &metrics{
		registry:   telemetry.Registry(),
		objects:    prometheus.NewGaugeVec(gauge("objects", "Objects published in STATE, by kind."), []string{"kind"}),
		published:  prometheus.NewCounterVec(counter("facts_published_total", "Facts published; change is put or delete."), []string{"kind", "change"}),
		suppressed: prometheus.NewCounter(counter("updates_suppressed_total", "Updates that changed nothing a data plane needs.")),
		setAside:   prometheus.NewGauge(gauge("objects_set_aside", "Objects that can't be used; the events and the log name them.")),
		held:       prometheus.NewGauge(gauge("deletions_held", "Deletions that wait for approval.")),
		watches:    prometheus.NewCounterVec(counter("watches_total", "Watches started at the API server, by kind; one that broke is started again."), []string{"kind"}),
		leader:     prometheus.NewGauge(gauge("leader", "1 while this watcher publishes.")),
		able:       prometheus.NewGauge(gauge("able", "1 while this watcher leads or could: it knows STATE, everything was listed, and its source is there.")),
		seals:      prometheus.NewGauge(gauge("seals", "1 if facts are sealed, 0 if not (no --signing-key): then compilers with trusted keys don't use them.")),
		terms:      prometheus.NewCounter(counter("terms_total", "Terms of leading begun.")),
		door:       prometheus.NewCounterVec(counter("joins_total", "Nodes that joined by their token, and credentials asked for; result is ok, refused, or busy: more tokens were shown than the API server is asked about."), []string{"asked", "result"}),
		reviews:    prometheus.NewCounter(counter("token_reviews_total", "Times that the API server was asked whether a node's token is genuine.")),
		alarms:     prometheus.NewGaugeVec(gauge("stream_alarms", "1 while something is wrong with STATE, by kind; the leader's last look, every 10 s."), []string{"kind"}),
		bytes:      prometheus.NewGaugeVec(gauge("stream_bytes", "How large STATE is (of: stored) and may become (of: limit)."), []string{"of"}),
		dropped:    prometheus.NewCounter(counter("kubernetes_events_dropped_total", "Kubernetes Events not written because there were too many.")),
		append: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "deltaplane_watcher_append_duration_seconds", Help: "How long it takes to append a batch of facts to STATE.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	m.registry.MustRegister(m.objects, m.published, m.suppressed, m.setAside, m.held, m.watches, m.leader, m.able, m.seals, m.terms, m.dropped, m.alarms, m.bytes, m.append, m.door, m.reviews)
	return m
}

// stream shows how STATE stands.
func (m *metrics) stream(is streams.State, alarms []streams.Alarm) {
	m.bytes.WithLabelValues("stored").Set(float64(is.Bytes))
	m.bytes.WithLabelValues("limit").Set(float64(is.MaxBytes))
	for _, kind := range streams.Kinds {
		m.alarms.WithLabelValues(string(kind)).Set(0)
	}
	for _, alarm := range alarms {
		m.alarms.WithLabelValues(string(alarm.Kind)).Set(1)
	}
}

// count counts what was done.
func (m *metrics) count(c *core.Core, done core.Effects) {
	for _, p := range done.Publish {
		change := "put"
		if p.Tombstone() {
			change = "delete"
		}
		m.published.WithLabelValues(p.Fact.GetObject().GetKind(), change).Inc()
	}
	m.suppressed.Add(float64(done.Suppressed))
	for kind, n := range c.Objects() {
		m.objects.WithLabelValues(kind).Set(float64(n))
	}
	m.setAside.Set(float64(len(c.SetAside())))
	m.held.Set(float64(c.Held().GetDeletions()))
}
