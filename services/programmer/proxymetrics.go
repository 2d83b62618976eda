// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deltaplane/deltaplane/services/programmer/core"
)

// proxyMetrics are those of kube-proxy that people have alerts and dashboards on, with kube-proxy's names. A sync of
// its rules is a delta or snapshot here.
type proxyMetrics struct {
	duration    prometheus.Histogram
	programming prometheus.Histogram
	last        prometheus.Gauge
	queued      prometheus.Gauge
	changes     map[string]prometheus.Counter // by kind of object
	pending     map[string]prometheus.Gauge
	noLocal     *prometheus.GaugeVec
	answers     map[string]*prometheus.CounterVec // by path
}

func newProxyMetrics(registry *prometheus.Registry) *proxyMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubeproxy_" + name, Help: help})
	}
	answers := func(name, path string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubeproxy_" + name, Help: "Answers of " + path + " at --healthz-address, by status."}, []string{"code"})
	}
	m := &proxyMetrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubeproxy_sync_proxy_rules_duration_seconds", Help: "From the start of a delta's or snapshot's first write until its rows were in force.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubeproxy_network_programming_duration_seconds", Help: "From the trigger time of a delta's oldest cause until its rows were in force here.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
		}),
		last:   gauge("sync_proxy_rules_last_timestamp_seconds", "When a delta or snapshot last came into force."),
		queued: gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When the newest delta or snapshot in force came."),
		changes: map[string]prometheus.Counter{
			"EndpointSlice": counter("sync_proxy_rules_endpoint_changes_total", "Causes of applied deltas that are EndpointSlices."),
			"Service":       counter("sync_proxy_rules_service_changes_total", "Causes of applied deltas that are Services."),
		},
		pending: map[string]prometheus.Gauge{
			"EndpointSlice": gauge("sync_proxy_rules_endpoint_changes_pending", "Revisions that were heard of and are not in force here; which objects they are of is not known before."),
			"Service":       gauge("sync_proxy_rules_service_changes_pending", "Revisions that were heard of and are not in force here; which objects they are of is not known before."),
		},
		noLocal: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
			Help: "Ports of Services with traffic policy Local that have endpoints, and none on this node.",
		}, []string{"traffic_policy"}),
		answers: map[string]*prometheus.CounterVec{
			"/healthz": answers("proxy_healthz_total", "/healthz"), "/livez": answers("proxy_livez_total", "/livez"),
		},
	}
	registry.MustRegister(m.duration, m.programming, m.last, m.queued, m.noLocal)
	for kind := range m.changes {
		registry.MustRegister(m.changes[kind], m.pending[kind])
	}
	for _, c := range m.answers {
		registry.MustRegister(c)
	}
	return m
}

func (m *proxyMetrics) applied(d *core.AppliedDelta) {
	m.duration.Observe(d.Took.Seconds())
	m.last.Set(seconds(d.Applied))
	m.queued.Set(seconds(d.Applied.Add(-d.Took)))
	for _, cause := range d.Causes {
		if c := m.changes[cause.Kind]; c != nil {
			c.Inc()
		}
	}
}

func (m *proxyMetrics) update(c *core.Core) {
	for _, g := range m.pending {
		g.Set(float64(c.Lag()))
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// withoutLocal takes over how many ports of Services have no endpoint here.
func (m *metrics) withoutLocal(internal, external int) {
	m.proxy.noLocal.WithLabelValues("internal").Set(float64(internal))
	m.proxy.noLocal.WithLabelValues("external").Set(float64(external))
}

// asked counts an answer at --healthz-address.
func (m *metrics) asked(path string, status int) {
	m.proxy.answers[path].WithLabelValues(strconv.Itoa(status)).Inc()
}
