// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"math"
)

// The entries of policy_v1.
const (
	epochEntry     uint32 = 0 // what the programs read
	lastEpochEntry uint32 = 1 // the last that was not 0, while there is no policy
)

// Judge has the programs judge each connection of a pod again at its next packet. Whoever writes what judges calls it
// after that, and after reading the maps anew, since a process may end between the two. If policed is false there is no
// policy: nothing is tracked, judged or asked after, and a packet costs no more than that question.
//
// An epoch never comes twice, also over a time without policies and a restart, so nothing that was judged before
// counts.
func (d *Dataplane) Judge(policed bool) error {
	err := d.judge(policed)
	if err != nil {
		return fmt.Errorf("tell the programs that connections are to be judged anew: %w", err)
	}
	return nil
}

func (d *Dataplane) judge(policed bool) error {
	m := d.maps[policyMap]
	var now, last uint32
	if err := m.Lookup(epochEntry, &now); err != nil {
		return err
	}
	if !policed {
		if now == 0 {
			return nil
		}
		if err := m.Put(lastEpochEntry, now); err != nil {
			return err
		}
		return m.Put(epochEntry, uint32(0))
	}
	if now == 0 {
		if err := m.Lookup(lastEpochEntry, &last); err != nil {
			return err
		}
		now = last
	}
	return m.Put(epochEntry, nextEpoch(now))
}

// nextEpoch goes round in 2³² steps: by then, nothing is left that was judged at the first.
func nextEpoch(epoch uint32) uint32 {
	if epoch == math.MaxUint32 {
		return 1
	}
	return epoch + 1
}

// Epoch returns how often what judges has changed; 0 while there is no policy.
func (d *Dataplane) Epoch() (epoch uint32, err error) {
	if err := d.maps[policyMap].Lookup(epochEntry, &epoch); err != nil {
		return 0, fmt.Errorf("read how often what judges has changed: %w", err)
	}
	return epoch, nil
}
