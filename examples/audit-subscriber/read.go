// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// record is a message of a stream.
type record struct {
	stream  string
	subject string
	time    time.Time
	data    []byte
	// caughtUp says that nothing more is stored behind it; a record with nothing else says it of an empty stream.
	caughtUp bool
}

// read hands over what a stream holds from begin on, and goes on with what comes, until ctx ends. It waits for a
// stream that isn't there yet.
func read(ctx context.Context, js jetstream.JetStream, stream string, begin begin, stderr io.Writer) <-chan record {
	records := make(chan record, 256)
	go func() {
		defer close(records)
		var next uint64
		for first := true; ctx.Err() == nil; first = false {
			err := readOnce(ctx, js, stream, begin, &next, records)
			if err != nil && ctx.Err() == nil && first {
				fmt.Fprintf(stderr, "can't read stream %s yet (%v); trying again\n", stream, err)
				records <- record{stream: stream, caughtUp: true} // the others needn't wait for it
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return records
}

// readOnce reads through one ordered consumer, which nats.go renews by itself when it is lost.
func readOnce(ctx context.Context, js jetstream.JetStream, stream string, begin begin, next *uint64, records chan<- record) error {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	switch {
	case *next > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, *next
	case !begin.time.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &begin.time
	}
	consumer, err := js.OrderedConsumer(ctx, stream, config)
	if err != nil {
		return err
	}
	if consumer.CachedInfo().NumPending == 0 {
		select {
		case records <- record{stream: stream, caughtUp: true}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		*next = meta.Sequence.Stream + 1
		r := record{stream: stream, subject: m.Subject(), time: meta.Timestamp, data: m.Data(), caughtUp: meta.NumPending == 0}
		select {
		case records <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
