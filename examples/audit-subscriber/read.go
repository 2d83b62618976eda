// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
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

const (
	// batchMessages are asked for at a time.
	batchMessages = 256
	// lookAgain is how often a stream that was read to its end is looked at.
	lookAgain = 200 * time.Millisecond
	// answerWithin bounds the wait for the next message of an answer.
	answerWithin = 5 * time.Second
)

// streams reads the bus's streams by direct get (NATS ADR-31): it asks for what is stored and leaves nothing at the server,
// so that a credential to read is enough.
type streams struct {
	conn   *nats.Conn
	prefix string // of the JetStream API
	stderr io.Writer
}

// read hands over what a stream holds from begin on, and goes on with what comes, until ctx ends. It waits for a
// stream that isn't there yet.
func (s streams) read(ctx context.Context, stream string, begin begin) <-chan record {
	records := make(chan record, batchMessages)
	go func() {
		defer close(records)
		next := question{Sequence: 1, Batch: batchMessages}
		if !begin.time.IsZero() {
			next = question{Time: &begin.time, Batch: batchMessages}
		}
		for first, said := true, false; ctx.Err() == nil; first = false {
			n, err := s.ask(ctx, stream, &next, records)
			if err != nil && ctx.Err() == nil && !said {
				fmt.Fprintf(s.stderr, "can't read stream %s yet (%v); trying again\n", stream, err)
			}
			said = err != nil
			if n > 0 {
				continue
			}
			if first {
				records <- record{stream: stream, caughtUp: true} // the others needn't wait for it
			}
			select {
			case <-ctx.Done():
			case <-time.After(lookAgain):
			}
		}
	}()
	return records
}

// question is what a direct get asks for (nats-server, JSApiMsgGetRequest).
type question struct {
	Sequence uint64     `json:"seq,omitempty"`
	Time     *time.Time `json:"start_time,omitempty"`
	Batch    int        `json:"batch"`
}

// ask hands over one batch and says how many messages it had. next is what to ask for after them.
func (s streams) ask(ctx context.Context, stream string, next *question, records chan<- record) (n int, err error) {
	request, err := json.Marshal(next)
	if err != nil {
		return 0, err
	}
	inbox := s.conn.NewInbox()
	answers, err := s.conn.SubscribeSync(inbox)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only when closed
	if err := s.conn.PublishRequest(s.prefix+".DIRECT.GET."+stream, inbox, request); err != nil {
		return 0, err
	}
	for {
		m, err := answer(ctx, answers)
		if err != nil {
			return n, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204", "404": // the end of the batch; nothing is stored
			return n, nil
		default:
			return n, fmt.Errorf("the stream says %s %s", status, m.Header.Get("Description"))
		}
		r, sequence, err := stored(stream, m)
		if err != nil {
			return n, err
		}
		select {
		case records <- r:
		case <-ctx.Done():
			return n, ctx.Err()
		}
		n++
		*next = question{Sequence: sequence + 1, Batch: batchMessages}
	}
}

func answer(ctx context.Context, answers *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return answers.NextMsgWithContext(ctx)
}

// stored reads one message of a stream: where it stood is in its headers.
func stored(stream string, m *nats.Msg) (r record, sequence uint64, err error) {
	r = record{stream: stream, subject: m.Header.Get("Nats-Subject"), data: m.Data, caughtUp: m.Header.Get("Nats-Num-Pending") == "0"}
	if sequence, err = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64); err != nil {
		return r, 0, fmt.Errorf("a message of stream %s has no number: %w", stream, err)
	}
	if r.time, err = time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp")); err != nil {
		return r, 0, fmt.Errorf("message %d of stream %s has no time: %w", sequence, stream, err)
	}
	return r, sequence, nil
}
