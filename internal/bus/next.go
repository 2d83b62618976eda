// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// Next returns the first message that is stored on a subject at a sequence or later; nil if there is none.
func (c *Conn) Next(ctx context.Context, stream, subject string, sequence uint64) (*Record, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, c.explainStream(err)
	}
	m, err := s.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(subject))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explainStream(err)
	}
	return &Record{Subject: m.Subject, Data: m.Data, Sequence: m.Sequence, Time: m.Time}, nil
}
