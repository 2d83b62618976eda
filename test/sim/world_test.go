// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"
)

// begin is when every history begins.
var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a clock, what is to happen, and chance. Everything in it runs in one goroutine.
type world struct {
	random *rand.Rand
	now    time.Time
	queue  queue
	order  uint64
	trace  trace
	// injected counts faults by kind, problems are what the checkers found, in order.
	injected map[string]int
	problems []string
}

func newWorld(seed uint64) *world {
	return &world{random: rand.New(rand.NewPCG(seed, 0x5eed)), now: begin, injected: map[string]int{}, trace: newTrace()}
}

// event is something that happens at a time; among those of one time the one that was planned first is first.
type event struct {
	at    time.Time
	order uint64
	run   func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].order < q[j].order
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// after plans what is to happen in d.
func (w *world) after(d time.Duration, run func()) { w.at(w.now.Add(max(d, 0)), run) }

func (w *world) at(t time.Time, run func()) {
	if t.Before(w.now) {
		t = w.now
	}
	w.order++
	heap.Push(&w.queue, event{t, w.order, run})
}

// runUntil lets everything happen up to a time, or until stop says so.
func (w *world) runUntil(end time.Time, stop func() bool) {
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.run()
		if stop() {
			return
		}
	}
	w.now = end
}

// chance is true with a probability from 0 to 1.
func (w *world) chance(p float64) bool { return p > 0 && w.random.Float64() < p }

// between returns a duration from low to high.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.random.Int64N(int64(high-low)+1))
}

func pick[T any](w *world, from []T) T { return from[w.random.IntN(len(from))] }

// inject counts a fault and traces it.
func (w *world) inject(kind, whom string) {
	w.injected[kind]++
	w.trace.add(w.now, whom, "fault: "+kind)
}

// problem notes what a checker found.
func (w *world) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.problems = append(w.problems, fmt.Sprintf("%s %s", clock(w.now), text))
	w.trace.add(w.now, "checker", "PROBLEM: "+text)
}

// clock writes a time as that since the beginning.
func clock(t time.Time) string { return fmt.Sprintf("%9.4fs", t.Sub(begin).Seconds()) }

// process is a program on a machine: it can be killed at any moment, started again, and stopped for a while, as by
// SIGSTOP. Its clock may be wrong.
type process struct {
	*world
	name    string
	life    int // counts its starts: what was planned in an earlier one doesn't happen
	up      bool
	stopped bool
	held    []func() // what happened to it while it was stopped
	skew    time.Duration
}

// clock returns the time as the process has it.
func (p *process) clock() time.Time { return p.now.Add(p.skew) }

// after plans what the process does in d, unless it is killed before.
func (p *process) after(d time.Duration, run func()) {
	life := p.life
	p.world.after(d, func() { p.happens(life, run) })
}

// happens lets something happen to the process in one of its lives: now, or when it goes on.
func (p *process) happens(life int, run func()) {
	switch {
	case !p.up || p.life != life:
	case p.stopped:
		p.held = append(p.held, func() { p.happens(life, run) })
	default:
		run()
	}
}

func (p *process) start() {
	p.life++
	p.up, p.stopped, p.held = true, false, nil
	p.note("starts")
}

func (p *process) kill() {
	p.note("is killed")
	p.up, p.stopped, p.held = false, false, nil
}

func (p *process) stop() {
	p.note("is stopped")
	p.stopped = true
}

// resume goes on with all that happened meanwhile.
func (p *process) resume() {
	if !p.up || !p.stopped {
		return
	}
	p.note("goes on")
	p.stopped = false
	held := p.held
	p.held = nil
	for _, run := range held {
		run()
	}
}

func (p *process) note(what string, args ...any) { p.trace.add(p.now, p.name, what, args...) }
