// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
)

func (s *sweeper) sweepFlows(ctx context.Context) error {
	return sweepEntries(ctx, s, flowsMap, &s.swept.Flows, func(key *abi.Tuple, flow *abi.Flow) error {
		if flow.HalfOpen != 0 {
			s.swept.HalfOpen++
		}
		if !s.timeouts.expired(standingOf(key, flow), s.now) {
			return nil
		}
		return s.endFlow(key)
	})
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
