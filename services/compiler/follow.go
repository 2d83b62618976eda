// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/ordered"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
)

// unreadableTold is of how many messages of STATE that can't be read each is told; then each thousandth.
const unreadableTold = 20

// reading is how far a session has come with STATE.
type reading struct {
	*session
	ctx context.Context
	// stored says that all that was stored when reading began was read, told that the loop knows.
	stored, told bool
	// suspect are the subjects whose newest message can't be believed, as long as the loop doesn't know that STATE was read
	// to its end.
	suspect    map[string]bool
	unreadable int
	known      string // the newest epoch
	since      int    // how often that was said since there was doubt
	// newest is the highest number of a fact that was read. before is that of what was read before this session began, of a
	// STATE that may have been another; 0 once this one is known to go on from there, or a newer list was announced.
	newest, before uint64
}

// fact is a message of STATE with what it says, or why it can't be used.
type fact struct {
	bus.Record
	fact *schemas.Fact
	err  error
}

// follow hands the facts of STATE to the loop. What is no fact leaves its object as it was. A session that has only begun
// doesn't know how it was: if the newest message of an object isn't sealed by a watcher, it must not take the object for
// gone, so until the watcher has said all such objects anew STATE isn't read to its end, and nothing is compiled.
func (t *session) follow(ctx context.Context) error {
	r := &reading{session: t, ctx: ctx, suspect: map[string]bool{}, known: identify(&schemas.Epoch{})}
	t.set(func() { r.before = t.factNumber })
	defer func() { t.set(func() { t.factNumber = max(t.factNumber, r.newest) }) }()
	facts := ordered.New(func(f *fact) { f.fact, f.err = t.openFact(&f.Record) }, r.take)
	err := t.conn.Follow(ctx, bus.ReadOptions{
		Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState, schemas.SubjectStateEpoch},
		OnCaughtUp: func() {
			_ = facts.Do(r.readAll) // fails only when the session has ended
		},
		OnUnsure: func() error { return facts.Do(r.doubt) },
	}, func(m bus.Record) error {
		if m.Subject == schemas.SubjectStateEpoch {
			return facts.Do(func() error { return r.epoch(m) })
		}
		return facts.Add(fact{Record: m})
	})
	err = errors.Join(err, facts.Close())
	if err == nil && ctx.Err() == nil {
		err = errors.New("following STATE has ended")
	}
	return err
}

// epoch hands over an epoch of STATE. What is none says nothing.
func (r *reading) epoch(m bus.Record) error {
	epoch, err := bus.ReadEpoch(m.Data)
	if err != nil {
		r.refuse(fmt.Sprintf("message %d on %s of STATE", m.Sequence, m.Subject), err)
		return nil
	}
	if was := r.unsure.Load(); was != nil {
		if *was != identify(epoch) {
			return errStateReplaced
		}
		if r.since++; r.since == epochsToBeSure {
			r.unsure.Store(nil)
			if err := r.give(told{doubt: new(false)}); err != nil {
				return err
			}
		}
	}
	r.known = identify(epoch)
	return r.give(told{sequence: m.Sequence, stored: m.Time, epoch: epoch})
}

// epochsToBeSure is how often the epoch must be said again to end doubt: the first may be a watcher's that sees only by the
// answer that STATE was restored, and takes another one then.
const epochsToBeSure = 2

// identify tells an epoch of STATE from all others, of a history that was lost too.
func identify(e *schemas.Epoch) string {
	return fmt.Sprint(e.GetEpoch(), " ", e.GetHolder(), " ", e.GetSince().AsTime())
}

// errStateReplaced ends a session that may lack facts. A watcher that finds STATE restored from a backup takes a new epoch.
var errStateReplaced = errors.New("STATE has another epoch since reading it broke off: it may have been restored and have grown again")

// doubt notes that what is read from now on may be of another history than what was read before. If it is, that history has
// another epoch: now, or that is still to come.
func (r *reading) doubt() error {
	r.since = 0
	if r.unsure.Load() == nil {
		r.unsure.Store(new(r.known))
		if err := r.give(told{doubt: new(true)}); err != nil {
			return err
		}
	}
	newest, _, err := r.newestEpoch(r.ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch)
	if err == nil && *r.unsure.Load() != identify(newest) {
		err = errStateReplaced
	}
	return err
}

// take hands over one fact.
func (r *reading) take(f *fact) error {
	if f.err == nil {
		f.err = r.order(f.fact)
	}
	if f.err != nil {
		r.pass(f)
		return nil
	}
	if err := r.give(told{sequence: f.Sequence, stored: f.Time, fact: f.fact}); err != nil || r.told {
		return err
	}
	if delete(r.suspect, f.Subject); r.stored {
		return r.end()
	}
	return nil
}

// readAll says that all that was stored was read.
func (r *reading) readAll() error {
	if r.newest >= r.before {
		r.before = 0 // it goes on where it was read to
	}
	if r.stored = true; len(r.suspect) > 0 {
		r.log.Warn("nothing is compiled before the watcher has published anew what isn't sealed by it, or was put back", "objects", len(r.suspect))
	}
	if r.old() {
		r.log.Warn("STATE is older than what this compiler has read before: nothing is compiled before a watcher has announced a list that is newer")
	}
	return r.end()
}

// errPutBack says that a fact was said before one that stands before it in STATE.
var errPutBack = errors.New("an old fact that was put back")

// order says why a fact isn't newer than all before it. Only what is sealed can say so.
func (r *reading) order(f *schemas.Fact) error {
	if r.seals.trust == nil {
		return nil
	}
	if f.GetNumber() <= r.newest {
		return fmt.Errorf("%w: it has number %d, and %d was said before", errPutBack, f.GetNumber(), r.newest)
	}
	if r.newest = f.GetNumber(); f.GetComplete() != nil && r.newest > r.before {
		r.before = 0
	}
	return nil
}

// old says whether STATE ends before what this compiler has read of it, or of the one before it, and no watcher has
// announced it as complete since.
func (r *reading) old() bool { return r.before > 0 }

// end tells the loop that everything stored was told, once it was.
func (r *reading) end() error {
	if len(r.suspect) > 0 || r.old() {
		return nil
	}
	r.told = true
	return r.give(told{})
}

// pass passes over what is no fact, and says so.
func (r *reading) pass(f *fact) {
	if _, err := schemas.ObjectOfSubject(f.Subject); err == nil && !r.told && r.seals.trust != nil {
		r.suspect[f.Subject] = true
	}
	if errors.Is(f.err, seal.ErrUnsealed) || errors.Is(f.err, errPutBack) {
		r.refuse(fmt.Sprintf("message %d on %s of STATE", f.Sequence, f.Subject), f.err)
		return
	}
	if r.unreadable++; r.unreadable <= unreadableTold || r.unreadable%1000 == 0 {
		r.tell(&schemas.Event{
			Severity: schemas.Severity_SEVERITY_WARNING, Service: "compiler", Kind: "fact_unreadable", Happened: now(),
			Text: fmt.Sprintf("message %d on %s of STATE is no fact, so its object is as it was: %v (number %d since it was read from its beginning)",
				f.Sequence, f.Subject, f.err, r.unreadable),
		})
	}
}

func (r *reading) give(m told) error {
	select {
	case r.facts <- m:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}
