// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// As in internal/bus.
const (
	appendTime = 5 * time.Second
	takeTries  = 20
)

// record is a message in a stream.
type record struct {
	sequence uint64
	subject  string
	data     []byte
	at       time.Time
}

// stream is one on the server: it stores batches as a whole or not at all, if the fence holds.
type stream struct {
	*wires
	name     string
	lastOnly bool // keeps only the newest record of each subject
	exists   bool
	made     int // how often it was made
	records  []record
	last     uint64
	backup   []record
	backupAt uint64
	readers  []*reader
	// stored is told of each batch that the stream has accepted, replaced when it was lost or went back.
	stored   func(records []record)
	replaced func()
}

func (s *stream) create() {
	if !s.exists {
		s.exists, s.made, s.records, s.last = true, s.made+1, nil, 0
	}
}

// ensure makes the stream if there is none, as bus.EnsureStreams.
func (s *stream) ensure(p *process, done func(error)) {
	s.ask(p, func(err error) {
		if errors.Is(err, bus.ErrNoStream) {
			s.create()
			err = nil
		}
		done(err)
	})
}

// remove loses the stream.
func (s *stream) remove() {
	s.exists, s.records, s.last = false, nil, 0
	s.breakReaders()
}

// save takes a backup; restore brings it back, with all that came after it lost.
func (s *stream) save() { s.backup, s.backupAt = slices.Clone(s.records), s.last }

func (s *stream) restore() {
	if !s.exists {
		s.exists, s.made = true, s.made+1
	}
	s.records, s.last = slices.Clone(s.backup), s.backupAt
	s.breakReaders()
}

// store is what the server does with a batch.
func (s *stream) store(f *fence, batch []record) (uint64, error) {
	if !s.exists {
		return 0, bus.ErrNoStream
	}
	if s.newest(f.subject).sequence != f.sequence {
		return 0, bus.ErrDeposed
	}
	for i := range batch {
		r := &batch[i]
		s.last++
		r.sequence, r.at = s.last, s.now
		if s.lastOnly {
			s.records = slices.DeleteFunc(s.records, func(old record) bool { return old.subject == r.subject })
		}
		s.records = append(s.records, *r)
	}
	if s.stored != nil {
		s.stored(batch)
	}
	for _, r := range slices.Clone(s.readers) {
		r.kick() // which may end
	}
	return s.last, nil
}

// newest returns the newest record of a subject; the zero record if there is none.
func (s *stream) newest(subject string) record {
	for _, r := range slices.Backward(s.records) {
		if r.subject == subject {
			return r
		}
	}
	return record{}
}

// fence is the right to append, as bus.Fence.
type fence struct {
	subject  string
	sequence uint64
	epoch    uint64
	data     []byte // of the epoch
	newest   uint64 // of the newest record that was stored under it
}

// append sends a batch to the stream. done is called once: stored, refused, or nobody knows.
func (s *stream) append(p *process, f *fence, batch []record, done func(last uint64, err error)) {
	over := false
	end := func(last uint64, err error) {
		if !over {
			over = true
			done(last, err)
		}
	}
	p.after(appendTime, func() { end(0, bus.ErrUncertain) })
	if s.away[p] {
		return
	}
	travel := s.stall(p) + s.between(200*time.Microsecond, 3*time.Millisecond)
	switch {
	case s.chance(s.weather.lostAppend):
		s.injected["append lost"]++
		return
	case s.chance(s.weather.lateAppend):
		s.injected["append late"]++
		travel += s.between(0, 8*time.Second)
	}
	frozen, life := *f, p.life
	s.world.after(travel, func() {
		last, err := s.store(&frozen, batch)
		if s.chance(s.weather.lostAnswer) {
			s.injected["answer lost"]++
			return
		}
		s.world.after(s.stall(p)+s.between(200*time.Microsecond, 3*time.Millisecond), func() {
			p.happens(life, func() {
				if !s.away[p] {
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
	s.tryEpoch(p, subject, floor, 0, done)
}

func (s *stream) tryEpoch(p *process, subject string, floor uint64, try int, done func(*fence, error)) {
	again := func(err error) {
		if !errors.Is(err, bus.ErrDeposed) && !errors.Is(err, bus.ErrUncertain) || try == takeTries {
			done(nil, err)
			return
		}
		p.after(s.between(5*time.Millisecond, 200*time.Millisecond), func() { s.tryEpoch(p, subject, floor, try+1, done) })
	}
	s.ask(p, func(err error) {
		if err != nil {
			again(err)
			return
		}
		newest := s.newest(subject)
		var held schemas.Epoch
		if err := proto.Unmarshal(newest.data, &held); err != nil {
			panic("sim: what stands on the epoch's subject is no Epoch: " + err.Error())
		}
		f := &fence{subject: subject, sequence: newest.sequence, epoch: max(held.GetEpoch(), floor) + 1}
		f.data = marshal(&schemas.Epoch{Epoch: f.epoch, Holder: p.name, Since: timestamppb.New(p.clock())})
		s.confirm(p, f, func(err error) {
			if err != nil {
				again(err)
				return
			}
			done(f, nil)
		})
	})
}

// confirm has the stream say that the epoch is still its holder's, by writing it once more, as bus.Fence.Confirm.
func (s *stream) confirm(p *process, f *fence, done func(error)) {
	if f.newest == 0 {
		s.write(p, f, done)
		return
	}
	s.ask(p, func(err error) {
		if newest := s.newest(f.subject); err == nil && newest.sequence == f.sequence && !bytes.Equal(newest.data, f.data) {
			done(bus.ErrReplaced)
			return
		}
		s.write(p, f, done)
	})
}

func (s *stream) write(p *process, f *fence, done func(error)) {
	s.append(p, f, []record{{subject: f.subject, data: f.data}}, func(last uint64, err error) {
		if err == nil {
			f.sequence = last
		}
		done(err)
	})
}

// newestEpoch reads what stands on the epoch's subject, and where.
func (s *stream) newestEpoch(p *process, subject string, done func(*schemas.Epoch, uint64, error)) {
	s.ask(p, func(err error) {
		newest, epoch := s.newest(subject), &schemas.Epoch{}
		if err == nil {
			err = proto.Unmarshal(newest.data, epoch)
		}
		done(epoch, newest.sequence, err)
	})
}

// ask calls done after a round trip to the server, if there is one.
func (s *stream) ask(p *process, done func(error)) {
	if s.away[p] {
		p.after(appendTime, func() { done(bus.ErrUncertain) })
		return
	}
	p.after(2*s.stall(p)+s.between(400*time.Microsecond, 4*time.Millisecond), func() {
		switch {
		case s.away[p]:
			done(bus.ErrUncertain)
		case !s.exists:
			done(bus.ErrNoStream)
		default:
			done(nil)
		}
	})
}

// read returns all that is stored since a time on subjects with a prefix.
func (s *stream) read(p *process, prefix string, from time.Time, done func([]record, error)) {
	s.ask(p, func(err error) {
		var found []record
		for _, r := range s.records {
			if strings.HasPrefix(r.subject, prefix) && !r.at.Before(from) {
				found = append(found, r)
			}
		}
		done(found, err)
	})
}

// reader follows a stream, as bus.Follow: what is stored, then what comes. When the stream is lost or goes back it
// breaks off, looks again a moment later, and ends if the stream is another one or shorter than what was read.
type reader struct {
	of       *stream
	by       *process
	life     int
	prefix   string
	made     int
	next     uint64
	last     record // that was read
	caught   bool
	planned  bool
	broken   bool
	ended    bool
	take     func([]record)
	caughtUp func()
	end      func(error)
	unsure   func() error // bus.ReadOptions.OnUnsure
}

func (s *stream) follow(p *process, prefix string, from uint64, take func([]record), caughtUp func(), end func(error)) *reader {
	r := &reader{of: s, by: p, life: p.life, prefix: prefix, made: s.made, next: max(from, 1), take: take, caughtUp: caughtUp, end: end}
	s.readers = append(s.readers, r)
	r.kick()
	return r
}

func (s *stream) breakReaders() {
	for _, r := range slices.Clone(s.readers) {
		r.broken = true
		r.kick()
	}
	if s.replaced != nil {
		s.replaced()
	}
}

func (r *reader) stop() {
	r.ended = true
	r.of.readers = slices.DeleteFunc(r.of.readers, func(other *reader) bool { return other == r })
}

// kick has the reader look for more soon.
func (r *reader) kick() {
	if r.planned || r.ended {
		return
	}
	if !r.by.up || r.by.life != r.life {
		r.stop()
		return
	}
	r.planned = true
	delay := r.of.stall(r.by) + r.of.between(200*time.Microsecond, 2*time.Millisecond)
	if r.broken {
		delay += r.of.between(50*time.Millisecond, 2*time.Second)
	}
	r.by.after(delay, r.pull)
}

func (r *reader) pull() {
	r.planned = false
	switch {
	case r.ended:
		return
	case r.of.away[r.by]:
		r.broken = true // the process is told when it is back
		return
	case !r.of.exists || r.of.made != r.made || r.of.last+1 < r.next:
		r.stop()
		r.end(bus.ErrReplaced)
		return
	}
	if err := r.resumes(); err != nil {
		r.stop()
		r.end(err)
		return
	}
	var found []record
	for _, rec := range r.of.records {
		if rec.sequence >= r.next && strings.HasPrefix(rec.subject, r.prefix) {
			found = append(found, rec)
		}
	}
	r.next = r.of.last + 1
	if len(found) > 0 {
		r.last = found[len(found)-1]
		r.take(found)
	}
	if !r.caught && !r.ended {
		r.caught = true
		r.caughtUp()
	}
}

// resumes looks whether a stream that reading broke off of is still the same: whether it has what was read last.
func (r *reader) resumes() error {
	if !r.broken || r.last.sequence == 0 {
		r.broken = false
		return nil
	}
	r.broken = false
	for _, rec := range r.of.records {
		switch {
		case rec.sequence == r.last.sequence && rec.at.Equal(r.last.at):
			return nil
		case rec.sequence == r.last.sequence:
			return bus.ErrReplaced
		}
	}
	if r.unsure != nil {
		return r.unsure()
	}
	return nil
}

func marshal(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic("sim: encode a message of our own: " + err.Error())
	}
	return data
}
