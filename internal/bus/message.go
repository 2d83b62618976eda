// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/deltaplane/deltaplane/schemas"
)

// What waits for a subscription's handler at most; beyond, messages are dropped and OnDropped is called.
const (
	pendingMessages = 16 << 10
	pendingBytes    = 64 << 20
	// The same for the answers to one request.
	inboxMessages = 8 << 10
	inboxBytes    = 64 << 20
)

// Message is something heard on a subject. Data belongs to the receiver.
type Message struct {
	Subject string
	// Reply is where an answer goes; empty if none is wanted.
	Reply string
	Data  []byte
}

// Subscription hears messages until Stop.
type Subscription struct{ sub *nats.Subscription }

// Stop ends the subscription. A handler that runs is not interrupted.
func (s *Subscription) Stop() {
	_ = s.sub.Unsubscribe() // fails only when the connection is closed, and with it the subscription
}

// Dropped returns how many messages were lost because the handler was too slow.
func (s *Subscription) Dropped() int {
	n, _ := s.sub.Dropped() // fails only when closed
	return n
}

// Publish sends data to whoever listens. It doesn't wait for the server: use Flush for that. It fails at once when
// the connection is down.
func (c *Conn) Publish(subject string, data []byte) error {
	if err := checkSize(subject, data); err != nil {
		return err
	}
	if err := c.nats.Publish(subject, data); err != nil {
		return fmt.Errorf("publish on %s: %w", subject, c.explain(err))
	}
	return nil
}

// PublishExpiring is Publish of what a stream keeps no longer than ttl, in whole seconds; 0 is as long as all others. Only
// for streams that allow it.
func (c *Conn) PublishExpiring(subject string, data []byte, ttl time.Duration) error {
	if ttl == 0 {
		return c.Publish(subject, data)
	}
	if err := checkSize(subject, data); err != nil {
		return err
	}
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{jetstream.MsgTTLHeader: {wholeSeconds(ttl)}}}
	if err := c.nats.PublishMsg(m); err != nil {
		return fmt.Errorf("publish on %s: %w", subject, c.explain(err))
	}
	return nil
}

// wholeSeconds writes a time to live as servers take it.
func wholeSeconds(ttl time.Duration) string {
	return strconv.Itoa(int(max(ttl, time.Second) / time.Second))
}

// Flush waits until the server has all that was published or subscribed before.
func (c *Conn) Flush() error {
	if err := c.nats.FlushTimeout(dialTimeout); err != nil {
		return fmt.Errorf("flush to the bus at %s: %w", redacted(c.options.URL), c.explain(err))
	}
	return nil
}

// Subscribe calls handle for each message on subject, one after the other, on a goroutine of the subscription's own,
// from when the server knows of it (which Subscribe waits for if the connection stands). The subscription outlives
// reconnects; what is sent meanwhile is lost.
func (c *Conn) Subscribe(subject string, handle func(Message)) (*Subscription, error) {
	return c.subscribe(subject, "", pendingMessages, pendingBytes, func(m *nats.Msg) {
		c.handle(func() { handle(Message{Subject: m.Subject, Reply: m.Reply, Data: m.Data}) })
	})
}

func (c *Conn) subscribe(subject, queue string, messages, bytes int, handle nats.MsgHandler) (*Subscription, error) {
	sub, err := c.nats.QueueSubscribe(subject, queue, handle)
	if err == nil {
		err = sub.SetPendingLimits(messages, bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, c.explain(err))
	}
	if c.nats.IsConnected() {
		if err := c.nats.FlushTimeout(dialTimeout); err != nil {
			c.log.Warn("subscribed, but the server hasn't confirmed it", "subject", subject, "error", err)
		}
	}
	return &Subscription{sub}, nil
}

func checkSize(subject string, data []byte) error {
	if len(data) > schemas.MaxMessageBytes {
		return fmt.Errorf("publish on %s: a message of %d bytes, the most is %d: send it in parts: %w",
			subject, len(data), schemas.MaxMessageBytes, ErrTooLarge)
	}
	return nil
}

// explain puts nats.go's errors in words that help an operator.
func (c *Conn) explain(err error) error {
	switch {
	case errors.Is(err, nats.ErrConnectionClosed):
		return errors.Join(ErrClosed, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return fmt.Errorf("not connected to the bus at %s; reconnecting", redacted(c.options.URL))
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("the server takes messages of at most %d bytes: raise max_payload in its configuration: %w",
			c.nats.MaxPayload(), ErrTooLarge)
	}
	return err
}
