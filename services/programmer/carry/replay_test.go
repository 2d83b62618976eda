// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

// Promise P7: whatever was once sealed and is said again, rows never go back to what they were.
func TestWhatIsSaidAgainBringsNothingBack(t *testing.T) {
	n, c := settled(t, memory())
	old := c.walk(model.Walk{Layer: model.ClusterLayer, All: true})
	beat := c.heartbeat()
	beat.Sent, beat.Positions = n.now, map[model.Layer]model.Position{model.ClusterLayer: c.at[model.ClusterLayer]}
	deltas := c.log
	n.put(beat)
	n.put(c.commit(model.ClusterLayer, shop(3, 5, 1), n.now))
	n.converged()
	writes, at := n.maps.Writes(), n.driver.Core.Positions()[model.ClusterLayer]
	n.compiler.refuse = "the bus lets nobody answer"
	for range 40 { // longer than the highest epoch is remembered
		n.now = n.now.Add(200 * time.Millisecond)
		n.put(old)
		n.put(beat)
		for _, d := range deltas {
			n.put(core.Delta{Delta: d})
		}
	}
	if n.maps.Writes() != writes || n.driver.Core.Positions()[model.ClusterLayer] != at {
		t.Errorf("%d writes lead from %v to %v, want none", n.maps.Writes()-writes, at, n.driver.Core.Positions()[model.ClusterLayer])
	}
	if replayed := n.driver.Core.Stats().Replayed; replayed != 40 {
		t.Errorf("%d of 40 heartbeats are known to be old", replayed)
	}
	n.compiler.refuse = ""
	n.put(c.commit(model.ClusterLayer, shop(4, 5, 1), n.now))
	n.pass(15 * time.Second)
	n.converged()
}

// Old heartbeats of two epochs by turns don't make place for each other: none counts, so that the node says that it hears no
// compiler. One that leads below the highest epoch and isn't dated before what was heard of that one counts.
//
// Fault 13: the bus says old heartbeats of several epochs again.
func TestOldHeartbeatsOfSeveralEpochsKeepNoNodeQuiet(t *testing.T) {
	n, c := settled(t, memory())
	var old []core.Heartbeat
	for range 3 {
		beat := c.heartbeat()
		beat.Sent = n.now
		n.put(beat)
		old = append(old, beat)
		n.now, c.epoch = n.now.Add(time.Second), c.epoch+1
	}
	n.compiler.refuse = "the bus lets nobody answer"
	before := n.driver.Core.Stats().Replayed
	for i := range 200 {
		n.now = n.now.Add(core.TickInterval)
		n.put(old[i%len(old)])
	}
	if replayed := n.driver.Core.Stats().Replayed - before; replayed != 200 {
		t.Errorf("%d of 200 heartbeats are known to be old", replayed)
	}
	if faults := n.driver.Core.Faults(); len(faults) != 1 || faults[0].Kind != "silence" {
		t.Errorf("faults %v, want silence", faults)
	}
	beat := old[0]
	beat.Sent = n.now
	n.put(beat)
	if faults := n.driver.Core.Faults(); len(faults) != 0 {
		t.Errorf("faults %v after a new heartbeat of a lower epoch, want none", faults)
	}
}

// Also a node that was told an older position by a sealed heartbeat, of a leader whose log was cut, keeps its rows until
// that has gone above them.
func TestACompilerThatIsBelowIsToldSo(t *testing.T) {
	n, c := settled(t, memory())
	before := map[model.Layer]model.Position{model.ClusterLayer: c.at[model.ClusterLayer]}
	n.put(c.commit(model.ClusterLayer, shop(3, 5, 1), n.now))
	writes := n.maps.Writes()
	n.compiler.refuse = "it goes above"
	for i := range 30 {
		n.now = n.now.Add(core.TickInterval)
		n.put(core.Heartbeat{Epoch: 1, Revision: 2, Positions: before, Sent: n.now.Add(time.Duration(i))})
		n.put(core.Tick{})
	}
	if last := n.syncs[len(n.syncs)-1]; n.maps.Writes() != writes || last.Positions[model.ClusterLayer].Revision != 3 {
		t.Errorf("%d writes; the compiler was told %v, want revision 3", n.maps.Writes()-writes, last.Positions)
	}
	if err := n.driver.Core.Ready(); err != nil {
		t.Errorf("the node isn't ready any more: %v", err)
	}
}

func TestHeartbeatsOfAnotherTimeAreNamed(t *testing.T) {
	n, c := settled(t, memory())
	for _, late := range []time.Duration{time.Minute, -time.Minute, time.Second} {
		beat := c.heartbeat()
		c.epoch++
		beat.Epoch, beat.Sent = c.epoch, n.now.Add(-late)
		n.put(beat)
		faults := n.driver.Core.Faults()
		if wrong := late.Abs() > 30*time.Second; wrong != (len(faults) == 1 && faults[0].Kind == "clock") {
			t.Errorf("a heartbeat of %s ago: faults %v", late, faults)
		}
		if err := n.driver.Core.Ready(); err != nil {
			t.Errorf("a heartbeat of %s ago: %v", late, err)
		}
	}
}

func TestARecordedPositionFromTooFarAheadIsNotBelieved(t *testing.T) {
	n, c := settled(t, memory())
	if err := n.maps.SetPosition(model.LayerCluster, model.Position{Epoch: 1 << 50, Revision: 1 << 50, Digest: c.at[model.ClusterLayer].Digest}); err != nil {
		t.Fatal(err)
	}
	n = start(t, c, n.maps)
	n.pass(5 * time.Second)
	n.converged()
}

func TestUnsealedMessagesAreCountedAndNamedOnceInAWhile(t *testing.T) {
	n, _ := settled(t, memory())
	for range 100 {
		n.put(core.Foreign{Subject: "apply.cluster", Err: errors.New("it has no seal"), Unsealed: true})
	}
	named := 0
	for _, e := range n.events {
		if e.Kind == "unsealed_message" && e.Warning {
			named++
		}
	}
	if s := n.driver.Core.Stats(); s.Unsealed != 100 || s.Foreign != 0 || named != 1 {
		t.Errorf("%d messages counted, %d others, named %d times; want 100, 0 and once", s.Unsealed, s.Foreign, named)
	}
}

// A bus under load delivers heartbeats seconds late, and what a node asked for comes another way. What was said before the
// compiler came to where the node is tells nothing of a log that was cut.
func TestAHeartbeatThatComesLateIsNoCutLog(t *testing.T) {
	n, c := settled(t, memory())
	before := map[model.Layer]model.Position{model.ClusterLayer: c.at[model.ClusterLayer]}
	n.now = n.now.Add(10 * time.Second)
	n.put(c.commit(model.ClusterLayer, shop(3, 5, 1), n.now))
	asked, at := len(n.syncs), n.now
	for i := range 30 {
		n.now = n.now.Add(core.TickInterval)
		n.put(core.Heartbeat{Epoch: 1, Revision: 2, Positions: before, Sent: at.Add(time.Duration(i-40) * 100 * time.Millisecond)})
		n.put(core.Tick{})
	}
	for _, e := range n.events {
		if e.Kind == "digest" {
			t.Errorf("it says: %s", e.Text)
		}
	}
	if len(n.syncs) != asked {
		t.Errorf("asked %d times", len(n.syncs)-asked)
	}
}

// Promise P7: a node that hears no compiler, or only what isn't sealed or was said before, says so, why, and when it is over.
func TestSilenceIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		say  func(n *node, beat core.Heartbeat)
		want string
	}{
		"nothing": {func(*node, core.Heartbeat) {}, "no compiler leads"},
		"unsealed": {func(n *node, _ core.Heartbeat) {
			n.put(core.Foreign{Subject: "heartbeat", Err: errors.New("no seal"), Unsealed: true})
		}, "--trusted-keys"},
		"replayed": {func(n *node, beat core.Heartbeat) { n.put(beat) }, "said before"},
	} {
		t.Run(name, func(t *testing.T) {
			n, c := settled(t, memory())
			beat := c.heartbeat()
			beat.Sent = n.now.Add(time.Second)
			n.put(beat)
			for range 16 {
				n.now = n.now.Add(time.Second)
				test.say(n, beat)
				n.put(core.Tick{})
			}
			faults := n.driver.Core.Faults()
			if len(faults) != 1 || faults[0].Kind != "silence" || !strings.Contains(faults[0].Text, test.want) {
				t.Fatalf("faults %v, want silence with %q", faults, test.want)
			}
			if err := n.driver.Core.Ready(); err != nil {
				t.Errorf("the node goes on, but isn't ready: %v", err)
			}
			beat.Sent = n.now
			n.put(beat)
			if faults := n.driver.Core.Faults(); len(faults) != 0 {
				t.Errorf("after a heartbeat still %v", faults)
			}
		})
	}
}

// Fault 5: a server of the bus that is cut off from the others goes on to serve its nodes, with nothing new: they try
// another, more rarely each time, since without a compiler no server helps.
func TestASilentNodeTriesOtherServersOfTheBus(t *testing.T) {
	n, c := settled(t, memory())
	hush := func(d time.Duration) (moves int) {
		before := n.moves
		for end := n.now.Add(d); n.now.Before(end); {
			n.now = n.now.Add(time.Second)
			n.put(core.Tick{})
		}
		return n.moves - before
	}
	if moves := hush(4 * time.Second); moves != 0 {
		t.Errorf("%d moves though a compiler may take that long to lead", moves)
	}
	if moves := hush(7 * time.Second); moves != 1 {
		t.Errorf("%d moves in the first ten seconds, want 1", moves)
	}
	if moves := hush(39 * time.Second); moves < 1 || moves > 2 {
		t.Errorf("%d further moves in the first minute, want 1 or 2", moves)
	}
	if moves := hush(time.Hour); moves < 8 || moves > 30 {
		t.Errorf("%d moves in an hour, want one in some minutes", moves)
	}
	beat := c.heartbeat()
	beat.Sent = n.now
	n.put(beat)
	if moves := hush(4 * time.Second); moves != 0 {
		t.Errorf("%d moves after a heartbeat has counted", moves)
	}
}

// Fault 13: a node that lies about how far it is leads the leader's numbers far up at most, not the other nodes astray:
// what is said far ahead isn't believed at once, but it is as an answer.
func TestADeltaThatLeadsFarIsTakenAsAnAnswer(t *testing.T) {
	n, c := settled(t, memory())
	c.revision += 1 << 33
	d := c.commit(model.ClusterLayer, shop(2, 4, 1), n.now)
	n.put(d)
	if got := n.driver.Core.Positions()[model.ClusterLayer].Revision; got == d.To {
		t.Fatalf("revision %d was believed at once", got)
	}
	n.pass(3 * time.Second)
	n.converged()
	if got := n.driver.Core.Positions()[model.ClusterLayer].Revision; got != d.To {
		t.Errorf("at revision %d, want %d", got, d.To)
	}
}
