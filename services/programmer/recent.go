// SPDX-License-Identifier: Apache-2.0

package main

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// recentMost bounds the drops that are remembered. Those not seen for longest are given up.
const recentMost = 1024

// recentDrops are what went no further of late, for who asks. Drops that differ in the source's port alone are one.
type recentDrops struct {
	mu    sync.Mutex
	at    map[recentKey]*list.Element
	order list.List // of *recentDrop, the latest in front
}

type recentKey struct {
	reason, protocol, via, direction uint8
	source, destination              netip.Addr
	port                             uint16
	set                              uint32
	ruleSet, rule                    uint64
}

type recentDrop struct {
	key           recentKey
	event         abi.DropEvent // the latest
	count         uint64
	first, latest time.Time
}

func keyOf(e *abi.DropEvent) recentKey {
	return recentKey{
		reason: e.Reason, protocol: e.Protocol, via: e.Via, direction: e.Direction,
		source: abi.Addr(e.Source), destination: abi.Addr(e.Destination), port: abi.HostPort(e.DestinationPort),
		set: e.Set, ruleSet: e.RuleSet, rule: e.Rule,
	}
}

// add remembers one drop.
func (r *recentDrops) add(e *abi.DropEvent, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := keyOf(e)
	if element, known := r.at[key]; known {
		d := element.Value.(*recentDrop)
		d.event, d.latest = *e, now
		d.count++
		r.order.MoveToFront(element)
		return
	}
	if r.at == nil {
		r.at = map[recentKey]*list.Element{}
	}
	if r.order.Len() >= recentMost {
		oldest := r.order.Back()
		delete(r.at, r.order.Remove(oldest).(*recentDrop).key)
	}
	r.at[key] = r.order.PushFront(&recentDrop{key: key, event: *e, count: 1, first: now, latest: now})
}

// list returns at most limit of those that count, the latest first.
func (r *recentDrops) list(limit int, counts func(*recentDrop) bool) (drops []recentDrop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for element := r.order.Front(); element != nil && len(drops) < limit; element = element.Next() {
		if d := element.Value.(*recentDrop); counts(d) {
			drops = append(drops, *d)
		}
	}
	return drops
}
