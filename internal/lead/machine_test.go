// SPDX-License-Identifier: Apache-2.0

package lead

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is some replicas, what is under way between them, and the stream whose epoch they take.
type world struct {
	t        *testing.T
	now      time.Time
	names    []string
	machines map[string]*Machine
	paused   map[string]bool
	deaf     map[string]bool // hears nothing, not even itself
	away     bool            // the stream takes no epoch
	delay    func() time.Duration
	lost     func() bool

	mail  []mail
	epoch uint64
	owner string
	led   []string // who took each epoch
}

type mail struct {
	to    string
	at    time.Time
	pulse *schemas.Pulse
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{
		t: t, now: start, names: names, machines: map[string]*Machine{}, paused: map[string]bool{}, deaf: map[string]bool{},
		delay: func() time.Duration { return 2 * time.Millisecond }, lost: func() bool { return false },
	}
	for _, name := range names {
		w.begin(name)
		w.machines[name].Set(start, Shape{Able: true})
	}
	return w
}

func (w *world) begin(name string) {
	w.machines[name] = New(Options{Service: "compiler", Name: name}, w.now)
}

// step is one step of time. All that is not paused ticks, when it wants to.
const step = 10 * time.Millisecond

func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(step) {
		w.deliver()
		for _, name := range w.names {
			m := w.machines[name]
			if m == nil || w.paused[name] || m.Next().After(w.now) {
				continue
			}
			for ticks := 0; !m.Next().After(w.now); ticks++ {
				if ticks == 3 {
					w.t.Fatalf("%s wants to tick for ever: it is %s", name, m.Phase())
				}
				w.do(name, m.Tick(w.now))
			}
		}
	}
}

func (w *world) deliver() {
	var later []mail
	for _, e := range w.mail {
		switch m := w.machines[e.to]; {
		case m == nil || w.deaf[e.to]:
		case e.at.After(w.now) || w.paused[e.to]:
			later = append(later, e)
		default:
			w.do(e.to, m.Heard(w.now, e.pulse))
		}
	}
	w.mail = later
}

func (w *world) do(name string, out Output) {
	m := w.machines[name]
	if out.Pulse != nil {
		for _, to := range w.names {
			if !w.lost() {
				w.mail = append(w.mail, mail{to, w.now.Add(w.delay()), proto.CloneOf(out.Pulse)})
			}
		}
	}
	switch {
	case out.Do == Take && w.away:
		m.Refused(w.now)
	case out.Do == Take:
		w.epoch, w.owner = max(w.epoch, out.Above)+1, name
		w.led = append(w.led, name)
		m.Took(w.now, w.now, w.epoch)
	case out.Do == Confirm && w.owner == name && m.Epoch() == w.epoch:
		m.Confirmed(w.now, w.now)
	case out.Do == Confirm:
		m.Deposed(w.now)
	}
}

// leads returns who leads for all it knows; empty if nobody or more than one does.
func (w *world) leads() (who string) {
	for _, name := range w.names {
		if m := w.machines[name]; m != nil && !w.paused[name] && m.Sure(w.now) {
			if who != "" {
				return ""
			}
			who = name
		}
	}
	return who
}

func (w *world) want(leader string, epochs int) {
	w.t.Helper()
	if w.leads() != leader || len(w.led) != epochs {
		w.t.Fatalf("%q leads after epochs of %q; want %q after %d epochs", w.leads(), w.led, leader, epochs)
	}
}

// until runs until somebody leads, and returns how long that took.
func (w *world) until(leader string, most time.Duration) time.Duration {
	w.t.Helper()
	begun := w.now
	for w.leads() != leader {
		if w.now.Sub(begun) > most {
			w.t.Fatalf("%q doesn't lead after %s, but %q, after epochs of %q", leader, most, w.leads(), w.led)
		}
		w.run(step)
	}
	return w.now.Sub(begun)
}

func TestTheFirstByNameLeadsAndStays(t *testing.T) {
	w := newWorld(t, "c", "a", "b")
	w.run(time.Minute)
	w.want("a", 1)
}

func TestWhoIsNotAbleLetsOthers(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.machines["a"].Set(w.now, Shape{})
	w.run(10 * time.Second)
	w.want("b", 1)
	w.machines["a"].Set(w.now, Shape{Able: true})
	w.run(time.Minute)
	w.want("b", 1)
}

func TestALeaderThatIsNoLongerAbleYields(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.machines["a"].Set(w.now, Shape{})
	if took := w.until("b", 3*time.Second); took < time.Second {
		t.Errorf("it yielded after %s: a moment's weakness is no reason", took)
	}
	w.run(time.Minute)
	w.want("b", 2)
}

func TestALeaderThatIsNotAbleStaysWhileNobodyIs(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.machines["a"].Set(w.now, Shape{})
	w.machines["b"].Set(w.now, Shape{})
	w.run(time.Minute)
	w.want("a", 1)
}

// Fault 2: the leader is killed.
func TestAStandbyTakesOverWithinTwoSeconds(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	w.until("a", 2*time.Second)
	w.run(10 * time.Second)
	w.machines["a"] = nil
	if took := w.until("b", 2*time.Second); took > 1500*time.Millisecond {
		t.Errorf("it took %s", took)
	}
	w.run(time.Minute)
	w.want("b", 2)
}

func TestAResignationIsTakenUpAtOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.run(10 * time.Second)
	w.do("a", w.machines["a"].Resign(w.now))
	if took := w.until("b", time.Second); took > 100*time.Millisecond {
		t.Errorf("it took %s", took)
	}
	w.run(time.Minute)
	w.want("b", 2)
}

func TestOneAloneThatFailsTriesAgainAfterARest(t *testing.T) {
	w := newWorld(t, "a")
	w.until("a", 2*time.Second)
	w.do("a", w.machines["a"].Resign(w.now))
	if took := w.until("a", 3*time.Second); took < time.Second {
		t.Errorf("it led again after %s: a term that fails at once would spin", took)
	}
}

// Fault 2: the leader is stopped for 30 s and goes on. From its first step it knows that it may not lead.
func TestAPausedLeaderDoubtsBeforeItSaysAnything(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.paused["a"] = true
	w.until("b", 2*time.Second)
	w.run(30 * time.Second)
	w.paused["a"] = false
	if w.machines["a"].Sure(w.now) {
		t.Error("after 30 s of silence it is still sure")
	}
	w.run(time.Minute)
	w.want("b", 2)
}

func TestALeaderThatWasPausedAloneGoesOnInItsEpoch(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.run(5 * time.Second)
	w.paused["a"], w.paused["b"] = true, true
	w.run(30 * time.Second)
	w.paused["a"] = false
	w.run(100 * time.Millisecond)
	w.paused["b"] = false
	w.run(10 * time.Second)
	w.want("a", 1)
}

// A replica that hears nothing hears no leader either: it must not take over because of that.
func TestOneThatIsCutOffDoesNotTakeOver(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.run(time.Second)
	w.deaf["b"] = true
	w.run(time.Minute)
	w.want("a", 1)
	w.deaf["b"] = false
	w.run(time.Minute)
	w.want("a", 1)
}

func TestAStreamThatIsAwayIsAskedUntilItIsBack(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.away = true
	w.run(time.Minute)
	w.want("", 0)
	w.away = false
	w.run(3 * time.Second)
	if w.leads() == "" {
		t.Fatal("nobody leads")
	}
	w.run(time.Minute)
	w.want(w.leads(), len(w.led))
}

func TestEpochsGoOnAboveWhatAReplicaRemembers(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.until("a", 2*time.Second)
	w.epoch = 40
	w.machines["a"] = nil
	w.until("b", 2*time.Second)
	w.epoch, w.owner = 0, "" // the stream was lost
	w.begin("a")
	w.do("b", w.machines["b"].Resign(w.now))
	w.until("b", 5*time.Second)
	if w.epoch != 42 {
		t.Errorf("epoch %d, want 42: one above what was", w.epoch)
	}
}

// Two that were given one name by mistake don't take each other's pulses for their own.
func TestAnothersPulseUnderOurName(t *testing.T) {
	m := New(Options{Service: "compiler", Name: "a"}, start)
	m.Set(start, Shape{Able: true})
	foreign := &schemas.Pulse{Service: "compiler", Name: "a", Epoch: 7, Able: true}
	now := start
	for range 1000 {
		now = now.Add(step)
		m.Heard(now, foreign)
		if out := m.Tick(now); out.Do != Nothing {
			t.Fatal("it takes over from one that leads under its name")
		}
	}
}

func TestPulsesOfAnotherServiceAreNothing(t *testing.T) {
	m := New(Options{Service: "compiler", Name: "a"}, start)
	m.Heard(start, &schemas.Pulse{Service: "watcher", Name: "b", Epoch: 7})
	if peers := m.Peers(start); len(peers) != 1 {
		t.Errorf("%d replicas, want this one alone", len(peers))
	}
}

func TestAPulseThatLiesAboutItsEpochIsNotBelieved(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.run(3 * time.Second)
	leader := w.leads()
	for _, m := range w.machines {
		m.Heard(w.now, &schemas.Pulse{Service: "compiler", Name: "z", Epoch: 1<<64 - 1, Able: true})
	}
	w.run(3 * time.Second)
	if got := w.leads(); got != leader || w.epoch > 1 {
		t.Errorf("%q leads in epoch %d after the lie, %q led before", got, w.epoch, leader)
	}
}

func TestReplicasAreBounded(t *testing.T) {
	m := New(Options{Service: "compiler", Name: "a"}, start)
	for i := range 1000 {
		m.Heard(start, &schemas.Pulse{Service: "compiler", Name: fmt.Sprint("z", i)})
	}
	if n := len(m.peers); n > mostPeers {
		t.Errorf("%d replicas are remembered", n)
	}
}
