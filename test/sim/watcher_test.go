// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// kinds are those that watchers list here.
var kinds = []string{
	convert.KindNamespace, convert.KindNode, convert.KindService, convert.KindEndpointSlice, convert.KindPod, convert.KindNetworkPolicy,
}

// As in the services.
const (
	lookEvery   = 10 * time.Second
	shapeEvery  = 250 * time.Millisecond
	restBetween = time.Second
	catchUpTime = 5 * time.Second
)

// watcher is the shell of a watcher. It runs sessions: each reads STATE and the source, stands by, and may come to lead.
type watcher struct {
	*process
	api     *apiServer
	state   *stream
	seals   *seals
	replica *replica
	started time.Time
	current *session
}

// session is one time of knowing what the source has and what STATE holds, as in the service.
type session struct {
	*watcher
	core      *core.Core
	over      bool
	reader    *reader
	newest    *schemas.Epoch
	listings  int // of the newest time that everything is listed and watched
	inputs    []core.Input
	fence     *fence // nil while it stands by
	leading   bool   // STATE is read to where the epoch was taken
	appending bool
	owed      bool
	appended  []span   // that it hasn't read yet
	heard     []record // of STATE, while it appends
	strange   string   // what another has written to STATE since the last look
}

// span are sequences of STATE.
type span struct{ first, last uint64 }

func newWatcher(c *cluster, name string) *watcher {
	w := &watcher{process: &process{world: c.world, name: name}, api: c.api, state: c.state, seals: &c.seals}
	w.replica = &replica{
		process: w.process, bus: c.bus, stream: c.state, subject: schemas.SubjectStateEpoch, service: "watcher",
		begin: w.leads, end: w.end,
	}
	return w
}

func (w *watcher) run() {
	w.start()
	w.started, w.current = w.clock(), nil
	w.replica.run()
	w.session()
}

// session begins one.
func (w *watcher) session() {
	s := &session{watcher: w, newest: &schemas.Epoch{}, core: core.New(core.Options{
		Source: "kubernetes", Kinds: kinds, MaxDeleteShare: core.DefaultMaxDeleteShare, Versioned: true, Started: w.started,
	})}
	w.current = s
	w.state.ensure(w.process, func(err error) {
		if err != nil || s.over {
			s.fail(err)
			return
		}
		s.reader = w.state.follow(w.process, "", record{}, s.know, s.watch, func(err error) { s.fail(fmt.Errorf("following STATE: %w", err)) })
		s.reader.unsure = func() error { return bus.ErrReplaced }
		s.shape()
	})
}

// know takes in messages of STATE. Epochs only grow.
func (s *session) know(records []record) {
	if s.leading {
		s.heard = append(s.heard, records...)
		s.hear()
		return
	}
	for _, r := range records {
		if r.subject != schemas.SubjectStateEpoch {
			var fact schemas.Fact
			if body, err := s.seals.open(seal.Fact, r.data); err == nil && proto.Unmarshal(body, &fact) == nil {
				s.core.Known(&fact, r.sequence)
			}
			continue
		}
		epoch := &schemas.Epoch{}
		if proto.Unmarshal(r.data, epoch) != nil {
			continue
		}
		if epoch.GetEpoch() < s.newest.GetEpoch() || epoch.GetEpoch() == s.newest.GetEpoch() && !proto.Equal(epoch, s.newest) {
			s.fail(fmt.Errorf("STATE has gone from epoch %d to %d: %w", s.newest.GetEpoch(), epoch.GetEpoch(), bus.ErrReplaced))
			return
		}
		s.newest = epoch
	}
	s.catchUp()
}

// watch lists and watches everything, or does so anew.
func (s *session) watch() {
	s.listings++
	for _, kind := range kinds {
		s.list(kind, s.listings, 0)
	}
}

// list lists a kind and watches it from there, again and again: what a reflector of client-go does.
func (s *session) list(kind string, listing, tries int) {
	current := func() bool { return !s.over && s.listings == listing }
	again := func() {
		if current() {
			s.after(s.between(125*time.Millisecond, 500*time.Millisecond<<min(tries, 3)), func() { s.list(kind, listing, tries+1) })
		}
	}
	s.api.list(s.process, kind, func(objects []object, version uint64, err error) {
		switch {
		case !current():
			return
		case err != nil:
			again()
			return
		}
		s.put(listed(kind, objects, version))
		s.api.watch(s.process, kind, version, func(c change) {
			if current() {
				s.put(changed(c))
			}
		}, func() { tries = 0; again() })
	})
}

func listed(kind string, objects []object, version uint64) core.List {
	l := core.List{Kinds: []string{kind}, Version: strconv.FormatUint(version, 10)}
	for _, o := range objects {
		switch in := converted(o).(type) {
		case core.Upsert:
			l.Facts = append(l.Facts, in.Fact)
		case core.Refusal:
			l.Refused = append(l.Refused, in)
		}
	}
	return l
}

func changed(c change) core.Input {
	if c.gone {
		ref, err := convert.Ref(c.object)
		if err != nil {
			panic("sim: " + err.Error())
		}
		ref.ResourceVersion = strconv.FormatUint(c.version, 10)
		return core.Delete{Object: ref}
	}
	return converted(c.object)
}

func converted(o object) core.Input {
	fact, err := convert.Fact(o)
	if err == nil {
		return core.Upsert{Fact: fact}
	}
	ref, named := convert.Ref(o)
	if named != nil {
		panic("sim: " + named.Error())
	}
	return core.Refusal{Object: ref, Reason: err.Error()}
}

// shape says whether this watcher could lead.
func (s *session) shape() {
	if s.over {
		return
	}
	s.replica.set(lead.Shape{Able: s.core.Ready() && !s.api.down})
	s.after(shapeEvery, s.shape)
}

// leads has the session that runs lead.
func (w *watcher) leads(f *fence) {
	s := w.current
	if s == nil || s.fence != nil {
		w.replica.ended(f, errors.New("STATE and the source are being read anew"))
		return
	}
	s.fence = f
	s.after(catchUpTime, func() {
		if !s.leading {
			s.fail(fmt.Errorf("STATE could not be read up to epoch %d", f.epoch))
		}
	})
	s.catchUp()
}

// catchUp begins to publish once STATE is read to where this watcher has taken the epoch.
func (s *session) catchUp() {
	if s.over || s.fence == nil || s.leading || s.newest.GetEpoch() < s.fence.epoch {
		return
	}
	s.leading = true
	s.after(lookEvery, s.look)
	s.publish(s.core.Lead(s.clock(), s.fence.epoch))
}

// put gives the core an input, unless it waits for STATE.
func (s *session) put(in core.Input) {
	s.inputs = append(s.inputs, in)
	s.work()
}

func (s *session) work() {
	var effects core.Effects
	for !s.over && !s.appending && len(s.inputs) > 0 && len(effects.Publish) < bus.MaxBatchMessages/2 {
		e := s.core.Step(s.clock(), s.inputs[0])
		s.inputs = s.inputs[1:]
		effects.Publish = append(effects.Publish, e.Publish...)
		effects.Events = append(effects.Events, e.Events...)
	}
	s.publish(effects)
}

// publish appends what the core asks for.
func (s *session) publish(effects core.Effects) {
	for _, event := range effects.Events {
		s.note("event", event.GetKind(), event.GetText())
	}
	if len(effects.Publish) == 0 || s.over {
		return
	}
	batch, data := make([]record, len(effects.Publish)), make([][]byte, len(effects.Publish))
	for i, p := range effects.Publish {
		data[i] = p.Data
	}
	data = s.seals.signer.Seal(seal.Fact, data)
	for i, p := range effects.Publish {
		ref := p.Fact.GetObject()
		batch[i] = record{subject: schemas.StateSubject(ref.GetKind(), ref.GetNamespace(), ref.GetName()), data: data[i]}
	}
	s.appending = true
	s.state.append(s.process, s.fence, batch, func(last uint64, err error) {
		s.appending = false
		if err != nil || s.over {
			s.fail(fmt.Errorf("append %d facts: %w", len(batch), err))
			return
		}
		s.appended = append(s.appended, span{last + 1 - uint64(len(batch)), last})
		s.core.Stored(effects.Publish, last)
		s.hear()
		s.work()
	})
}

// hear takes in what STATE has got while this watcher leads: what it hasn't appended itself is somebody else's.
func (s *session) hear() {
	if s.appending {
		return
	}
	for _, r := range s.heard {
		if r.subject == schemas.SubjectStateEpoch {
			continue
		}
		for len(s.appended) > 0 && s.appended[0].last < r.sequence {
			s.appended = s.appended[1:]
		}
		if len(s.appended) == 0 || r.sequence < s.appended[0].first {
			s.strange = r.subject
		}
	}
	s.heard = nil
}

// look ends the session if STATE is no longer its own, and asks the source anew for what it owes for too long.
func (s *session) look() {
	s.confirm(func(err error) {
		if err != nil || s.over {
			s.fail(err)
			return
		}
		if s.strange != "" {
			s.injected["foreign message in STATE found"]++
			s.fail(fmt.Errorf("somebody else has written to STATE: %s", s.strange))
			return
		}
		s.after(lookEvery, s.look)
		owed := len(s.core.Owed()) > 0
		if owed && s.owed {
			effects := s.core.Trust(s.clock())
			s.watch()
			s.publish(effects)
			return
		}
		s.owed = owed
		s.publish(s.core.Renew(s.clock()))
	})
}

// confirm has STATE say that it is still this watcher's, unless nobody has written anything since.
func (s *session) confirm(done func(error)) {
	s.state.ask(s.process, func(err error) {
		if err == nil && s.state.last == s.fence.newest {
			done(nil)
			return
		}
		s.state.confirm(s.process, s.fence, done)
	})
}

// fail ends the session; another begins after a rest.
func (s *session) fail(err error) {
	if s.over {
		return
	}
	s.over = true
	if s.reader != nil {
		s.reader.stop()
	}
	s.current = nil
	s.note("its session ends:", fmt.Sprint(err))
	s.replica.set(lead.Shape{})
	if s.fence != nil {
		s.replica.ended(s.fence, err)
	}
	s.after(restBetween, s.watcher.session)
}

func (w *watcher) end(why error) {
	if w.current != nil {
		w.current.fail(why)
	}
}

func (w *watcher) reconnected() { w.end(errors.New("the bus was away")) }
