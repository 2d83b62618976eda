// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A server that is cut off from the others has no leader of any stream, but goes on to serve who is connected to it: they
// read nothing new, and what they append isn't stored. Whoever works with streams leaves it after muteFirst. The next one
// gets twice as long, up to muteMost: where most servers are away, none is better.
const (
	muteFirst = 5 * time.Second
	muteMost  = time.Minute
)

// mute remembers for how long streams have given no answer through the server that we are connected to.
type mute struct {
	mu    sync.Mutex
	since time.Time // zero: they answer
	moves int       // servers that were left since they last answered
}

// answered notes that a stream has given an answer, be it a refusal.
func (m *mute) answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since, m.moves = time.Time{}, 0
}

// moved notes that the connection was lost, or leads to another server, which gets its own time.
func (m *mute) moved() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since = time.Time{}
}

// unanswered notes that what was asked for at a time got no answer, and says whether to leave the server.
func (m *mute) unanswered(asked, now time.Time) (leave bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() || asked.Before(m.since) {
		m.since = asked
	}
	if now.Sub(m.since) < min(muteMost, muteFirst<<min(m.moves, 10)) {
		return false
	}
	m.moves++
	m.since = time.Time{}
	return true
}

// heard notes what came of asking a stream for something at a time, and leaves the server if none has answered for long.
func (c *Conn) heard(err error, asked time.Time) {
	refused, isRefused := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil, isRefused && refused.ErrorCode != codeNotReady:
		c.mute.answered()
	case !isRefused && !unanswered(err): // the connection was lost, say
	case c.nats.IsConnected() && c.mute.unanswered(asked, time.Now()):
		c.Elsewhere()
	}
}

// unanswered says whether an error is that nobody has answered for a stream.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoHeartbeat)
}
