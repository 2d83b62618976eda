// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The pace of reading a stream.
const (
	// At most this much is under way from the server to a reader.
	readAheadMessages = 2048
	readAheadBytes    = 8 << 20
	// A reader that hears nothing for so long looks whether it has all.
	quiet = time.Second
	// The server removes what it keeps for a reader that is gone after this.
	forgetAfter = 30 * time.Second
)

// ReadOptions say what to read of a stream. Stream is needed; without the rest everything is read.
type ReadOptions struct {
	Stream string
	// Subjects to read; none is all. They may have wildcards but must not overlap.
	Subjects []string
	// FromSequence or FromTime is where to begin; a message that is no longer stored is passed over.
	FromSequence uint64
	FromTime     time.Time
	// After is the message that was read last, instead: reading goes on behind it as if it had broken off there, so that who
	// reads and then follows notices a stream that was replaced in between. Sequence and Time are needed.
	After Record
	// OnCaughtUp is called once, when Follow has handed over all that was stored when it was called.
	OnCaughtUp func()
	// OnUnsure is called when reading goes on after it broke off, and the newest message that was read before isn't
	// there any more: it has expired, a newer one of its subject has taken its place, or the stream was restored from a
	// backup and has grown again. Then its epoch (see TakeEpoch) is another one, or soon will be. An error ends reading.
	OnUnsure func() error
}

// Read calls each for everything that is stored at the time of the call, in order, then returns. An error of each
// ends it and is returned. A connection that is lost in between is waited for; ctx bounds it.
func (c *Conn) Read(ctx context.Context, o ReadOptions, each func(Record) error) error {
	return c.read(ctx, o, each, false)
}

// Follow is Read that goes on with what is stored later, until ctx ends, which is no error.
func (c *Conn) Follow(ctx context.Context, o ReadOptions, each func(Record) error) error {
	err := c.read(ctx, o, each, true)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// reader is one Read or Follow: how far it has come, over the consumers it went through.
type reader struct {
	options ReadOptions
	each    func(Record) error
	follow  bool

	begun  bool
	made   time.Time // when the stream was
	end    uint64    // the newest sequence when reading began
	moving bool      // a newer message of a subject takes the older one's place
	next   uint64    // what to continue with; 0 if nothing was read yet
	last   time.Time // when the message before it was stored
	resume bool      // whether that is still there is to be seen
	caught bool
	// Of the newest message that came: which consumer it came through, and its number there.
	through string
	number  uint64
	silent  int // how often in a row it was quiet while messages were under way
}

// errOfEach carries an error of the caller's function past the retries.
type errOfEach struct{ error }

func (e errOfEach) Unwrap() error { return e.error }

func (c *Conn) read(ctx context.Context, o ReadOptions, each func(Record) error, follow bool) error {
	r := &reader{options: o, each: each, follow: follow}
	if o.After.Sequence > 0 {
		r.next, r.last = o.After.Sequence+1, o.After.Time
	}
	for attempt := 0; ; attempt++ {
		was := r.next
		reading, end := c.requests.begin(ctx, reading(o.Stream))
		err := c.readOnce(reading, r)
		if errors.Is(context.Cause(reading), ErrDenied) {
			err = ErrDenied
		}
		end()
		if own, ok := errors.AsType[errOfEach](err); ok {
			return own.error
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("read stream %s: %w", o.Stream, errors.Join(ctx.Err(), err))
		}
		if c.ctx.Err() != nil || !retryable(err) {
			return fmt.Errorf("read stream %s: %w", o.Stream, c.explainStream(err))
		}
		if r.next != was {
			attempt = 0
		}
		c.heard(err, time.Now())
		c.log.Warn("reading a stream broke off; trying again", "stream", o.Stream, "next", r.next, "error", c.explain(err))
		if c.options.OnBroken != nil {
			c.options.OnBroken(o.Stream)
		}
		if wait(ctx, backoff(attempt)) != nil {
			return fmt.Errorf("read stream %s: %w", o.Stream, errors.Join(ctx.Err(), err))
		}
	}
}

// retryable says whether an error may pass by itself: all but what the server says of the request.
func retryable(err error) bool {
	if errors.Is(err, ErrReplaced) || errors.Is(err, ErrDenied) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return false
	}
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return !ok || refused.Code >= 500 || errors.Is(err, jetstream.ErrConsumerNotFound)
}

// readOnce reads through one consumer, from where r has come to.
func (c *Conn) readOnce(ctx context.Context, r *reader) error {
	r.through, r.resume = "", r.next > 0
	stream, err := c.js.Stream(ctx, r.options.Stream)
	if err != nil {
		return err
	}
	if err := r.check(stream.CachedInfo()); err != nil {
		return err
	}
	consumer, err := stream.OrderedConsumer(ctx, r.consumer())
	if err != nil {
		return err
	}
	defer c.forget(stream, consumer)
	pending, err := pending(ctx, stream, consumer)
	if err != nil {
		return err
	}
	c.mute.answered()
	if pending == 0 && r.caughtUp() {
		return nil
	}
	messages, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(readAheadMessages, readAheadBytes),
		jetstream.PullExpiry(30*time.Second), jetstream.PullHeartbeat(quiet))
	if err != nil {
		return err
	}
	defer messages.Stop()
	return c.drain(ctx, r, stream, consumer, messages)
}

// pending asks how much there is to read. A consumer may be on a server whose copy of the stream is behind, as after a
// restart, and then knows of less than was stored when reading began: that is an error.
func pending(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) (uint64, error) {
	is := consumer.CachedInfo()
	if known := stream.CachedInfo(); is.Cluster == nil || known.Cluster == nil || is.Cluster.Leader == known.Cluster.Leader {
		return is.NumPending, nil
	}
	now, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	if err := behind(now, is.Cluster.Leader); err != nil || is.NumPending > 0 {
		return is.NumPending, err
	}
	// It may have said so before it had everything.
	is, err = consumer.Info(ctx)
	if err != nil {
		return 0, err
	}
	return is.NumPending, nil
}

// behind says if a server's copy of a stream isn't as its leader's.
func behind(stream *jetstream.StreamInfo, server string) error {
	if stream.Cluster == nil || stream.Cluster.Leader == server {
		return nil
	}
	for _, peer := range stream.Cluster.Replicas {
		if peer.Name == server && peer.Current && !peer.Offline {
			return nil
		}
	}
	return fmt.Errorf("server %s has not all of stream %s yet", server, stream.Config.Name)
}

// forget has the server remove what it keeps for a reader at once. It keeps 1,000 of them for a stream by default: who
// reads often, such as a script that runs deltaplane dump again and again, would use them up for the services.
func (c *Conn) forget(stream jetstream.Stream, consumer jetstream.Consumer) {
	info := consumer.CachedInfo()
	if info == nil || c.Connected() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), quiet) // also when the reader's own has ended
	defer cancel()
	_ = stream.DeleteConsumer(ctx, info.Name) // else it goes after forgetAfter
}

// check notes what the stream is like when reading begins, and later says if it isn't the same any more.
func (r *reader) check(info *jetstream.StreamInfo) error {
	if !r.begun {
		r.begun, r.made, r.end = true, info.Created, info.State.LastSeq
		r.moving = info.Config.MaxMsgsPerSubject == 1
	}
	if !info.Created.Equal(r.made) || info.State.LastSeq+1 < r.next {
		return ErrReplaced
	}
	return nil
}

func (r *reader) consumer() jetstream.OrderedConsumerConfig {
	config := jetstream.OrderedConsumerConfig{
		FilterSubjects: r.options.Subjects, DeliverPolicy: jetstream.DeliverAllPolicy,
		InactiveThreshold: forgetAfter, MaxResetAttempts: 1,
	}
	switch {
	case r.next > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.next-1
	case r.options.FromSequence > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.options.FromSequence
	case !r.options.FromTime.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.options.FromTime
	}
	return config
}

// drain hands over messages until r has all it wants.
func (c *Conn) drain(ctx context.Context, r *reader, stream jetstream.Stream, consumer jetstream.Consumer, messages jetstream.MessagesContext) error {
	for {
		m, err := nextMessage(ctx, messages)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if done, err := c.quiet(ctx, r, stream, consumer); done || err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if done, err := r.take(m); done || err != nil {
			return err
		}
	}
}

func nextMessage(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*quiet)
	defer cancel()
	return messages.Next(jetstream.NextContext(ctx))
}

// take hands over one message and says whether that was the last one wanted.
func (r *reader) take(m jetstream.Msg) (done bool, err error) {
	meta, err := m.Metadata()
	if err != nil {
		return false, err
	}
	if r.through != "" && r.through != meta.Consumer {
		return false, errAnotherConsumer
	}
	if known, err := r.resumes(meta); err != nil {
		return false, err
	} else if known {
		r.through, r.number, r.silent = meta.Consumer, meta.Sequence.Consumer, 0
		return r.all(meta) && r.caughtUp(), nil
	}
	if !r.moving && meta.Sequence.Stream > r.end && r.caughtUp() {
		return true, nil
	}
	err = r.each(Record{Subject: m.Subject(), Data: m.Data(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp})
	if err != nil {
		return false, errOfEach{err}
	}
	r.next, r.last = meta.Sequence.Stream+1, meta.Timestamp
	r.through, r.number, r.silent = meta.Consumer, meta.Sequence.Consumer, 0
	return r.all(meta) && r.caughtUp(), nil
}

// errAnotherConsumer is when the client has made a consumer anew by itself, which doesn't see whether the stream is the
// same.
var errAnotherConsumer = errors.New("the server had lost the reader")

// resumes looks at the first message after reading broke off. It says whether that is the one that was read last, so that
// what follows is what came after it, too.
func (r *reader) resumes(meta *jetstream.MsgMetadata) (known bool, err error) {
	if !r.resume {
		return false, nil
	}
	r.resume = false
	switch {
	case meta.Sequence.Stream < r.next && meta.Timestamp.Equal(r.last):
		return true, nil
	case meta.Sequence.Stream < r.next:
		return false, ErrReplaced // its place is another's
	case r.options.OnUnsure == nil:
		return false, nil
	}
	if err := r.options.OnUnsure(); err != nil {
		return false, errOfEach{err}
	}
	return false, nil
}

// all says whether a message was the last of what was stored when reading began. Where only the last of a subject is
// kept, what was stored may have moved beyond the end meanwhile: then only nothing pending means that nothing is missing.
func (r *reader) all(meta *jetstream.MsgMetadata) bool {
	return meta.NumPending == 0 || !r.moving && meta.Sequence.Stream >= r.end
}

// quiet is when nothing came for a while: what was pending may have been deleted meanwhile, or the stream with it, or what was
// sent doesn't come.
func (c *Conn) quiet(ctx context.Context, r *reader, stream jetstream.Stream, consumer jetstream.Consumer) (done bool, err error) {
	now, err := stream.Info(ctx)
	if err != nil {
		return false, err
	}
	c.mute.answered()
	if err := r.check(now); err != nil || r.caught && now.State.LastSeq < r.next {
		return false, err
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return false, err
	}
	if info.NumPending > 0 {
		return false, nil
	}
	if r.underWay(info) {
		if r.silent++; r.silent >= silentMost {
			return false, errUnderWay
		}
		return false, nil
	}
	return r.caughtUp(), nil
}

// underWay says whether the server has sent messages that haven't come: nothing is pending then, but on a busy server they
// may take seconds, and overtaken by the answer that says so.
func (r *reader) underWay(info *jetstream.ConsumerInfo) bool {
	if info.Name != r.through {
		return info.Delivered.Consumer > 0
	}
	return info.Delivered.Consumer > r.number
}

// silentMost is how often in a row messages may be under way until they are asked for again.
const silentMost = 5

var errUnderWay = errors.New("messages that the server has sent don't come")

// caughtUp notes that everything up to r.end was handed over, and says whether that is all.
func (r *reader) caughtUp() (done bool) {
	if !r.caught {
		r.caught = true
		if r.options.OnCaughtUp != nil {
			r.options.OnCaughtUp()
		}
	}
	return !r.follow
}
