// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// kinds are those that watchers list here.
var kinds = []string{
	convert.KindNamespace, convert.KindNode, convert.KindService, convert.KindEndpointSlice, convert.KindPod, convert.KindNetworkPolicy,
}

// lookEvery is how often leaders look whether the streams are still their own, as the services do.
const lookEvery = 10 * time.Second

// watcher is the shell of a watcher: it leads in terms, and what it drives in each is a core.
type watcher struct {
	*process
	bus     *wires
	api     *apiServer
	state   *stream
	lead    *leading
	started time.Time
	term    *watching
}

// watching is one term of leading.
type watching struct {
	*watcher
	core      *core.Core
	fence     *fence
	over      bool
	inputs    []core.Input
	appending bool
}

func newWatcher(c *cluster, name string, rank int) *watcher {
	w := &watcher{process: &process{world: c.world, name: name}, bus: c.bus, api: c.api, state: c.state}
	w.lead = newLeading(w.process, c.bus, "watcher", rank, w.begin, w.deposed)
	return w
}

func (w *watcher) run() {
	w.start()
	w.started, w.term = w.clock(), nil
	w.lead.run()
}

// begin begins a term: take the epoch, read what STATE holds, watch.
func (w *watcher) begin() {
	t := &watching{watcher: w}
	w.term = t
	w.state.create()
	w.state.takeEpoch(w.process, schemas.SubjectStateEpoch, 0, func(f *fence, err error) {
		if err != nil || t.over {
			t.end(err)
			return
		}
		t.fence = f
		w.lead.leads(f.epoch)
		w.note("leads in epoch", f.epoch)
		t.core = core.New(core.Options{
			Source: "kubernetes", Kinds: kinds, MaxDeleteShare: core.DefaultMaxDeleteShare, Started: w.started,
		})
		w.state.read(w.process, statePrefix, time.Time{}, t.known)
	})
}

// known takes what STATE holds, and begins to watch.
func (t *watching) known(records []record, err error) {
	if err != nil || t.over {
		t.end(err)
		return
	}
	for _, r := range records {
		var fact schemas.Fact
		if proto.Unmarshal(r.data, &fact) == nil {
			t.core.Known(&fact, r.sequence)
		}
	}
	for _, kind := range kinds {
		t.list(kind, 0)
	}
	t.after(lookEvery, t.look)
}

// list lists a kind and watches it from there, again and again: what a reflector of client-go does.
func (t *watching) list(kind string, tries int) {
	again := func() {
		if !t.over {
			t.after(t.between(125*time.Millisecond, 500*time.Millisecond<<min(tries, 3)), func() { t.list(kind, tries+1) })
		}
	}
	t.api.list(t.process, kind, func(objects []object, version uint64, err error) {
		switch {
		case t.over:
			return
		case err != nil:
			again()
			return
		}
		t.put(listed(kind, objects))
		t.api.watch(t.process, kind, version, func(c change) {
			if !t.over {
				t.put(changed(c))
			}
		}, func() { tries = 0; again() })
	})
}

func listed(kind string, objects []object) core.List {
	l := core.List{Kinds: []string{kind}}
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

// put gives the core an input, unless it waits for STATE.
func (t *watching) put(in core.Input) {
	t.inputs = append(t.inputs, in)
	t.work()
}

func (t *watching) work() {
	if t.appending || t.over {
		return
	}
	var batch []record
	for len(t.inputs) > 0 && len(batch) < bus.MaxBatchMessages/2 {
		e := t.core.Step(t.clock(), t.inputs[0])
		t.inputs = t.inputs[1:]
		for _, p := range e.Publish {
			ref := p.Fact.GetObject()
			batch = append(batch, record{subject: schemas.StateSubject(ref.GetKind(), ref.GetNamespace(), ref.GetName()), data: p.Data})
		}
		for _, event := range e.Events {
			t.note("event", event.GetKind(), event.GetText())
		}
	}
	if len(batch) == 0 {
		return
	}
	t.appending = true
	t.state.append(t.process, t.fence, batch, func(_ uint64, err error) {
		t.appending = false
		if err != nil {
			t.end(fmt.Errorf("append %d facts: %w", len(batch), err))
			return
		}
		t.work()
	})
}

// look ends the term if STATE is no longer its own.
func (t *watching) look() {
	t.state.look(t.process, t.fence, func(err error) {
		switch {
		case t.over:
		case err != nil:
			t.end(err)
		default:
			t.after(lookEvery, t.look)
		}
	})
}

func (t *watching) end(err error) {
	if t.over {
		return
	}
	t.over = true
	if t.watcher.term == t {
		t.watcher.term = nil
	}
	t.note("its term ends:", fmt.Sprint(err))
	t.lead.ended()
}

// deposed ends the term when another is heard to lead, reconnected when the bus was away.
func (w *watcher) deposed(epoch uint64) { w.endTerm(fmt.Errorf("another leads in epoch %d", epoch)) }
func (w *watcher) reconnected()         { w.endTerm(errors.New("the bus was away")) }

func (w *watcher) endTerm(err error) {
	if w.term != nil {
		w.term.end(err)
	}
}

const statePrefix = "deltaplane.v1.state."
