// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// The bounds of requests and answers.
const (
	// AnswerWithin is how long one answer, or the next of many, usually may take.
	AnswerWithin = 5 * time.Second
	// askAnother is how long whoever was asked may say nothing until another is asked; then twice as long, and so on.
	askAnother = 500 * time.Millisecond
	// handleWithin is how long one request may be worked on.
	handleWithin = 30 * time.Second
	// respondWorkers work on requests at the same time; respondPending more may wait, further ones are dropped and
	// their senders time out and ask again. All of 5,000 nodes may ask at once.
	respondWorkers = 4
	respondPending = 8 << 10
	// The same for requests that wait for others: what would wait longer than its sender does isn't worth the work.
	attendWorkers = 32
	attendPending = 256
)

// Request asks and returns the first answer. ErrNobody says that nobody listens, ErrDenied that the
// server doesn't allow it. Without a deadline in ctx it waits 5 s.
func (c *Conn) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := checkSize(subject, data); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, AnswerWithin)
	defer cancel()
	ctx, end := c.requests.begin(ctx, on(subject))
	defer end()
	m, err := c.nats.RequestWithContext(ctx, subject, data)
	if err != nil {
		return nil, c.requestError(ctx, subject, 0, err)
	}
	return m.Data, nil
}

// RequestMany asks and calls each for every answer in order, until each says that no more follows or returns an
// error, which is handed on. The next answer may take so long at most. ErrNobody says that nobody listens.
func (c *Conn) RequestMany(ctx context.Context, subject string, data []byte, within time.Duration, each func([]byte) (more bool, err error)) error {
	if err := checkSize(subject, data); err != nil {
		return err
	}
	ctx, end := c.requests.begin(ctx, on(subject))
	defer end()
	inbox := c.nats.NewInbox()
	answers, err := c.nats.SubscribeSync(inbox)
	if err != nil {
		return c.requestError(ctx, subject, 0, err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only when closed
	if err := answers.SetPendingLimits(inboxMessages, inboxBytes); err != nil {
		return c.requestError(ctx, subject, 0, err)
	}
	if err := c.nats.PublishRequest(subject, inbox, data); err != nil {
		return c.requestError(ctx, subject, 0, err)
	}
	for got := 0; ; got++ {
		answer, err := next(ctx, answers, within)
		if err != nil {
			return c.requestError(ctx, subject, got, err)
		}
		if more, err := each(answer.Data); err != nil || !more {
			return err
		}
	}
}

// Ask is RequestMany for what a service with replicas answers and what changes nothing: while nobody has answered it asks
// again, since who was asked may have stopped for good, and another answers in its place. Of several that answer it hears
// the first. ErrNobody says that nobody listened when it last asked. It waits for the first answer, and for each next one,
// for 5 s at most.
func (c *Conn) Ask(ctx context.Context, subject string, data []byte, each func([]byte) (more bool, err error)) error {
	if err := checkSize(subject, data); err != nil {
		return err
	}
	ctx, end := c.requests.begin(ctx, on(subject))
	defer end()
	inbox := c.nats.NewInbox()
	answers, err := c.nats.SubscribeSync(inbox + ".*")
	if err != nil {
		return c.requestError(ctx, subject, 0, err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only when closed
	if err := answers.SetPendingLimits(inboxMessages, inboxBytes); err != nil {
		return c.requestError(ctx, subject, 0, err)
	}
	answer, err := c.askUntil(ctx, subject, data, inbox, answers)
	if err != nil {
		return c.requestError(ctx, subject, 0, err)
	}
	heard := answer.Subject
	for got := 1; ; {
		if more, err := each(answer.Data); err != nil || !more {
			return err
		}
		for answer.Subject = ""; answer.Subject != heard; {
			if answer, err = next(ctx, answers, AnswerWithin); err != nil {
				return c.requestError(ctx, subject, got, err)
			}
		}
		got++
	}
}

// askUntil asks, each time with a place of its own for the answers, until the first comes.
func (c *Conn) askUntil(ctx context.Context, subject string, data []byte, inbox string, answers *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, AnswerWithin)
	defer cancel()
	for try, patience := 0, askAnother; ; try, patience = try+1, 2*patience {
		if err := c.nats.PublishRequest(subject, inbox+"."+strconv.Itoa(try), data); err != nil {
			return nil, err
		}
		answer, err := next(ctx, answers, patience)
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return answer, err
		}
	}
}

func next(ctx context.Context, answers *nats.Subscription, within time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return answers.NextMsgWithContext(ctx)
}

func (c *Conn) requestError(ctx context.Context, subject string, got int, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), ErrDenied):
		return fmt.Errorf("request on %s: %w", subject, ErrDenied)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("request on %s: %w", subject, ErrNobody)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("request on %s: no answer in time after %d messages: %w", subject, got, err)
	}
	return fmt.Errorf("request on %s: %w", subject, c.explain(err))
}

// Responder answers one request. It may call reply as often as it has messages to answer with. ctx ends with the
// connection, or after 30 s.
type Responder func(ctx context.Context, data []byte, reply func([]byte) error)

// Respond calls handle for each request on subject; several at a time may run. Of all that respond with the same
// queue name only one gets a request; with an empty queue all do.
func (c *Conn) Respond(subject, queue string, handle Responder) (*Subscription, error) {
	return c.respond(subject, queue, respondWorkers, respondPending, func(string) Responder { return handle })
}

// RespondEach is Respond on a subject with wildcards: handle is told the subject, and so by whom the request may be.
func (c *Conn) RespondEach(subject, queue string, handle func(subject string) Responder) (*Subscription, error) {
	return c.respond(subject, queue, respondWorkers, respondPending, handle)
}

// Attend is RespondEach for requests that wait for somebody else, such as an API server, so that more of them run at a
// time.
func (c *Conn) Attend(subject, queue string, handle func(subject string) Responder) (*Subscription, error) {
	return c.respond(subject, queue, attendWorkers, attendPending, handle)
}

func (c *Conn) respond(subject, queue string, workers, pending int, handle func(subject string) Responder) (*Subscription, error) {
	free := make(chan struct{}, workers)
	return c.subscribe(subject, queue, pending, inboxBytes, func(m *nats.Msg) {
		if m.Reply == "" {
			c.log.Debug("a request without a place for the answer", "subject", m.Subject)
			return
		}
		select {
		case free <- struct{}{}:
		case <-c.ctx.Done():
			return
		}
		go c.handle(func() {
			defer func() { <-free }()
			ctx, cancel := context.WithTimeout(c.ctx, handleWithin)
			defer cancel()
			handle(m.Subject)(ctx, m.Data, func(answer []byte) error { return c.Publish(m.Reply, answer) })
		})
	})
}
