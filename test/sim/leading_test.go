// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/schemas"
)

// replica is lead.Machine on the simulated bus, as package lead/replica is on the real one: it pulses, takes the
// stream's epoch when the machine says so, and has its service lead for as long as it may.
type replica struct {
	*process
	bus     *wires
	stream  *stream
	subject string // of the epoch
	service string
	begin   func(*fence)
	end     func(error)
	// above, if set, says what the epoch must be above.
	above func() uint64

	machine *lead.Machine
	fence   *fence // of the term that runs; nil in none
	wakes   int
}

// confirmRetry is how long to wait with the next question where the bus is away.
const confirmRetry = 100 * time.Millisecond

// run stands by, in a life that has just begun. begin is called each time this replica leads, end to end that.
func (r *replica) run() {
	r.machine = lead.New(lead.Options{Service: r.service, Name: r.name}, r.clock())
	r.fence = nil
	r.bus.subscribe(r.process, schemas.PulseSubject(r.service), "", func(m message) {
		var pulse schemas.Pulse
		if proto.Unmarshal(m.data, &pulse) == nil {
			r.do(r.machine.Heard(r.clock(), &pulse))
		}
	})
	r.tick()
}

func (r *replica) tick() { r.do(r.machine.Tick(r.clock())) }

// wake plans the next tick.
func (r *replica) wake() {
	r.wakes++
	wake := r.wakes
	r.after(max(r.machine.Next().Sub(r.clock()), time.Millisecond), func() {
		if wake == r.wakes {
			r.tick()
		}
	})
}

func (r *replica) set(shape lead.Shape) {
	r.machine.Set(r.clock(), shape)
	r.wake()
}

func (r *replica) do(out lead.Output) {
	if out.Pulse != nil {
		_ = r.bus.publish(r.process, message{subject: schemas.PulseSubject(r.service), data: marshal(out.Pulse)})
	}
	switch out.Do {
	case lead.Nothing:
	case lead.Take:
		r.take(out.Above)
	case lead.Confirm:
		r.confirm(r.fence)
	case lead.StandDown:
		r.stop(fmt.Errorf("another %s leads, or is better able to: %w", r.service, bus.ErrDeposed))
	}
	r.wake()
}

func (r *replica) take(above uint64) {
	asked := r.clock()
	if r.above != nil {
		above = max(above, r.above())
	}
	r.stream.takeEpoch(r.process, r.subject, above, func(f *fence, err error) {
		if err != nil {
			r.machine.Refused(r.clock())
			r.wake()
			return
		}
		r.machine.Took(r.clock(), asked, f.epoch)
		r.fence = f
		r.note("leads in epoch", f.epoch)
		r.wake()
		r.begin(f)
	})
}

// confirm has the stream say who leads, for as long as it takes to reach it.
func (r *replica) confirm(f *fence) {
	asked := r.clock()
	r.stream.confirm(r.process, f, func(err error) {
		switch {
		case r.fence != f || r.machine.Epoch() != f.epoch:
			return
		case err == nil:
			r.machine.Confirmed(r.clock(), asked)
		case r.bus.away[r.process]:
			r.after(confirmRetry, func() { r.confirm(f) })
		default:
			r.machine.Deposed(r.clock())
			r.stop(fmt.Errorf("after a pause: %w", err))
		}
		r.wake()
	})
}

func (r *replica) stop(why error) {
	if r.fence != nil {
		r.end(why)
	}
}

// ended says that a term is over.
func (r *replica) ended(f *fence, err error) {
	if r.fence == f {
		r.fence = nil
	}
	if r.machine.Epoch() != f.epoch {
		return // it stood down before
	}
	if errors.Is(err, bus.ErrDeposed) {
		r.machine.Deposed(r.clock())
		r.wake()
	} else {
		r.do(r.machine.Resign(r.clock()))
	}
}

// sure says whether this replica leads for all it knows.
func (r *replica) sure() bool { return r.machine.Sure(r.clock()) }
