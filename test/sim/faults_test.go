// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	programmer "github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// faults is who breaks things: a history has a mood of its own, so that some are quiet but for one sort of fault.
type faults struct {
	*cluster
	over  bool
	kinds []fault
	pace  time.Duration
	keys  []ed25519.PublicKey // that were trusted before, and are
	// rotations counts keys.
	rotations int
}

// fault is something that goes wrong.
type fault struct {
	name   string
	strike func(*faults)
}

// all are the faults, in the order of the table in docs/design/simulation.md.
var all = []fault{
	{"weather", (*faults).storm},
	{"compiler killed", func(f *faults) { f.killed(pick(f.world, f.compilers).process) }},
	{"compiler stopped", func(f *faults) { f.stopped(pick(f.world, f.compilers).process) }},
	{"compiler cut off", func(f *faults) { f.cutOff(pick(f.world, f.compilers).process) }},
	{"watcher killed", func(f *faults) { f.killed(pick(f.world, f.watchers).process) }},
	{"watcher stopped", func(f *faults) { f.stopped(pick(f.world, f.watchers).process) }},
	{"watcher cut off", func(f *faults) { f.cutOff(pick(f.world, f.watchers).process) }},
	{"programmer killed", func(f *faults) { f.killed(pick(f.world, f.nodes).process) }},
	{"programmer stopped", func(f *faults) { f.stopped(pick(f.world, f.nodes).process) }},
	{"programmer cut off", func(f *faults) { f.cutOff(pick(f.world, f.nodes).process) }},
	{"programmer stalled", func(f *faults) { f.stall(pick(f.world, f.nodes).process) }},
	{"compiler stalled", func(f *faults) { f.stall(pick(f.world, f.compilers).process) }},
	{"all nodes restart", (*faults).restartNodes},
	{"kill at an operation", (*faults).killAtOperation},
	{"maps fail", (*faults).mapsFail},
	{"map edited", (*faults).editMap},
	{"map emptied", (*faults).emptyMap},
	{"bus restarts", (*faults).restartBus},
	{"appends fail", (*faults).failAppends},
	{"DELTA lost", func(f *faults) { f.lose(f.delta) }},
	{"DELTA restored", func(f *faults) { f.restore(f.delta) }},
	{"STATE lost", func(f *faults) { f.lose(f.state) }},
	{"STATE restored", func(f *faults) { f.restore(f.state) }},
	{"watches end", func(f *faults) { f.api.expire() }},
	{"API server away", (*faults).apiAway},
	{"list empty", func(f *faults) { f.api.emptyLists += 1 + f.random.IntN(2); f.api.expire() }},
	{"list stale", func(f *faults) { f.api.staleLists += 1 + f.random.IntN(3); f.api.expire() }},
	{"clock jumps", (*faults).clockJumps},
	{"message forged", (*faults).forge},
	{"key rotated", (*faults).rotate},
	{"map full", (*faults).mapFull},
	{"rolled back", (*faults).rollBack},
}

func newFaults(c *cluster) *faults {
	f := &faults{cluster: c, pace: c.between(300*time.Millisecond, 5*time.Second)}
	few := c.chance(0.6)
	for _, k := range all {
		if !few || c.chance(0.15) {
			f.kinds = append(f.kinds, k)
		}
	}
	return f
}

func (f *faults) begin() {
	if len(f.kinds) > 0 {
		f.after(f.between(0, f.pace), f.next)
	}
}

func (f *faults) next() {
	if f.over {
		return
	}
	kind := pick(f.world, f.kinds)
	if !slices.Contains(countedElsewhere, kind.name) {
		f.inject(kind.name, "faults")
	}
	kind.strike(f)
	f.after(f.between(0, 2*f.pace), f.next)
}

// countedElsewhere are faults that are counted when they come to pass.
var countedElsewhere = []string{"list empty", "list stale"}

// later undoes a fault, at the healing at the latest.
func (f *faults) later(in time.Duration, undo func()) {
	done := false
	f.after(in, func() {
		if !done && !f.over {
			done = true
			undo()
		}
	})
}

func (f *faults) storm() {
	f.bus.weather.loss, f.bus.weather.twice = f.random.Float64()*0.3, f.random.Float64()*0.2
	f.bus.weather.late, f.bus.weather.reorder = f.random.Float64()*0.3, f.random.Float64()*0.3
	f.later(f.between(time.Second, 8*time.Second), func() { f.bus.weather = weather{} })
}

func (f *faults) failAppends() {
	f.bus.weather.lostAppend, f.bus.weather.lostAnswer, f.bus.weather.lateAppend = 0.3, 0.3, 0.3
	f.later(f.between(time.Second, 8*time.Second), func() { f.bus.weather = weather{} })
}

func (f *faults) killed(p *process) {
	if !p.up {
		return
	}
	p.kill()
	f.later(f.between(0, 5*time.Second), func() { f.revive(p) })
}

func (f *faults) revive(p *process) {
	if !p.up {
		f.start(p)
	}
}

func (f *faults) stopped(p *process) {
	if !p.up || p.stopped {
		return
	}
	p.stop()
	f.later(f.between(100*time.Millisecond, 30*time.Second), p.resume)
}

func (f *faults) cutOff(p *process) {
	if f.bus.away[p] {
		return
	}
	f.bus.away[p] = true
	f.later(f.between(100*time.Millisecond, 15*time.Second), func() { f.back(p) })
}

func (f *faults) back(p *process) {
	if f.bus.away[p] {
		delete(f.bus.away, p)
		life := p.life
		p.happens(life, func() { f.reconnected(p) })
	}
}

func (f *faults) stall(p *process) {
	f.bus.stalled[p] = f.now.Add(f.between(100*time.Millisecond, 9*time.Second))
}

func (f *faults) restartNodes() {
	for _, n := range f.nodes {
		if n.up {
			n.kill()
		}
		f.later(f.between(0, 500*time.Millisecond), func() { f.revive(n.process) })
	}
}

func (f *faults) killAtOperation() {
	n := pick(f.world, f.nodes)
	n.killAt = n.faulty.Operations() + 1 + f.random.IntN(30)
}

func (f *faults) mapsFail() {
	n := pick(f.world, f.nodes)
	n.faulty.Probability = 0.02 + f.random.Float64()*0.5
	f.later(f.between(100*time.Millisecond, 6*time.Second), func() { n.faulty.Probability = 0 })
}

// editMap deletes or breaks one entry of a node's maps by hand.
func (f *faults) editMap() {
	n := pick(f.world, f.nodes)
	if n.witness != nil {
		return // which would see what nobody promised
	}
	var found []programmer.Write
	for m := range abi.MapCount {
		_ = programmer.Dump(n.memory, m, func(key, value []byte) error { // memory can be read
			found = append(found, programmer.Write{Map: m, Key: slices.Clone(key), Value: slices.Clone(value)})
			return nil
		})
	}
	if len(found) == 0 {
		return
	}
	w := pick(f.world, found)
	if f.chance(0.5) {
		w.Value = nil
	} else {
		w.Value[f.random.IntN(len(w.Value))] ^= 1 << f.random.IntN(8)
	}
	n.note("map edited", w.Map.String(), w.Value == nil)
	_ = n.memory.Write([]programmer.Write{w}) // it is of the map's layout
}

// emptyMap takes all maps away, as a reboot does.
func (f *faults) emptyMap() {
	n := pick(f.world, f.nodes)
	if n.witness != nil {
		return
	}
	if n.up {
		n.kill()
	}
	n.memory = programmer.NewMemory([abi.MapCount]uint32{})
	n.faulty.Maps = n.memory
	f.checks.forget(n)
	f.later(f.between(0, 2*time.Second), func() { f.revive(n.process) })
}

// mapFull starts a node anew with maps that have room for little more than what they hold.
func (f *faults) mapFull() {
	n := pick(f.world, f.nodes)
	if n.witness != nil || !n.up {
		return // which would see that pods are closed
	}
	for m := range abi.MapCount {
		held := 0
		_ = programmer.Dump(n.memory, m, func([]byte, []byte) error { held++; return nil }) // memory can be read
		if m != abi.Selves && f.chance(0.3) {
			n.capacities[m] = max(1, held+f.random.IntN(4))
		}
	}
	n.kill()
	f.revive(n.process)
	f.later(f.between(time.Second, 15*time.Second), func() { f.widen(n) })
}

// widen gives a node's maps their room back.
func (f *faults) widen(n *node) {
	if n.capacities == (plan.Capacities{}) {
		return
	}
	n.capacities = plan.Capacities{}
	if n.up {
		n.kill()
	}
	f.revive(n.process)
}

func (f *faults) restartBus() {
	for _, p := range f.processes() {
		f.bus.away[p] = true
		f.later(f.between(100*time.Millisecond, 3*time.Second), func() { f.back(p) })
	}
}

func (f *faults) lose(s *stream) { s.remove() }

func (f *faults) restore(s *stream) {
	s.save()
	f.later(f.between(time.Second, 15*time.Second), s.restore)
}

func (f *faults) apiAway() {
	f.api.down = true
	f.api.expire()
	f.later(f.between(100*time.Millisecond, 8*time.Second), func() { f.api.down = false })
}

func (f *faults) clockJumps() {
	p := pick(f.world, f.processes())
	p.skew = f.between(-skewMost, skewMost)
}

// heal ends all faults. What lists said that was wrong is listed anew.
func (f *faults) heal() {
	f.over = true
	f.trace.add(f.now, "faults", "all is healed")
	f.bus.weather = weather{}
	clear(f.bus.stalled)
	f.api.down, f.api.emptyLists, f.api.staleLists = false, 0, 0
	for _, n := range f.nodes {
		n.faulty.Probability, n.killAt = 0, 0
		f.widen(n)
	}
	for _, p := range f.processes() {
		f.revive(p)
		p.resume()
		f.back(p)
	}
	f.api.expire()
	f.resume()
}
