// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
)

func (s *sweeper) sweepAffinities(ctx context.Context) error {
	return sweepEntries(ctx, s, affinitiesMap, &s.swept.Affinities, func(key *abi.AffinityKey, value *abi.Affinity) error {
		lasts, err := s.affinityOf(key.Set)
		if err != nil {
			return err
		}
		over := func(a *abi.Affinity) bool { return age(a.Seen, s.now) > lasts }
		if !over(value) {
			return nil
		}
		return endEntry(s.d.maps[affinitiesMap], key, &s.swept.AffinitiesDeleted, over)
	})
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
