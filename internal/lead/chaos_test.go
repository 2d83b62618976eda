// SPDX-License-Identifier: Apache-2.0

package lead

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is lost, late, paused or killed: two are never sure of different epochs for longer than silence lasts, each
// epoch has one holder, and once all is well one leads and stays.
//
// Fault 2: the leader is killed, stopped, or two lead.
func TestOneLeadsInTheEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(rt, "replicas")]...)
		w.delay = func() time.Duration {
			return time.Duration(rapid.IntRange(0, 300).Draw(rt, "delay")) * time.Millisecond
		}
		w.lost = func() bool { return rapid.IntRange(0, 9).Draw(rt, "lost") < 3 }
		for range rapid.IntRange(1, 20).Draw(rt, "faults") {
			w.trouble(rt)
			w.run(time.Duration(rapid.IntRange(1, 200).Draw(rt, "for")) * step)
		}
		w.calm()
		w.run(10 * time.Second)
		leader, epochs := w.leads(), len(w.led)
		if leader == "" {
			rt.Fatalf("nobody leads, or more than one, after epochs of %q", w.led)
		}
		w.run(time.Minute)
		if w.leads() != leader || len(w.led) != epochs {
			rt.Fatalf("%q doesn't stay the leader: %q", leader, w.led)
		}
	})
}

func (w *world) trouble(rt *rapid.T) {
	name := rapid.SampledFrom(w.names).Draw(rt, "replica")
	switch rapid.IntRange(0, 5).Draw(rt, "fault") {
	case 0:
		w.paused[name] = !w.paused[name]
	case 1:
		w.deaf[name] = !w.deaf[name]
	case 2:
		w.begin(name)
		w.machines[name].Set(w.now, Shape{Able: true})
	case 3:
		w.away = !w.away
	case 4:
		w.do(name, w.machines[name].Resign(w.now))
	case 5:
		w.machines[name].Set(w.now, Shape{Able: rapid.Bool().Draw(rt, "able")})
	}
}

func (w *world) calm() {
	w.away = false
	w.delay, w.lost = func() time.Duration { return 0 }, func() bool { return false }
	clear(w.paused)
	clear(w.deaf)
	for _, m := range w.machines {
		m.Set(w.now, Shape{Able: true})
	}
}
