// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// withoutService is COUNTER_WITHOUT_SERVICE of include/count.h.
const withoutService = 255

// ServiceCounts returns what was dropped of each Service, and the flows that began by an uplink, since its
// maps were made, also of sets that are gone, until ForgetCounts. uncounted is how often there was no room for another
// Service's.
func (d *Dataplane) ServiceCounts() (counts map[abi.CountKey]uint64, uncounted uint64, err error) {
	counts = map[abi.CountKey]uint64{}
	err = eachEntry(d.maps[serviceCountsMap], func(key, value []byte) error {
		counts[view[abi.CountKey](key, 1)[0]] = sum(value)
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the counts of Services: %w", err)
	}
	var perCPU []uint64
	if err := d.maps[countersMap].Lookup(uint32(withoutService), &perCPU); err != nil {
		return nil, 0, fmt.Errorf("read how often a Service's counts had no room: %w", err)
	}
	for _, n := range perCPU {
		uncounted += n
	}
	return counts, uncounted, nil
}

// ForgetCounts deletes counts, of sets that are gone.
func (d *Dataplane) ForgetCounts(keys []abi.CountKey) error {
	for i := range keys {
		if err := ignoreMissing(d.maps[serviceCountsMap].Delete(bytesOf(&keys[i]))); err != nil {
			return fmt.Errorf("delete the counts of set %d: %w", keys[i].Set, err)
		}
	}
	return nil
}
