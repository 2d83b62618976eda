// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// rulesMost bounds the rules that have a metric of their own; of more, those that come last by name are summed up.
const rulesMost = 500

// policyMetrics are those of what judges pods' connections.
type policyMetrics struct {
	connections prometheus.Gauge
	ended       prometheus.Counter
	epoch       prometheus.Gauge
	hits        *ruleHits
}

func newPolicyMetrics(registry *prometheus.Registry) *policyMetrics {
	m := &policyMetrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_policy_connections", Help: "Connections of this node's pods that are known, at the last sweep; 0 while there are no policies."}),
		ended:       prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_policy_connections_expired_total", Help: "Connections of pods that were forgotten because they or their pod were over."}),
		epoch:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "deltaplane_policy_epoch", Help: "How often what judges connections has changed; each time all of them are judged again. 0 while there are no policies."}),
		hits: &ruleHits{about: prometheus.NewDesc("deltaplane_policy_rule_connections_total",
			"Connections that a rule of a policy decided on this node, by policy, direction and the rule's place in it; of more than 500 rules the others together, without a policy.",
			[]string{"policy", "direction", "rule"}, nil)},
	}
	registry.MustRegister(m.connections, m.ended, m.epoch, m.hits)
	return m
}

// swept takes over what a sweep found.
func (m *policyMetrics) swept(s bpf.Swept) {
	m.connections.Set(float64(s.Connections - s.ConnectionsDeleted))
	m.ended.Add(float64(s.ConnectionsDeleted))
}

// ruleHits tells how often rules decided, of rules that are there.
type ruleHits struct {
	about *prometheus.Desc
	mu    sync.Mutex
	told  []ruleHit
}

type ruleHit struct {
	rule model.Rule
	hits uint64
}

// set takes over the hits of rules.
func (r *ruleHits) set(hits []ruleHit) {
	slices.SortFunc(hits, func(a, b ruleHit) int {
		return cmp.Or(cmp.Compare(a.rule.Policy.String(), b.rule.Policy.String()),
			cmp.Compare(a.rule.Direction, b.rule.Direction), cmp.Compare(a.rule.Index, b.rule.Index))
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = hits
}

// Describe implements prometheus.Collector.
func (r *ruleHits) Describe(into chan<- *prometheus.Desc) { into <- r.about }

// Collect implements prometheus.Collector.
func (r *ruleHits) Collect(into chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var others float64
	for i, h := range r.told {
		if i >= rulesMost {
			others += float64(h.hits)
			continue
		}
		into <- prometheus.MustNewConstMetric(r.about, prometheus.CounterValue, float64(h.hits),
			h.rule.Policy.String(), h.rule.Direction.String(), strconv.Itoa(int(h.rule.Index)))
	}
	if len(r.told) > rulesMost {
		into <- prometheus.MustNewConstMetric(r.about, prometheus.CounterValue, others, "", "", "")
	}
}

// countRules takes over what rules decided, and forgets what those did that are gone.
func (v *service) countRules(ctx context.Context) error {
	epoch, err := v.plane.epoch()
	if err != nil {
		return err
	}
	v.metrics.policy.epoch.Set(float64(epoch))
	hits, err := v.plane.ruleHits()
	if err != nil {
		return err
	}
	var told []ruleHit
	var gone []model.RuleID
	err = v.within(ctx, func() {
		if v.driver.Core.State() == nil {
			return // which rules there are is not known yet
		}
		rules := v.names().tables().Rules
		for id, rule := range rules {
			told = append(told, ruleHit{rule, hits[id]})
		}
		for id := range hits {
			if _, held := rules[id]; !held {
				gone = append(gone, id)
			}
		}
	})
	if err != nil {
		return nil // the service ends
	}
	v.metrics.policy.hits.set(told)
	return v.plane.forgetHits(gone)
}
