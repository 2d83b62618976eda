// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// As in internal/bus.
const (
	appendTime = 5 * time.Second
	answerTime = 1500 * time.Millisecond
	settleTime = 10 * time.Second
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

// store is what the server does with a batch whose holder has read or written its epoch at held.
func (s *stream) store(subject string, held uint64, batch []record) (uint64, error) {
	if !s.exists {
		return 0, bus.ErrNoStream
	}
	if s.newest(subject).sequence != held {
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

// ask calls done after a round trip to the server, if there is one.
func (s *stream) ask(p *process, done func(error)) {
	if s.away[p] {
		p.after(time.Millisecond, func() { done(errAway) })
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

// follow follows what comes after a record that was read, of which sequence and time count; the zero record is from the
// first on.
func (s *stream) follow(p *process, prefix string, after record, take func([]record), caughtUp func(), end func(error)) *reader {
	r := &reader{
		of: s, by: p, life: p.life, prefix: prefix, made: s.made, next: after.sequence + 1, last: after, broken: true,
		take: take, caughtUp: caughtUp, end: end,
	}
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
	if r.broken && r.caught {
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
