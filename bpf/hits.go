// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
)

// RuleHits returns how many connections each rule of a policy has decided on this node, also of rules that are gone,
// until ForgetHits.
func (d *Dataplane) RuleHits() (map[model.RuleID]uint64, error) {
	hits := map[model.RuleID]uint64{}
	err := eachEntry(d.maps[ruleHitsMap], func(key, value []byte) error {
		hits[model.RuleID(view[uint64](key, 1)[0])] = sum(value)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the hits of rules: %w", err)
	}
	return hits, nil
}

// ForgetHits deletes the counts of rules, which are gone.
func (d *Dataplane) ForgetHits(rules []model.RuleID) error {
	for _, rule := range rules {
		if err := ignoreMissing(d.maps[ruleHitsMap].Delete(uint64(rule))); err != nil {
			return fmt.Errorf("delete the hits of rule %x: %w", uint64(rule), err)
		}
	}
	return nil
}

// sum adds up the counts of all processors.
func sum(value []byte) (total uint64) {
	for _, n := range view[uint64](value, len(value)/8) {
		total += n
	}
	return total
}
