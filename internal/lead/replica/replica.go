// SPDX-License-Identifier: Apache-2.0

// Package replica is lead.Machine on the bus: it sends and hears pulses, takes the stream's epoch when the machine says
// so, and runs what a leader does for as long as this replica leads.
//
// It promises that what a leader does begins with a fence of its own and has ended before the next begins; that it is
// told to end (its context does) as soon as another is heard to lead; and that a process that stops in order resigns
// first, so that nobody waits. The one thing to know before changing it: whoever leads asks Sure before it says
// anything that the stream hasn't accepted, since a process may have been paused between any two instructions.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/schemas"
)

// Options say what is led. All but Log are needed.
type Options struct {
	lead.Options
	// Stream and EpochSubject are where the epoch is.
	Stream, EpochSubject string
	// Log gets who leads, and why no longer; nil drops it.
	Log *slog.Logger
}

// Replica is one replica of a service. Its methods may be called at the same time.
type Replica struct {
	conn *bus.Conn
	o    Options
	log  *slog.Logger
	kick chan struct{}

	ctx     context.Context // of Run
	work    func(context.Context, *bus.Fence) error
	running sync.WaitGroup

	mu      sync.Mutex
	machine *lead.Machine
	fence   *bus.Fence              // of the term that runs
	endTerm context.CancelCauseFunc // of it; nil in none
	term    sync.WaitGroup          // what leads, of which there is one
}

// New returns a replica that stands by once it runs.
func New(conn *bus.Conn, o Options) *Replica {
	r := &Replica{conn: conn, o: o, log: o.Log, kick: make(chan struct{}, 1), machine: lead.New(o.Options, time.Now())}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Run stands by, and calls work each time this replica leads, until ctx ends. work returns when its context ends, whose
// cause says why, or with an error when it can't go on: then another replica takes over, or this one after a rest.
func (r *Replica) Run(ctx context.Context, work func(context.Context, *bus.Fence) error) error {
	r.ctx, r.work = ctx, work
	pulses, err := r.conn.Subscribe(schemas.PulseSubject(r.o.Service), r.heard)
	if err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.kick:
		case <-timer.C:
		}
		timer.Reset(time.Until(r.tick()))
	}
	pulses.Stop()
	r.mu.Lock()   // whoever comes after this begins nothing
	r.mu.Unlock() //nolint:staticcheck // see above
	r.running.Wait()
	return nil
}

// Set changes what this replica says of itself.
func (r *Replica) Set(shape lead.Shape) {
	r.mu.Lock()
	r.machine.Set(time.Now(), shape)
	r.mu.Unlock()
	r.wake()
}

// Above has the next epoch be above one that was seen elsewhere, as on a node whose log was lost.
func (r *Replica) Above(epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.machine.Above(epoch)
}

// Sure says whether this replica leads for all it knows, so that it may say what the stream hasn't accepted.
func (r *Replica) Sure() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.machine.Sure(time.Now())
}

// Peers returns the replicas of the service that were heard of late, and this one.
func (r *Replica) Peers() []lead.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.machine.Peers(time.Now())
}

func (r *Replica) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *Replica) tick() (next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.do(r.machine.Tick(time.Now()))
	return r.machine.Next()
}

func (r *Replica) heard(m bus.Message) {
	var pulse schemas.Pulse
	if err := proto.Unmarshal(m.Data, &pulse); err != nil {
		r.log.Warn("a pulse that can't be read is ignored", "subject", m.Subject, "error", err)
		return
	}
	r.mu.Lock()
	r.do(r.machine.Heard(time.Now(), &pulse))
	r.mu.Unlock()
	r.wake()
}

// do does what the machine wants, under the lock; what takes its time is begun.
func (r *Replica) do(out lead.Output) {
	if out.Pulse != nil {
		r.send(out.Pulse)
	}
	if r.ctx.Err() != nil {
		return
	}
	switch out.Do {
	case lead.Nothing:
	case lead.Take:
		r.running.Go(func() { r.take(out.Above) })
	case lead.Confirm:
		fence := r.fence
		r.log.Warn("paused, or cut off: asking the stream who leads", "stream", r.o.Stream, "epoch", fence.Epoch())
		r.running.Go(func() { r.confirm(fence) })
	case lead.StandDown:
		r.end(fmt.Errorf("another %s leads, or is better able to: %w", r.o.Service, bus.ErrDeposed))
	}
}

func (r *Replica) send(pulse *schemas.Pulse) {
	data, err := proto.Marshal(pulse)
	if err != nil {
		r.log.Error("a pulse can't be encoded", "error", err)
		return
	}
	if err := r.conn.Publish(schemas.PulseSubject(r.o.Service), data); err != nil {
		r.log.Debug("a pulse can't be sent", "error", err)
	}
}

// take takes the epoch and leads.
func (r *Replica) take(above uint64) {
	r.term.Wait() // the one before may still be ending
	asked := time.Now()
	fence, err := r.conn.TakeEpochAbove(r.ctx, r.o.Stream, r.o.EpochSubject, r.o.Name, above)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || r.ctx.Err() != nil {
		r.machine.Refused(time.Now())
		r.log.Info("the epoch was not taken", "stream", r.o.Stream, "error", err)
		return
	}
	r.machine.Took(time.Now(), asked, fence.Epoch())
	ctx, end := context.WithCancelCause(r.ctx)
	r.fence, r.endTerm = fence, end
	r.log.Info("leading", "service", r.o.Service, "name", r.o.Name, "epoch", fence.Epoch())
	r.term.Add(1)
	r.running.Go(func() { r.lead(ctx, fence) })
	r.wake()
}

// lead does what a leader does, and says when it is over.
func (r *Replica) lead(ctx context.Context, fence *bus.Fence) {
	defer r.term.Done()
	err := r.work(ctx, fence)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(err)
	r.fence, r.endTerm = nil, nil
	if r.machine.Epoch() != fence.Epoch() {
		return // it stood down before
	}
	r.log.Warn("no longer leading", "service", r.o.Service, "epoch", fence.Epoch(), "error", err)
	if errors.Is(err, bus.ErrDeposed) {
		r.machine.Deposed(time.Now())
	} else {
		r.do(r.machine.Resign(time.Now()))
	}
	r.wake()
}

// confirm has the stream say who leads, for as long as it takes to reach it.
func (r *Replica) confirm(fence *bus.Fence) {
	for {
		asked := time.Now()
		err := fence.Confirm(r.ctx)
		if r.confirmed(fence, asked, err) {
			return
		}
		select {
		case <-time.After(retry):
		case <-r.ctx.Done():
			return
		}
	}
}

// retry is how long to wait with the next question where the bus is away.
const retry = 100 * time.Millisecond

// confirmed takes in an answer of the stream, and says whether that was one.
func (r *Replica) confirmed(fence *bus.Fence, asked time.Time, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.machine.Epoch() != fence.Epoch():
		return true // it stood down meanwhile
	case err == nil:
		r.machine.Confirmed(time.Now(), asked)
	case r.conn.Connected() != nil:
		return false
	default:
		r.machine.Deposed(time.Now())
		r.end(fmt.Errorf("after a pause: %w", err))
	}
	r.wake()
	return true
}

func (r *Replica) end(why error) {
	if r.endTerm != nil {
		r.endTerm(why)
	}
}
