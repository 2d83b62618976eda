// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/carry"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	programmer "github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
	"github.com/deltaplane/deltaplane/services/programmer/resync"
)

// syncWithin bounds one answer to a sync, as in the service.
const syncWithin = time.Minute

// node is a machine: the shell of a programmer, and the maps that outlive it.
type node struct {
	*process
	bus    *wires
	seals  *seals
	layers []model.Layer
	memory *programmer.Memory
	// witness watches the maps as packets do; nil on nodes that nobody watches.
	witness *plantest.Witness
	faulty  *programmer.Faulty
	driver  carry.Driver
	seeds   uint64
	// capacities are how much room the programmer believes its maps to have; 0 is plenty.
	capacities plan.Capacities
	// killAt is the operation on the maps at which the programmer is killed, counted from its start; 0 is none.
	killAt int
	// mangle, if set, changes what arrives: tests break rules with it.
	mangle func(core.Input) core.Input
	// stepped is told after each step.
	stepped func()
}

// killed is what unwinds a programmer that is killed amid an operation.
type killed struct{}

func newNode(c *cluster, name string, witnessed bool) *node {
	n := &node{
		process: &process{world: c.world, name: name}, bus: c.bus, seals: &c.seals,
		layers: []model.Layer{model.ClusterLayer, model.NodeLayer(name)},
		memory: programmer.NewMemory([abi.MapCount]uint32{}),
	}
	n.faulty = &programmer.Faulty{Maps: n.memory, Random: c.random}
	if witnessed {
		n.witness = plantest.NewWitness(n.memory, model.NewTables(), model.NewTables())
		n.witness.Closes = true
		n.faulty.Maps = &lookout{Witness: n.witness, node: n}
	}
	n.faulty.Before = func(operation int) {
		if n.killAt > 0 && operation >= n.killAt {
			n.killAt = 0
			panic(killed{})
		}
	}
	return n
}

// run starts a programmer on what the maps hold.
func (n *node) run() {
	n.start()
	n.seeds++
	n.driver = carry.Driver{
		Core: core.New(core.Config{Node: n.name, Seed: n.seeds, Capacities: n.capacities}), Maps: &shuffled{n.faulty, n}, Now: n.clock, Defer: n.seeds%2 == 1,
	}
	for _, l := range n.layers {
		var deltas resync.Deltas
		n.bus.subscribe(n.process, schemas.ApplySubject(l.String()), "", func(m message) {
			var d core.Delta
			var complete bool
			body, err := n.seals.open(seal.Delta, m.data)
			if err == nil {
				d, complete, err = deltas.Add(body)
			}
			switch {
			case err != nil:
				n.foreign(m.subject, err)
			case complete:
				n.put(d)
			}
		})
	}
	n.bus.subscribe(n.process, schemas.SubjectHeartbeat, "", func(m message) {
		var h wire.Heartbeat
		body, err := n.seals.open(seal.Heartbeat, m.data)
		if err == nil {
			h, err = wire.DecodeHeartbeat(body)
		}
		if err != nil {
			n.foreign(m.subject, err)
			return
		}
		n.put(core.Heartbeat(h))
	})
	n.put(core.Tick{})
	n.put(core.Reconnected{})
	n.after(core.TickInterval, n.tick)
}

func (n *node) foreign(subject string, err error) {
	n.put(core.Foreign{Subject: subject, Err: err, Unsealed: errors.Is(err, seal.ErrUnsealed)})
}

func (n *node) tick() {
	n.after(core.TickInterval, n.tick)
	n.put(core.Tick{})
}

func (n *node) reconnected() { n.put(core.Reconnected{}) }

// put gives the core an input and does what it wants, unless the programmer is killed meanwhile.
func (n *node) put(in core.Input) {
	if n.mangle != nil {
		in = n.mangle(in)
	}
	writes := n.memory.Writes()
	n.within(func() []core.Effect { return n.driver.Step(in) })
	if n.memory.Writes() != writes {
		// What was put off is due once its grace period is over.
		n.after(n.between(0, 20*time.Millisecond), func() { n.within(func() []core.Effect { return n.driver.Finish() }) })
	}
}

func (n *node) within(step func() []core.Effect) {
	if !n.up {
		return
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case killed:
			n.inject("killed amid an operation", n.name)
			n.kill()
			n.world.after(n.between(50*time.Millisecond, 3*time.Second), func() {
				if !n.up {
					n.run()
				}
			})
		default:
			panic(r)
		}
	}()
	n.do(step())
	if n.stepped != nil {
		n.stepped()
	}
}

// do does what the core wants and has nothing to do with maps.
func (n *node) do(effects []core.Effect) {
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		switch e := e.(type) {
		case core.Sync:
			n.sync(e)
		case core.Report:
			if n.bus.publish(n.process, message{subject: schemas.AppliedSubject(n.name), data: marshal(n.applied(e))}) != nil {
				effects = append(effects, n.driver.Step(core.Unreported{Deltas: e.Deltas})...)
			}
		case core.Event:
			n.note("event", e.Kind, e.Text)
		}
	}
}

// sync asks a compiler and gives the core what it answers.
func (n *node) sync(e core.Sync) {
	request, err := resync.Request(n.name, e)
	if err != nil {
		panic("sim: " + err.Error())
	}
	answer := resync.Answer{Open: n.seals.open}
	over := false
	end := func(err error) {
		if !over {
			over = true
			n.put(answer.End(err))
		}
	}
	n.after(syncWithin, func() { end(errors.New("the answer took too long")) })
	n.after(0, func() {
		n.bus.request(n.process, schemas.SyncSubject(n.name), request, func(data []byte) (bool, error) {
			in, more, err := answer.Add(data)
			if in != nil {
				n.put(in)
			}
			return more, err
		}, end)
	})
}

// applied is a report as the service publishes it.
func (n *node) applied(r core.Report) *schemas.Applied {
	m := &schemas.Applied{
		Node: n.name, Positions: sortedPositions(r.Positions), Sent: timestamppb.New(n.clock()), MapsKind: "memory",
	}
	for _, d := range r.Deltas {
		m.Deltas = append(m.Deltas, &schemas.AppliedDelta{
			Layer: d.Layer.String(), Epoch: uint64(d.Epoch), Revision: uint64(d.To), Applied: timestamppb.New(d.Applied),
			Writes: uint64(d.Writes), Bytes: uint64(d.Bytes),
		})
	}
	for _, f := range r.Faults {
		m.Faults = append(m.Faults, &schemas.Fault{Kind: f.Kind, Text: f.Text, Since: timestamppb.New(f.Since), Revision: uint64(f.Revision)})
	}
	return m
}

func sortedPositions(positions map[model.Layer]model.Position) (list []*schemas.Position) {
	for _, l := range slices.SortedFunc(maps.Keys(positions), func(a, b model.Layer) int { return int(a.Kind) - int(b.Kind) }) {
		list = append(list, wire.PositionToProto(l, positions[l]))
	}
	return list
}

// holds reads what the maps hold, whatever the programmer believes.
func (n *node) holds() *plan.State {
	found, err := plan.Load(func(m abi.Map, each func(key, value []byte) error) error { return programmer.Dump(n.memory, m, each) })
	if err != nil {
		panic(fmt.Sprintf("sim: the maps of %s can't be read: %v", n.name, err))
	}
	return found
}

// shuffled makes the writes of a batch in an order that the seed draws: a plan promises nothing about it but that any
// will do. Each becomes part of the history's hash.
type shuffled struct {
	programmer.Maps
	node *node
}

func (s *shuffled) Write(writes []programmer.Write) error {
	writes = slices.Clone(writes)
	slices.SortStableFunc(writes, func(a, b programmer.Write) int {
		return cmp.Or(cmp.Compare(a.Map, b.Map), bytes.Compare(a.Key, b.Key))
	})
	s.node.random.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	for _, w := range writes {
		s.node.trace.mixNumber(uint64(w.Map))
		s.node.trace.mixBytes(w.Key)
		s.node.trace.mixBytes(w.Value)
	}
	return s.Maps.Write(writes)
}

// lookout tells the witness what each change goes towards, before the first write of it.
type lookout struct {
	*plantest.Witness
	node    *node
	towards [2]model.Digest
}

func (l *lookout) look() {
	state := l.node.driver.Core.State()
	if state == nil {
		return
	}
	towards := [2]model.Digest{state.Digest(model.LayerCluster), state.Digest(model.LayerNode)}
	if towards == l.towards {
		return
	}
	l.towards = towards
	l.Expect(state.Wanted(model.LayerCluster).Clone(), state.Wanted(model.LayerNode).Clone())
}

func (l *lookout) Write(writes []programmer.Write) error {
	l.look()
	return l.Witness.Write(writes)
}

func (l *lookout) Judge(policed bool) error {
	l.look()
	return l.Witness.Judge(policed)
}
