// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// servicesMost bounds the Services that have metrics of their own; of more, those that come last are summed up.
const servicesMost = 500

// serviceMetrics tell what became of Services' packets, of Services that are there.
type serviceMetrics struct {
	drops, flows, uncounted *prometheus.Desc
	mu                      sync.Mutex
	told                    []*schemas.ServiceCount
	own                     map[string]bool // whether a Service has metrics of its own, which it keeps: a counter never goes back
	owned                   int
	ended                   []*schemas.ServiceCount // of those summed up that are gone, without a name
	lost                    uint64
}

func newServiceMetrics() *serviceMetrics {
	const more = " of more than 500 Services the others together, without a name."
	return &serviceMetrics{
		drops: prometheus.NewDesc("deltaplane_service_drops_total",
			"Packets and connects of a Service that went no further, by reason;"+more, []string{"service", "reason"}, nil),
		flows: prometheus.NewDesc("deltaplane_service_flows_total",
			"Flows to a Service that began by an uplink, by how they go on: local, tunnel, dsr or snat;"+more,
			[]string{"service", "forwarding"}, nil),
		uncounted: prometheus.NewDesc("deltaplane_service_uncounted_total",
			"Drops and flows that are in no Service's counts, since there was no room for another's; see --max-service-counts.", nil, nil),
	}
}

// set takes over the counts of Services, in the order of their names.
func (m *serviceMetrics) set(counts []*schemas.ServiceCount, uncounted uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	told, own := m.told, m.own
	m.told, m.lost = counts, uncounted
	m.choose(own)
	for _, c := range told {
		if _, there := m.own[c.GetService()]; !there && !own[c.GetService()] {
			m.ended = append(m.ended, unnamed(c))
		}
	}
	m.ended = summedUp(m.ended)
}

// choose decides for Services that are new, after those that are gone have made room.
func (m *serviceMetrics) choose(before map[string]bool) {
	m.own, m.owned = make(map[string]bool, len(before)), 0
	for _, c := range m.told {
		if own, known := before[c.GetService()]; known {
			m.keep(c.GetService(), own)
		}
	}
	for _, c := range m.told {
		m.keep(c.GetService(), m.owned < servicesMost)
	}
}

// keep notes whether a Service has metrics of its own, unless that is noted.
func (m *serviceMetrics) keep(service string, own bool) {
	if _, known := m.own[service]; known {
		return
	}
	if m.own[service] = own; own {
		m.owned++
	}
}

// Describe implements prometheus.Collector.
func (m *serviceMetrics) Describe(into chan<- *prometheus.Desc) {
	into <- m.drops
	into <- m.flows
	into <- m.uncounted
}

// Collect implements prometheus.Collector.
func (m *serviceMetrics) Collect(into chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	into <- prometheus.MustNewConstMetric(m.uncounted, prometheus.CounterValue, float64(m.lost))
	var others []*schemas.ServiceCount
	for _, c := range m.ended {
		others = append(others, unnamed(c))
	}
	for _, c := range m.told {
		if !m.own[c.GetService()] {
			others = append(others, unnamed(c))
			continue
		}
		into <- m.metric(c)
	}
	for _, c := range summedUp(others) {
		into <- m.metric(c)
	}
}

func (m *serviceMetrics) metric(c *schemas.ServiceCount) prometheus.Metric {
	about, label := m.flows, c.GetForwarding()
	if c.GetReason() != "" {
		about, label = m.drops, c.GetReason()
	}
	return prometheus.MustNewConstMetric(about, prometheus.CounterValue, float64(c.GetCount()), c.GetService(), label)
}

func unnamed(c *schemas.ServiceCount) *schemas.ServiceCount {
	return &schemas.ServiceCount{Reason: c.GetReason(), Forwarding: c.GetForwarding(), Count: c.GetCount()}
}

// summedUp orders counts by name and makes one of those that are of the same, as a Service's two families are.
func summedUp(counts []*schemas.ServiceCount) []*schemas.ServiceCount {
	order := func(a, b *schemas.ServiceCount) int {
		return cmp.Or(cmp.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetForwarding(), b.GetForwarding()), cmp.Compare(a.GetReason(), b.GetReason()))
	}
	slices.SortFunc(counts, order)
	var sums []*schemas.ServiceCount
	for _, c := range counts {
		if n := len(sums); n > 0 && order(sums[n-1], c) == 0 {
			sums[n-1].Count += c.GetCount()
			continue
		}
		sums = append(sums, c)
	}
	return sums
}

// serviceCounts returns what is counted of the Services that are there, summed up, and the counts of those that are gone.
func (v *service) serviceCounts(ctx context.Context) (counts []*schemas.ServiceCount, gone []abi.CountKey, uncounted uint64, err error) {
	found, uncounted, err := v.plane.serviceCounts()
	if err != nil {
		return nil, nil, 0, err
	}
	err = v.within(ctx, func() { counts, gone = v.names().serviceCounts(found) })
	return counts, gone, uncounted, err
}

func (n names) serviceCounts(found map[abi.CountKey]uint64) (counts []*schemas.ServiceCount, gone []abi.CountKey) {
	if n.state == nil {
		return nil, nil // which Services there are is not known yet
	}
	for key, count := range found {
		if port, held := n.state.Service(model.SetID(key.Set)); held {
			counts = append(counts, countToProto(port, key, count))
		} else {
			gone = append(gone, key)
		}
	}
	return summedUp(counts), gone
}

func countToProto(of model.ServicePort, key abi.CountKey, n uint64) *schemas.ServiceCount {
	c := &schemas.ServiceCount{Service: of.String(), Count: n}
	if key.Reason != 0 {
		c.Reason = model.DropReason(key.Reason).String()
	} else {
		c.Forwarding = key.Forwarding.String()
	}
	return c
}

// countServices takes over what became of Services' packets, and forgets what is of sets that are gone.
func (v *service) countServices(ctx context.Context) error {
	counts, gone, uncounted, err := v.serviceCounts(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // the service ends
		}
		return err
	}
	v.metrics.services.set(counts, uncounted)
	return v.plane.forgetCounts(gone)
}
