// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Drops calls each with what the programs drop and refuse, as it happens, until ctx ends, which is no error.
// Events that find the ring buffer full are lost; DropCounts misses none. Each event goes to one caller.
func (d *Dataplane) Drops(ctx context.Context, each func(abi.DropEvent)) error {
	reader, err := ringbuf.NewReader(d.maps[dropsMap])
	if err != nil {
		return fmt.Errorf("read the drop events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer func() {
		if stop() {
			reader.Close()
		}
	}()
	var record ringbuf.Record
	for {
		err := reader.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the drop events: %w", err)
		}
		var event abi.DropEvent
		if err := abi.Decode(record.RawSample, &event); err != nil {
			return fmt.Errorf("a drop event of an unknown layout: %w", err)
		}
		each(event)
	}
}

// DropCounts returns how many packets and dials were dropped or refused since the maps were made, for each reason
// that ever was.
func (d *Dataplane) DropCounts() (map[model.DropReason]uint64, error) {
	counts := map[model.DropReason]uint64{}
	for _, r := range model.DropReasons {
		var perCPU []uint64
		if err := d.maps[countersMap].Lookup(uint32(r.Reason), &perCPU); err != nil {
			return nil, fmt.Errorf("read the drop counter of %s: %w", r.Reason, err)
		}
		for _, n := range perCPU {
			counts[r.Reason] += n
		}
		if counts[r.Reason] == 0 {
			delete(counts, r.Reason)
		}
	}
	return counts, nil
}
