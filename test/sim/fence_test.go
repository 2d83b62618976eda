// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// fence is the right to append, as bus.Fence.
type fence struct {
	subject  string
	sequence uint64
	epoch    uint64
	data     []byte // of the epoch
	newest   uint64 // of the newest record that was stored under it
	busy     bool
	waiting  []func()
}

// alone runs what uses the fence as soon as nothing else does. That calls free when it is over.
func (f *fence) alone(run func(free func())) {
	if f.busy {
		f.waiting = append(f.waiting, func() { f.alone(run) })
		return
	}
	f.busy = true
	run(func() {
		f.busy = false
		waiting := f.waiting
		f.waiting = nil
		for _, next := range waiting {
			next()
		}
	})
}

// append sends a batch to the stream. If no answer comes it finds out what became of it, and stores it if it isn't there.
// done is called once: stored, refused, or nobody knows.
func (s *stream) append(p *process, f *fence, batch []record, done func(last uint64, err error)) {
	f.alone(func(free func()) {
		end := func(last uint64, err error) {
			free()
			done(last, err)
		}
		s.commit(p, f, answerTime, batch, func(last uint64, err error) {
			if errors.Is(err, bus.ErrUncertain) {
				s.settle(p, f, batch, s.now.Add(settleTime), end)
				return
			}
			end(last, err)
		})
	})
}

// settle finds out whether a batch is stored that no answer came to, by writing the epoch once more.
func (s *stream) settle(p *process, f *fence, batch []record, until time.Time, done func(last uint64, err error)) {
	before, count := f.newest, uint64(len(batch))
	s.writeEpoch(p, f, func(last uint64, err error) {
		switch {
		case errors.Is(err, errAway) && s.now.Before(until):
			p.after(s.between(25*time.Millisecond, 50*time.Millisecond), func() { s.settle(p, f, batch, until, done) })
		case errors.Is(err, bus.ErrDeposed) || errors.Is(err, bus.ErrReplaced):
			done(0, err)
		case err != nil:
			done(0, bus.ErrUncertain)
		case last == before+count+1:
			s.injected["append settled, stored"]++
			done(last-1, nil)
		case last == before+1:
			s.ask(p, func(err error) {
				if err != nil || s.holds(before, &batch[count-1]) {
					done(0, bus.ErrUncertain)
					return
				}
				s.injected["append settled, stored anew"]++
				s.commit(p, f, appendTime, batch, done)
			})
		default:
			done(0, bus.ErrUncertain)
		}
	})
}

// holds says whether a record is in the place of what was acknowledged before it.
func (s *stream) holds(sequence uint64, r *record) bool {
	for _, held := range s.records {
		if held.sequence == sequence {
			return held.subject == r.subject && bytes.Equal(held.data, r.data)
		}
	}
	return false
}

// commit sends a batch and waits so long for the answer.
func (s *stream) commit(p *process, f *fence, within time.Duration, batch []record, done func(last uint64, err error)) {
	if s.away[p] {
		p.after(time.Millisecond, func() { done(0, errAway) })
		return
	}
	over := false
	end := func(last uint64, err error) {
		if !over {
			over = true
			done(last, err)
		}
	}
	p.after(within, func() { end(0, bus.ErrUncertain) })
	travel := s.stall(p) + s.between(200*time.Microsecond, 3*time.Millisecond)
	switch {
	case s.chance(s.weather.lostAppend):
		s.injected["append lost"]++
		return
	case s.chance(s.weather.lateAppend):
		s.injected["append late"]++
		travel += s.between(0, 8*time.Second)
	}
	held, life := f.sequence, p.life
	s.world.after(travel, func() {
		last, err := s.store(f.subject, held, batch)
		if s.chance(s.weather.lostAnswer) {
			s.injected["answer lost"]++
			return
		}
		s.world.after(s.stall(p)+s.between(200*time.Microsecond, 3*time.Millisecond), func() {
			p.happens(life, func() {
				if !s.away[p] && !over {
					end(last, f.stored(last, len(batch), err))
				}
			})
		})
	})
}

// stored notes what the holder has stored, unless the stream has gone back, as bus.Fence does.
func (f *fence) stored(last uint64, count int, err error) error {
	switch {
	case err != nil:
		return err
	case last+1-uint64(count) <= f.newest:
		return bus.ErrReplaced
	}
	f.newest = last
	return nil
}

// takeEpoch takes the stream's epoch, above floor too, as bus.TakeEpochAbove.
func (s *stream) takeEpoch(p *process, subject string, floor uint64, done func(*fence, error)) {
	s.tryEpoch(p, subject, floor, 0, math.MaxUint64, done)
}

// tryEpoch tries once, and again. first is the newest epoch when that began: whoever was faster keeps its own.
func (s *stream) tryEpoch(p *process, subject string, floor uint64, try int, first uint64, done func(*fence, error)) {
	s.ask(p, func(err error) {
		if err != nil {
			done(nil, err)
			return
		}
		newest := s.newest(subject)
		var held schemas.Epoch
		if err := proto.Unmarshal(newest.data, &held); err != nil {
			panic("sim: what stands on the epoch's subject is no Epoch: " + err.Error())
		}
		if first = min(first, held.GetEpoch()); held.GetEpoch() > first && held.GetHolder() != p.name {
			done(nil, bus.ErrDeposed)
			return
		}
		f := &fence{subject: subject, sequence: newest.sequence, epoch: max(held.GetEpoch(), floor) + 1}
		f.data = marshal(&schemas.Epoch{Epoch: f.epoch, Holder: p.name, Since: timestamppb.New(p.clock())})
		s.confirm(p, f, func(err error) {
			switch {
			case err == nil:
				done(f, nil)
			case !errors.Is(err, bus.ErrDeposed) && !errors.Is(err, bus.ErrUncertain) || try == takeTries:
				done(nil, err)
			default:
				p.after(s.between(5*time.Millisecond, 200*time.Millisecond), func() { s.tryEpoch(p, subject, floor, try+1, first, done) })
			}
		})
	})
}

// confirm has the stream say that the epoch is still its holder's, by writing it once more, as bus.Fence.Confirm.
func (s *stream) confirm(p *process, f *fence, done func(error)) {
	f.alone(func(free func()) {
		write := func() {
			s.writeEpoch(p, f, func(_ uint64, err error) {
				free()
				done(err)
			})
		}
		if f.newest == 0 {
			write()
			return
		}
		s.ask(p, func(err error) {
			if newest := s.newest(f.subject); err == nil && newest.sequence == f.sequence && !bytes.Equal(newest.data, f.data) {
				free()
				done(bus.ErrReplaced)
				return
			}
			write()
		})
	})
}

func (s *stream) writeEpoch(p *process, f *fence, done func(last uint64, err error)) {
	s.commit(p, f, appendTime, []record{{subject: f.subject, data: f.data}}, func(last uint64, err error) {
		if err == nil {
			f.sequence = last
		}
		done(last, err)
	})
}
