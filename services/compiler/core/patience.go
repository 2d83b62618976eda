// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
)

// maxBuckets bounds the nodes that are kept track of.
const maxBuckets = 8192

// allowance is how often one node may ask: so many times at once, then one more each refill.
type allowance struct {
	burst  float64
	refill time.Duration
}

var (
	// What a node lacks: it may have missed something, or started.
	toAsk = allowance{5, time.Second}
	// One step more of a walk: answers are small, or are paced by turns.
	toWalk = allowance{64, 10 * time.Millisecond}
)

// bucket is how often a node may still ask.
type bucket struct {
	left float64
	at   time.Time
}

// has says whether a node may ask now, without counting it.
func (b *bucket) has(a allowance, now time.Time) bool {
	if b.at.IsZero() {
		b.left = a.burst
	} else {
		b.left = min(a.burst, b.left+now.Sub(b.at).Seconds()/a.refill.Seconds())
	}
	b.at = now
	return b.left >= 1
}

func (b *bucket) wait(a allowance, now time.Time) time.Duration {
	if !b.has(a, now) {
		return time.Duration((1 - b.left) * float64(a.refill))
	}
	b.left--
	return 0
}

// patience is how often each node may still ask.
type patience map[string]*struct{ asks, walks bucket }

// wait returns how long a node has to wait before it may ask; 0 if it may now.
func (p *patience) wait(now time.Time, r *wire.SyncRequest) time.Duration {
	if *p == nil {
		*p = patience{}
	}
	b := (*p)[r.Node]
	if b == nil {
		if len(*p) >= maxBuckets {
			maps.DeleteFunc(*p, func(_ string, b *struct{ asks, walks bucket }) bool {
				full := time.Duration(toAsk.burst) * toAsk.refill
				return now.Sub(b.asks.at) > full && now.Sub(b.walks.at) > full
			})
		}
		if len(*p) >= maxBuckets {
			return toAsk.refill
		}
		b = &struct{ asks, walks bucket }{}
		(*p)[r.Node] = b
	}
	if len(r.Walks) > 0 {
		return b.walks.wait(toWalk, now)
	}
	return b.asks.wait(toAsk, now)
}

// turns shares what may be sent of rows among the nodes that ask: each that can't be answered at once is told when it is
// its turn, in the order in which they asked, and is answered if it asks then.
type turns struct {
	rate   int       // bytes a second
	free   time.Time // when all that was promised so far is sent
	booked map[string]time.Time
}

const (
	// ahead is how much may be sent at once after a pause.
	ahead = 250 * time.Millisecond
	// overdue is how long a turn stays a node's after its time.
	overdue = 10 * time.Second
)

// wait returns how long a node has to wait for its turn; 0 if it may be answered now, or asks for no rows.
func (t *turns) wait(now time.Time, r *wire.SyncRequest) time.Duration {
	if !asksForRows(r) {
		return 0
	}
	if at, waits := t.booked[r.Node]; waits && now.Sub(at) < overdue {
		if at.After(now) {
			return at.Sub(now)
		}
		delete(t.booked, r.Node)
		return 0
	}
	if earliest := now.Add(-ahead); t.free.Before(earliest) {
		t.free = earliest
	}
	at, room := t.free, r.Room
	if room == 0 {
		room = usualRoom
	}
	t.free = t.free.Add(time.Duration(float64(room) / float64(t.rate) * float64(time.Second)))
	if !at.After(now) {
		return 0
	}
	if t.booked == nil {
		t.booked = map[string]time.Time{}
	}
	if len(t.booked) >= maxBuckets {
		maps.DeleteFunc(t.booked, func(_ string, at time.Time) bool { return now.Sub(at) >= overdue })
	}
	t.booked[r.Node] = at
	return at.Sub(now)
}

// asksForRows says whether a request asks for all rows of a layer.
func asksForRows(r *wire.SyncRequest) bool {
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.Node)} {
		_, told := r.Positions[l]
		i := slices.IndexFunc(r.Walks, func(w model.Walk) bool { return w.Layer == l })
		if i >= 0 && r.Walks[i].All || i < 0 && !told {
			return true
		}
	}
	return false
}
