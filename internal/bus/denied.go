// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"time"
)

// requests are those that wait for an answer. The server tells of a missing permission beside them, and without that
// they would only see that no answer comes.
type requests struct {
	mu      sync.Mutex
	waiting map[*request]struct{}
}

type request struct {
	asks func(subject string) bool
	fail context.CancelCauseFunc
}

// begin returns a context that ends with ErrDenied if the server denies what asks is true of. end must be called.
func (r *requests) begin(ctx context.Context, asks func(subject string) bool) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one := &request{asks, cancel}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = map[*request]struct{}{}
	}
	r.waiting[one] = struct{}{}
	return ctx, func() {
		cancel(nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting, one)
	}
}

// violation is how nats-server names what was denied.
var violation = regexp.MustCompile(`Permissions Violation for Publish to "([^"\s]+)"`)

// denied ends the requests that the server's error is about.
func (r *requests) denied(err error) {
	subject := violation.FindStringSubmatch(err.Error())
	if subject == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for one := range r.waiting {
		if one.asks(subject[1]) {
			one.fail(ErrDenied)
		}
	}
}

func on(subject string) func(string) bool {
	return func(denied string) bool { return denied == subject }
}

// reading is true of the requests without which a stream can't be read.
func reading(stream string) func(string) bool {
	return func(denied string) bool {
		return denied == "$JS.API.STREAM.INFO."+stream || strings.HasPrefix(denied, "$JS.API.CONSUMER.CREATE."+stream+".")
	}
}

// What the server refuses may be asked for several times a second: each is told at most so often.
const (
	refusalEvery = 30 * time.Second
	refusalsMost = 100
)

// refusals are what the server has refused, and when it was told last. Only the connection's one callback uses it.
type refusals map[string]time.Time

func (r *refusals) isNews(err error, now time.Time) bool {
	if len(*r) >= refusalsMost || *r == nil {
		*r = refusals{}
	}
	last, known := (*r)[err.Error()]
	if known && now.Sub(last) < refusalEvery {
		return false
	}
	(*r)[err.Error()] = now
	return true
}
