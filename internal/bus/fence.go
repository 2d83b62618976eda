// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// The bounds of one atomic batch. nats-server 2.15 stores at most 1,000 messages in one, of which the epoch may be one,
// and takes 128 MiB in before it has processed them.
const (
	MaxBatchMessages = 999
	MaxBatchBytes    = 64 << 20
	// renewAfter is how many bytes are appended before the epoch is written again: a full log forgets its oldest
	// messages, and the fence must not be among them.
	renewAfter = 8 << 20
	appendTime = 5 * time.Second
	// answerTime is how long the answer to a batch may take until the stream is asked whether it has it.
	answerTime = 1500 * time.Millisecond
	// settleTime is how long the bus may be away until that question is given up.
	settleTime = 10 * time.Second
	takeTries  = 20
)

// Record is a message in a stream.
type Record struct {
	Subject string
	Data    []byte
	// TTL ends a message before the stream's maximal age, in whole seconds; 0 is the stream's. Only for streams that
	// are Expiring.
	TTL time.Duration
	// Sequence and Time are set when reading, and not needed for appending.
	Sequence uint64
	Time     time.Time
}

// Fence is the right to append to a stream, held until another takes the epoch. Its methods may be called at the
// same time.
type Fence struct {
	conn    *Conn
	stream  string
	subject string
	epoch   *schemas.Epoch

	mu       sync.Mutex
	sequence uint64 // of the newest message on subject, as far as the holder knows: what the server compares
	newest   uint64 // of the newest message that the holder has stored: the stream never ends before it
	appended int    // bytes since the epoch was written last
}

// TakeEpoch takes the stream's epoch: it writes an Epoch one above the newest on subject, guarded by that one's
// sequence. From then on all others' Appends are refused. Where two take it at the same time one gets it, and the
// other ErrDeposed: it doesn't take it from who has only just begun.
func (c *Conn) TakeEpoch(ctx context.Context, stream, subject, holder string) (*Fence, error) {
	return c.TakeEpochAbove(ctx, stream, subject, holder, 0)
}

// TakeEpochAbove is TakeEpoch with an epoch that is above floor too. A stream that was lost starts again at 1, while
// nodes still hold a higher epoch: whoever sees that takes the epoch above theirs.
func (c *Conn) TakeEpochAbove(ctx context.Context, stream, subject, holder string, floor uint64) (*Fence, error) {
	var err error
	first := uint64(math.MaxUint64) // the newest epoch when this began
	for try := range takeTries {
		newest, sequence, readErr := c.newestEpoch(ctx, stream, subject)
		if err = readErr; err != nil {
			break
		}
		if first = min(first, newest.GetEpoch()); newest.GetEpoch() > first && newest.GetHolder() != holder {
			err = fmt.Errorf("%s was faster and has epoch %d: %w", newest.GetHolder(), newest.GetEpoch(), ErrDeposed)
			break
		}
		f := &Fence{conn: c, stream: stream, subject: subject, sequence: sequence, epoch: &schemas.Epoch{
			Epoch: max(newest.GetEpoch(), floor) + 1, Holder: holder, Since: timestamppb.Now(),
		}}
		if err = f.Confirm(ctx); err == nil {
			c.log.Info("took the epoch", "stream", stream, "epoch", f.Epoch(), "holder", holder)
			return f, nil
		}
		if !errors.Is(err, ErrDeposed) && !errors.Is(err, ErrUncertain) {
			break
		}
		if wait(ctx, backoff(try)/10) != nil {
			break
		}
	}
	return nil, fmt.Errorf("take the epoch of stream %s: %w", stream, err)
}

// newestEpoch returns what stands on the epoch subject and its sequence; both zero if nothing does.
func (c *Conn) newestEpoch(ctx context.Context, stream, subject string) (*schemas.Epoch, uint64, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, 0, c.explainStream(err)
	}
	m, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, c.explainStream(err)
	}
	epoch, err := ReadEpoch(m.Data)
	if err != nil {
		c.log.Warn("what stands on the epoch's subject is no Epoch; the highest before it counts", "subject", subject, "sequence", m.Sequence, "error", err)
		highest, err := c.highestEpoch(ctx, stream, subject)
		return highest, m.Sequence, err
	}
	return epoch, m.Sequence, nil
}

// ReadEpoch reads a message of an epoch's subject. Epochs aren't sealed: whoever may write to the stream can take one, and
// so depose the holder, but none that there can't have been by now.
func ReadEpoch(data []byte) (*schemas.Epoch, error) {
	var epoch schemas.Epoch
	if err := proto.Unmarshal(data, &epoch); err != nil {
		return nil, fmt.Errorf("read an Epoch: %w", err)
	}
	if n := epoch.GetEpoch(); n == 0 || !model.Epoch(n).Believable(time.Now()) {
		return nil, fmt.Errorf("read an Epoch: nobody can have taken number %d by now; find out who may write to the stream", n)
	}
	return &epoch, nil
}

// highestEpoch reads all that is kept on the epoch subject. What is no Epoch doesn't count: else one message of
// whoever may publish there would keep everyone from leading.
func (c *Conn) highestEpoch(ctx context.Context, stream, subject string) (*schemas.Epoch, error) {
	highest := &schemas.Epoch{}
	err := c.Read(ctx, ReadOptions{Stream: stream, Subjects: []string{subject}}, func(r Record) error {
		if epoch, err := ReadEpoch(r.Data); err == nil && epoch.GetEpoch() > highest.GetEpoch() {
			highest = epoch
		}
		return nil
	})
	return highest, err
}

// Epoch returns the epoch that was taken.
func (f *Fence) Epoch() uint64 { return f.epoch.GetEpoch() }

// Confirm has the stream say that the epoch is still this holder's, by writing it once more. Reading it would not do:
// a replica of the stream may answer that lags behind. It is for holders that were paused or cut off, before they say
// anything. Errors are as of Append.
func (f *Fence) Confirm(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.newest > 0 && f.replaced(ctx) {
		return fmt.Errorf("write epoch %d of stream %s: %w: another epoch stands where this one did", f.Epoch(), f.stream, ErrReplaced)
	}
	if _, err := f.append(ctx, appendTime, nil, true); err != nil {
		return fmt.Errorf("write epoch %d of stream %s: %w", f.Epoch(), f.stream, err)
	}
	return nil
}

// replaced says whether another epoch stands where this one was stored. Sequences begin anew in a stream that was lost, so
// that the fence of one may hold in another, as in a backup of the one before.
func (f *Fence) replaced(ctx context.Context) bool {
	newest, sequence, err := f.conn.newestEpoch(ctx, f.stream, f.subject)
	return err == nil && sequence == f.sequence && !proto.Equal(newest, f.epoch)
}

// Newest returns the sequence of the newest message that was stored under the fence. A stream that ends before it has
// gone back: an old backup was restored, or a server lost what it had acknowledged.
func (f *Fence) Newest() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newest
}

// Append stores records as a whole or not at all, in order, and returns the last one's sequence. If no answer comes it finds
// out what became of them, and stores them if they aren't. ErrDeposed says that another has taken the epoch and nothing was
// stored. ErrUncertain says that no answer came to that question either, ErrReplaced that the records are stored but the
// stream has gone back, so that some before them are lost: take the epoch again and read the stream. More than
// MaxBatchMessages records, or more than MaxBatchBytes, are refused: it splits nothing.
func (f *Fence) Append(ctx context.Context, records []Record) (lastSequence uint64, err error) {
	size, err := checkBatch(records)
	if err != nil {
		return 0, fmt.Errorf("append to stream %s: %w", f.stream, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(records) == 0 {
		return f.sequence, nil
	}
	f.appended += size
	renew := f.appended >= renewAfter
	lastSequence, err = f.append(ctx, answerTime, records, renew)
	if errors.Is(err, ErrUncertain) && ctx.Err() == nil {
		lastSequence, err = f.settle(ctx, records, renew, err)
	}
	if err != nil {
		return 0, fmt.Errorf("append %d messages to stream %s in epoch %d: %w", len(records), f.stream, f.Epoch(), err)
	}
	return lastSequence, nil
}

// settle finds out whether records are stored that no answer came to, and stores them if they aren't. It has the stream
// write the epoch once more: nothing that was sent before is stored after that, and where it comes to stand tells, since
// nobody else appends.
func (f *Fence) settle(ctx context.Context, records []Record, renewed bool, uncertain error) (lastSequence uint64, err error) {
	before, count := f.newest, uint64(len(records))
	if renewed {
		count++
	}
	last, err := f.append(ctx, appendTime, nil, true)
	for until := time.Now().Add(settleTime); f.unsent(err) && time.Now().Before(until) && wait(ctx, backoff(0)) == nil; {
		last, err = f.append(ctx, appendTime, nil, true)
	}
	switch {
	case errors.Is(err, ErrDeposed) && renewed:
		newest, at, readErr := f.conn.newestEpoch(ctx, f.stream, f.subject)
		if readErr != nil || at != before+1 || !proto.Equal(newest, f.epoch) {
			return 0, err
		}
		// The epoch is in the records' batch: both are there.
		f.sequence, f.newest, f.appended = at, before+count, 0
		return f.newest, nil
	case errors.Is(err, ErrDeposed) || errors.Is(err, ErrReplaced):
		return 0, err
	case err != nil:
		return 0, uncertain
	case last == before+count+1:
		return last - 1, nil
	case last == before+1 && !f.holds(ctx, before, &records[len(records)-1]):
		return f.append(ctx, appendTime, records, false)
	}
	return 0, uncertain
}

// unsent says whether something failed since the bus is away, so that the stream never gets it.
func (f *Fence) unsent(err error) bool {
	return err != nil && !errors.Is(err, ErrUncertain) && f.conn.Connected() != nil
}

// holds says whether a record may be in the place of what was acknowledged before it: the stream has gone back then.
func (f *Fence) holds(ctx context.Context, sequence uint64, r *Record) bool {
	s, err := f.conn.js.Stream(ctx, f.stream)
	if err != nil {
		return true
	}
	m, err := s.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false
	}
	return err != nil || m.Subject == r.Subject && bytes.Equal(m.Data, r.Data)
}

func checkBatch(records []Record) (size int, err error) {
	if len(records) > MaxBatchMessages {
		return 0, fmt.Errorf("%d messages in one batch, the most is %d: %w", len(records), MaxBatchMessages, ErrTooLarge)
	}
	for _, r := range records {
		if err := checkSize(r.Subject, r.Data); err != nil {
			return 0, err
		}
		size += len(r.Subject) + len(r.Data)
	}
	if size > MaxBatchBytes {
		return 0, fmt.Errorf("%d bytes in one batch, the most is %d: %w", size, MaxBatchBytes, ErrTooLarge)
	}
	return size, nil
}

// append writes records, with the epoch before them if it is to be renewed, under the lock, and waits so long for an answer.
func (f *Fence) append(ctx context.Context, within time.Duration, records []Record, renew bool) (uint64, error) {
	messages := f.messages(records, renew)
	last, err := f.conn.commit(ctx, within, messages)
	if err != nil {
		return 0, err
	}
	if first := last + 1 - uint64(len(messages)); first <= f.newest {
		// A backup of this epoch still has its message, so that the fence alone says nothing.
		return 0, fmt.Errorf("%w: message %d was stored where %d had been acknowledged", ErrReplaced, first, f.newest)
	}
	f.newest = last
	if renew {
		f.sequence, f.appended = last-uint64(len(messages))+1, 0
	}
	return last, nil
}

// messages makes a batch. Its first message carries the fence: the server compares when it commits, under the lock of
// the stream, the sequence of the newest message on the epoch's subject. A batch may not write a subject that another
// of its messages checks, so when the epoch is renewed it comes first and checks itself.
func (f *Fence) messages(records []Record, renew bool) []*nats.Msg {
	messages := make([]*nats.Msg, 0, len(records)+1)
	if renew {
		data, err := proto.Marshal(f.epoch)
		if err != nil {
			panic(fmt.Sprintf("bus: epoch %v can't be encoded: %v", f.epoch, err)) // it has valid strings only
		}
		m := &nats.Msg{Subject: f.subject, Data: data, Header: nats.Header{}}
		m.Header.Set(jetstream.MsgTTLHeader, "never") // outlives the stream's maximal age
		messages = append(messages, m)
	}
	for _, r := range records {
		m := &nats.Msg{Subject: r.Subject, Data: r.Data, Header: nats.Header{}}
		if r.TTL > 0 {
			m.Header.Set(jetstream.MsgTTLHeader, wholeSeconds(r.TTL))
		}
		messages = append(messages, m)
	}
	first := messages[0]
	first.Header.Set(jetstream.ExpectedStreamHeader, f.stream)
	first.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(f.sequence, 10))
	if !renew {
		first.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, f.subject)
	}
	return messages
}
