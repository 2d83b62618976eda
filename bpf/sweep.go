// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// Swept is what a sweep found and did.
type Swept struct {
	Flows             int // entries, two or four a flow, before the sweep
	FlowsDeleted      int
	Affinities        int
	AffinitiesDeleted int
	Busy              time.Duration // spent working, the pauses not counted
}

// The sweep works for a slice of time and rests for the rest of its period: a twentieth of one processor, whatever it
// finds, and no program waits for it for long.
const (
	sweepSlice  = 5 * time.Millisecond
	sweepPeriod = 100 * time.Millisecond
)

// Sweep deletes the flows that have been idle for longer than timeouts say, all entries of a flow together, and the
// affinities that are over. now is what NowSeconds returned when it began. What is in use is not deleted: an entry is
// read again right before. It ends early, without an error, when ctx does.
func (d *Dataplane) Sweep(ctx context.Context, timeouts Timeouts, now uint32) (Swept, error) {
	s := sweeper{
		d: d, timeouts: timeouts, now: now, flows: d.maps[flowsMap], affinities: map[uint32]uint32{},
		pace: pace{slice: sweepSlice, period: sweepPeriod, began: time.Now()},
	}
	err := s.sweepFlows(ctx)
	if err == nil {
		err = s.sweepAffinities(ctx)
	}
	s.swept.Busy = s.pace.total()
	if err == nil && ctx.Err() == nil {
		d.remember(flowsMap, s.swept.Flows-s.swept.FlowsDeleted)
		d.remember(affinitiesMap, s.swept.Affinities-s.swept.AffinitiesDeleted)
	}
	if err != nil {
		return s.swept, fmt.Errorf("sweep flows: %w", err)
	}
	return s.swept, nil
}

type sweeper struct {
	d          *Dataplane
	timeouts   Timeouts
	now        uint32
	flows      *ebpf.Map
	affinities map[uint32]uint32 // how long that of each set lasts, in seconds
	pace       pace
	swept      Swept
}

func (s *sweeper) sweepFlows(ctx context.Context) error {
	for b := newBatches(s.flows); s.pace.rest(ctx); {
		n, err := b.next()
		if n == 0 || err != nil {
			return err
		}
		s.swept.Flows += n
		keys, flows := view[abi.Tuple](b.keys, n), view[abi.Flow](b.values, n)
		for i := range n {
			if !s.timeouts.expired(standingOf(&keys[i], &flows[i]), s.now) {
				continue
			}
			if err := s.endFlow(&keys[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// endFlow deletes all entries of the flow that one belongs to, if together they say that it is over.
func (s *sweeper) endFlow(key *abi.Tuple) error {
	entries, all, err := s.entriesOf(key)
	if err != nil || len(entries) == 0 || !s.timeouts.expired(all, s.now) {
		return err
	}
	for i := range entries {
		if err := ignoreMissing(s.flows.Delete(bytesOf(&entries[i]))); err != nil {
			return fmt.Errorf("delete an entry of map %s: %w", flowsMap, err)
		}
	}
	s.swept.FlowsDeleted += len(entries)
	return nil
}

// entriesOf finds the entries of a flow from one of them, as they are now, and what they say together. None is found
// if that one is gone.
func (s *sweeper) entriesOf(key *abi.Tuple) (found []abi.Tuple, all standing, err error) {
	type lead struct {
		to   abi.Tuple
		half *abi.Tuple // what it must lead back to
	}
	leads := append(make([]lead, 0, 9), lead{to: *key})
	for i := 0; i < len(leads) && len(found) < 4; i++ {
		at := leads[i]
		flow, ok, err := s.read(&at.to)
		if err != nil {
			return nil, all, err
		}
		if !ok {
			continue
		}
		others := related(&at.to, &flow)
		if at.half != nil && others[0] != *at.half {
			continue // another flow's by now
		}
		if stands := standingOf(&at.to, &flow); len(found) == 0 {
			all = stands
		} else {
			all = all.with(stands, s.now)
		}
		found = append(found, at.to)
		for j, other := range others {
			if slices.ContainsFunc(leads, func(l lead) bool { return l.to == other }) {
				continue
			}
			next := lead{to: other}
			if j == 0 {
				next.half = &at.to
			}
			leads = append(leads, next)
		}
	}
	return found, all, nil
}

func (s *sweeper) read(key *abi.Tuple) (flow abi.Flow, ok bool, err error) {
	err = s.flows.Lookup(bytesOf(key), bytesOf(&flow))
	if err = ignoreMissing(err); err != nil {
		return flow, false, fmt.Errorf("read an entry of map %s: %w", flowsMap, err)
	}
	return flow, flow != abi.Flow{}, nil
}

func (s *sweeper) sweepAffinities(ctx context.Context) error {
	m := s.d.maps[affinitiesMap]
	for b := newBatches(m); s.pace.rest(ctx); {
		n, err := b.next()
		if n == 0 || err != nil {
			return err
		}
		s.swept.Affinities += n
		keys, values := view[abi.AffinityKey](b.keys, n), view[abi.Affinity](b.values, n)
		for i := range n {
			lasts, err := s.affinityOf(keys[i].Set)
			if err != nil {
				return err
			}
			if age(values[i].Seen, s.now) <= lasts {
				continue
			}
			if err := s.endAffinity(m, &keys[i], lasts); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sweeper) endAffinity(m *ebpf.Map, key *abi.AffinityKey, lasts uint32) error {
	var now abi.Affinity
	err := m.Lookup(bytesOf(key), bytesOf(&now))
	if err == nil && age(now.Seen, s.now) <= lasts {
		return nil
	}
	if err == nil {
		err = m.Delete(bytesOf(key))
	}
	if err := ignoreMissing(err); err != nil {
		return fmt.Errorf("delete an entry of map %s: %w", affinitiesMap, err)
	}
	s.swept.AffinitiesDeleted++
	return nil
}

// affinityOf returns for how many seconds a set's affinity lasts: as long as any may, if the set is not there, since
// it may come again.
func (s *sweeper) affinityOf(set uint32) (uint32, error) {
	if lasts, known := s.affinities[set]; known {
		return lasts, nil
	}
	var row abi.BackendSet
	err := s.d.Map(abi.Sets).Lookup(set, bytesOf(&row))
	if ignoreMissing(err) != nil {
		return 0, fmt.Errorf("read set %d: %w", set, err)
	}
	lasts := row.Affinity
	if err != nil {
		lasts = affinityMax
	}
	s.affinities[set] = lasts
	return lasts, nil
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
