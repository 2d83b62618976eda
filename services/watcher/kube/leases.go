// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// How Nodes are found to be lost.
const (
	// leaseDuration is what a kubelet's Lease has unless its nodeLeaseDurationSeconds says something else.
	leaseDuration = 40 * time.Second
	// mostGap bounds, as a part of a Lease's duration, what one silence counts. A kubelet renews after a quarter.
	mostGap = 3
	// sweepEvery is how often all Leases are looked at, while any is renewed.
	sweepEvery = time.Second
)

// leases know which Nodes are lost: those whose kubelet no longer renews its Lease (KEP-589) while others renew theirs.
//
// A Lease is as old as the time for which others have been heard since it last changed. No two clocks are compared: only
// changes count, and when they were heard (as in client-go's leader election). And while nothing is heard of any Node no
// Node grows older: then it is the API server, or the way to it, that is gone, and after it is back each Node has
// time to renew its Lease.
type leases struct {
	nodes map[string]*lease
	heard time.Duration // for how long renewals have been heard
	last  time.Time     // when the newest was
	swept time.Time
}

// lease is what is known of one Node's Lease.
type lease struct {
	renewed  time.Time     // by the kubelet's clock; only compared with itself
	at       time.Duration // on the clock that is leases.heard
	duration time.Duration
	lost     bool
}

// newLeases begins with the Nodes that were lost before; they are until their Lease is renewed.
func newLeases(lost map[string]bool) *leases {
	l := &leases{nodes: map[string]*lease{}}
	for node := range lost {
		l.nodes[node] = &lease{lost: true}
	}
	return l
}

func (l *leases) lost(node string) bool {
	of := l.nodes[node]
	return of != nil && of.lost
}

// see takes in a Lease as it is now and returns the Nodes that are lost by now, or no longer.
func (l *leases) see(now time.Time, is *coordinationv1.Lease) (changed []string) {
	of, known := l.nodes[is.Name]
	if !known {
		of = &lease{at: l.heard}
		l.nodes[is.Name] = of
	}
	renewed, before := renewTime(is), of.renewed
	of.renewed, of.duration = renewed, durationOf(is)
	if before.IsZero() || renewed.Equal(before) {
		return nil // the first sight of it says nothing about when it was renewed
	}
	l.hear(now, of.duration/mostGap)
	of.at = l.heard
	if of.lost {
		of.lost = false
		changed = append(changed, is.Name)
	}
	return append(changed, l.sweep(now)...)
}

func renewTime(l *coordinationv1.Lease) time.Time {
	if l.Spec.RenewTime == nil {
		return time.Time{}
	}
	return l.Spec.RenewTime.Time
}

func durationOf(l *coordinationv1.Lease) time.Duration {
	if seconds := l.Spec.LeaseDurationSeconds; seconds != nil && *seconds > 0 {
		return time.Duration(*seconds) * time.Second
	}
	return leaseDuration
}

// hear lets time pass: a renewal was heard. A silence before it counts up to most.
func (l *leases) hear(now time.Time, most time.Duration) {
	if !l.last.IsZero() {
		l.heard += min(now.Sub(l.last), most)
	}
	l.last = now
}

// sweep finds the Nodes that have been silent for too long.
func (l *leases) sweep(now time.Time) (changed []string) {
	if now.Sub(l.swept) < sweepEvery {
		return nil
	}
	l.swept = now
	for node, of := range l.nodes {
		if !of.lost && l.heard-of.at > of.duration {
			of.lost = true
			changed = append(changed, node)
		}
	}
	slices.Sort(changed)
	return changed
}

// remove forgets a Lease: a Node without one counts as alive. It says whether the Node was lost before.
func (l *leases) remove(node string) (changed bool) {
	changed = l.lost(node)
	delete(l.nodes, node)
	return changed
}
