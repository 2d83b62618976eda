// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// Swept is what a sweep found and did.
type Swept struct {
	Flows              int // entries, two or four a flow, before the sweep
	FlowsDeleted       int
	HalfOpen           int // flows whose client has not shown that it hears the answers
	Affinities         int
	AffinitiesDeleted  int
	Connections        int
	ConnectionsDeleted int
	Busy               time.Duration // spent working, the pauses not counted
}

// The sweep works for a slice of time and rests for the rest of its period: a twentieth of one processor, whatever it
// finds, and no program waits for it for long.
const (
	sweepSlice  = 5 * time.Millisecond
	sweepPeriod = 100 * time.Millisecond
)

// Sweep deletes the flows that have been idle for longer than timeouts say, all entries of a flow together, the
// affinities that are over, and the connections that are, or whose pod is gone. now is what NowSeconds returned when it
// began. What is in use is not deleted: an entry is read again right before. It ends early, without an error, when ctx
// does.
func (d *Dataplane) Sweep(ctx context.Context, timeouts Timeouts, now uint32) (Swept, error) {
	s := sweeper{
		d: d, timeouts: timeouts, now: now, flows: d.maps[flowsMap],
		affinities: map[uint32]uint32{}, pods: map[[16]byte]incarnation{},
		pace: pace{slice: sweepSlice, period: sweepPeriod, began: time.Now()},
	}
	var err error
	for _, m := range []struct {
		name           string
		sweep          func(context.Context) error
		count, deleted *int
	}{
		{flowsMap, s.sweepFlows, &s.swept.Flows, &s.swept.FlowsDeleted},
		{affinitiesMap, s.sweepAffinities, &s.swept.Affinities, &s.swept.AffinitiesDeleted},
		{connectionsMap, s.sweepConnections, &s.swept.Connections, &s.swept.ConnectionsDeleted},
	} {
		if err = m.sweep(ctx); err != nil {
			err = fmt.Errorf("sweep map %s: %w", m.name, err)
			break
		}
		if ctx.Err() == nil {
			d.remember(m.name, *m.count-*m.deleted)
		}
	}
	s.swept.Busy = s.pace.total()
	return s.swept, err
}

type sweeper struct {
	d          *Dataplane
	timeouts   Timeouts
	now        uint32
	flows      *ebpf.Map
	affinities map[uint32]uint32        // how long that of each set lasts, in seconds
	pods       map[[16]byte]incarnation // by address
	pace       pace
	swept      Swept
}

// sweepEntries calls each with all entries of a map at the sweep's pace, and counts them.
func sweepEntries[K, V any](ctx context.Context, s *sweeper, name string, count *int, each func(*K, *V) error) error {
	for b := newBatches(s.d.maps[name]); s.pace.rest(ctx); {
		n, err := b.next()
		if n == 0 || err != nil {
			return err
		}
		*count += n
		keys, values := view[K](b.keys, n), view[V](b.values, n)
		for i := range n {
			if err := each(&keys[i], &values[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// endEntry deletes an entry that is over, if it still is.
func endEntry[K, V any](m *ebpf.Map, key *K, deleted *int, over func(*V) bool) error {
	var now V
	err := m.Lookup(bytesOf(key), bytesOf(&now))
	if err == nil {
		if !over(&now) {
			return nil
		}
		err = m.Delete(bytesOf(key))
	}
	if err := ignoreMissing(err); err != nil {
		return fmt.Errorf("end an entry: %w", err)
	}
	*deleted++
	return nil
}

// pace spreads work over time.
type pace struct {
	slice, period time.Duration
	began         time.Time // the present slice
	busy          time.Duration
}

// rest waits for the next period if the slice is over. It says whether to go on.
func (p *pace) rest(ctx context.Context) bool {
	worked := time.Since(p.began)
	if worked < p.slice {
		return ctx.Err() == nil
	}
	p.busy += worked
	// Work that took longer is made up for.
	share := float64(p.period-p.slice) / float64(p.slice)
	timer := time.NewTimer(time.Duration(share * float64(worked)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	p.began = time.Now()
	return ctx.Err() == nil
}

func (p *pace) total() time.Duration { return p.busy + time.Since(p.began) }
