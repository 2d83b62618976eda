// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"
)

// source is one stream's records on their way into the one order.
type source struct {
	records <-chan record
	head    *record // read, not handed over yet
	live    bool    // all that was stored has been read
}

// merge hands over what several streams have stored, the oldest first, then what comes, as it comes. It ends with ctx.
func merge(ctx context.Context, streams []<-chan record, each func(record) error) error {
	sources := make([]*source, len(streams))
	for i, records := range streams {
		sources[i] = &source{records: records}
	}
	for {
		r := oldest(sources)
		if r == nil {
			break
		}
		if err := each(*r); err != nil {
			return err
		}
	}
	for r := range join(ctx, streams) {
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

// oldest takes the oldest record that is stored, or returns nil when all of that has been taken.
func oldest(sources []*source) *record {
	var first *source
	for _, s := range sources {
		if s.head == nil && !s.live {
			s.read()
		}
		if s.head != nil && (first == nil || s.head.time.Before(first.head.time)) {
			first = s
		}
	}
	if first == nil {
		return nil
	}
	r := first.head
	first.head = nil
	return r
}

func (s *source) read() {
	r, open := <-s.records
	s.live = !open || r.caughtUp
	if r.subject != "" {
		s.head = &r
	}
}

// join brings the records of all streams together until they end.
func join(ctx context.Context, streams []<-chan record) <-chan record {
	all := make(chan record)
	var forwards sync.WaitGroup
	for _, records := range streams {
		forwards.Go(func() {
			for r := range records {
				select {
				case all <- r:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() { forwards.Wait(); close(all) }()
	return all
}
