// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// TakenDrops reads what the programs drop and refuse without waiting for more, for those who run packets (RunFromPod)
// and ask after each. Its methods may be called by one goroutine at a time.
type TakenDrops struct{ reader *ringbuf.Reader }

// TakeDrops opens the drop events. What it takes no one else gets, see Drops. The caller closes it.
func (d *Dataplane) TakeDrops() (*TakenDrops, error) {
	reader, err := ringbuf.NewReader(d.maps[dropsMap])
	if err != nil {
		return nil, fmt.Errorf("read the drop events: %w", err)
	}
	reader.SetDeadline(time.Unix(1, 0)) // long ago: never wait
	return &TakenDrops{reader}, nil
}

// Take returns what happened since it was asked last.
func (t *TakenDrops) Take() (events []abi.DropEvent, err error) {
	for {
		record, err := t.reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the drop events: %w", err)
		}
		var event abi.DropEvent
		if err := abi.Decode(record.RawSample, &event); err != nil {
			return nil, fmt.Errorf("a drop event of an unknown layout: %w", err)
		}
		events = append(events, event)
	}
}

// Close ends the reading.
func (t *TakenDrops) Close() { t.reader.Close() }
