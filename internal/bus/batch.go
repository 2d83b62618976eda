// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of atomic batches (NATS ADR-50).
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// Error codes of nats-server (server/errors.json) that decide something here.
const (
	codeWrongLastSequence         = 10071
	codeWrongLastSequenceConstant = 10164 // the same while another write to that subject is on its way (replicated streams)
	codeNoStorage                 = 10047
	codeNotReady                  = 10008 // the cluster has no leader
	codeNotMade                   = 10049 // no place for a new stream's messages could be made
	codeNotStored                 = 10077
)

// commit publishes messages as one atomic batch (a single message needs none) and waits for the stream's answer, so long.
func (c *Conn) commit(ctx context.Context, within time.Duration, messages []*nats.Msg) (last uint64, err error) {
	asked := time.Now()
	defer func() { c.heard(err, asked) }()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	inbox := c.nats.NewInbox()
	answers, err := c.nats.SubscribeSync(inbox)
	if err != nil {
		return 0, c.explain(err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only when closed
	if err := c.publishBatch(messages, inbox); err != nil {
		return 0, err
	}
	return c.commitAnswer(ctx, answers, len(messages))
}

// publishBatch sends the messages. Answers are asked for the first, which the stream refuses if it takes no batches,
// and for the last, which commits. A batch that breaks off here is never committed.
func (c *Conn) publishBatch(messages []*nats.Msg, inbox string) error {
	id, last := rand.Text(), len(messages)-1
	for i, m := range messages {
		if last > 0 {
			m.Header.Set(headerBatchID, id)
			m.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
		}
		if last > 0 && i == last {
			m.Header.Set(headerBatchCommit, "1")
		}
		if i == 0 || i == last {
			m.Reply = inbox
		}
		if err := c.nats.PublishMsg(m); err != nil {
			return fmt.Errorf("publish on %s: %w", m.Subject, c.explain(err))
		}
	}
	return nil
}

func (c *Conn) commitAnswer(ctx context.Context, answers *nats.Subscription, count int) (uint64, error) {
	for {
		m, err := answers.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) {
			return 0, fmt.Errorf("nothing keeps its subjects: %w: %w", ErrNoStream, err)
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrUncertain, c.explain(err))
		}
		if len(m.Data) == 0 {
			continue // the first message has arrived
		}
		return readAck(m.Data, count)
	}
}

// readAck reads a stream's answer to a commit (server/stream.go, JSPubAckResponse).
func readAck(data []byte, count int) (uint64, error) {
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
		Count    int                 `json:"count"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, errors.Join(ErrUncertain, fmt.Errorf("the stream's answer %q can't be read: %w", data, err))
	}
	switch {
	case ack.Error != nil && (ack.Error.ErrorCode == codeWrongLastSequence || ack.Error.ErrorCode == codeWrongLastSequenceConstant):
		return 0, fmt.Errorf("%w: %w", ErrDeposed, ack.Error)
	case ack.Error != nil && ack.Error.ErrorCode == codeNotStored:
		return 0, fmt.Errorf("the stream couldn't store it: %w: if it is full, raise its size or look for what fills it", ack.Error)
	case ack.Error != nil:
		return 0, fmt.Errorf("the stream refused it: %w", ack.Error)
	case count > 1 && ack.Count != count:
		return 0, fmt.Errorf("%w: the stream stored %d of %d messages", ErrUncertain, ack.Count, count)
	}
	return ack.Sequence, nil
}
