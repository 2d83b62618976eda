// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"os"
	"os/exec"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// stopped is how long a compiler is stopped; `-stopped 30s` is the fault table's.
var stopped = flag.Duration("stopped", 4*time.Second, "how long a leading compiler is stopped")

// asCompiler has the test's own binary be a compiler: a process of its own, that can be stopped and killed.
const asCompiler = "DELTAPLANE_TEST_COMPILER"

func spawn(t *testing.T, c *cluster, name string) *os.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "--bus", c.url, "--name", name, "--listen", "")
	cmd.Env = append(os.Environ(), asCompiler+"=1")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
	})
	return cmd.Process
}

// pulses notes what replicas say of themselves, by name.
func (c *cluster) pulses() func(name string) *schemas.Pulse {
	c.t.Helper()
	newest := map[string]*schemas.Pulse{}
	_, err := c.conn.Subscribe(schemas.PulseSubject("compiler"), func(m bus.Message) {
		pulse := &schemas.Pulse{}
		if proto.Unmarshal(m.Data, pulse) == nil {
			c.mu.Lock()
			newest[pulse.GetName()] = pulse
			c.mu.Unlock()
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return func(name string) *schemas.Pulse {
		c.mu.Lock()
		defer c.mu.Unlock()
		return newest[name]
	}
}

// beats counts heartbeats below an epoch that come once one of it was heard.
func (c *cluster) beats() (late func() int) {
	c.t.Helper()
	highest, n := uint64(0), 0
	_, err := c.conn.Subscribe(schemas.SubjectHeartbeat, func(m bus.Message) {
		var beat schemas.Heartbeat
		if proto.Unmarshal(m.Data, &beat) != nil {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if beat.GetEpoch() < highest {
			n++
		}
		highest = max(highest, beat.GetEpoch())
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return func() int { c.mu.Lock(); defer c.mu.Unlock(); return n }
}

// A leader that was stopped, and goes on long after another has taken over, says nothing more to anyone, and stands by.
//
// Fault 2: SIGSTOP 30 s then resume, two leaders, kill -9: nodes get no operations.
// Promise P3: losing a compiler changes no forwarding.
func TestALeaderThatWasStoppedChangesNothing(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	pulse, late := c.pulses(), c.beats()
	leads := func(name string, epoch uint64) func() bool {
		return func() bool { return pulse(name).GetEpoch() >= epoch && pulse(name).GetRevision() > 0 }
	}
	first := spawn(t, c, "a")
	testkit.Eventually(t, patience, leads("a", 1))
	c.waitDeltas(2)
	spawn(t, c, "b")
	testkit.Eventually(t, patience, func() bool {
		return pulse("b").GetAble() && string(pulse("b").GetDigest()) == string(pulse("a").GetDigest())
	})
	epoch, logged, heard := pulse("a").GetEpoch(), c.logged(), len(c.heard())

	begun := time.Now()
	thaw := testkit.Freeze(t, first)
	testkit.Eventually(t, patience, leads("b", epoch+1))
	t.Logf("taken over after %s", time.Since(begun).Round(time.Millisecond))
	if c.logged() != logged || len(c.heard()) != heard {
		t.Errorf("the takeover made %d deltas, of which %d were told to nodes; want none", c.logged()-logged, len(c.heard())-heard)
	}
	c.tell(webFacts(4)[1])
	testkit.Eventually(t, patience, func() bool { return len(c.heard()) == heard+1 })
	testkit.Eventually(t, *stopped+patience, func() bool { return time.Since(begun) > *stopped })
	logged, heard = c.logged(), len(c.heard())
	before := pulse("a").GetSent().AsTime()
	thaw()
	testkit.Eventually(t, patience, func() bool {
		p := pulse("a")
		return p.GetSent().AsTime().After(before) && p.GetEpoch() == 0 && string(p.GetDigest()) == string(pulse("b").GetDigest())
	})
	if late() > 0 || c.logged() != logged || len(c.heard()) != heard {
		t.Errorf("after it went on: %d heartbeats of the old epoch, %d deltas in the log, %d told to nodes; want none",
			late(), c.logged()-logged, len(c.heard())-heard)
	}
}

// Fault 2: kill -9 of the compiler while it commits: each batch is there whole or not at all, and the standby goes on.
func TestAKilledLeaderLeavesWholeRevisions(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	pulse := c.pulses()
	first := spawn(t, c, "a")
	c.waitDeltas(2)
	spawn(t, c, "b")
	testkit.Eventually(t, patience, func() bool { return pulse("b").GetAble() && pulse("b").GetRevision() > 0 })
	for n := range 30 {
		c.tell(webFacts(4 + n)[1])
		if n == 20 {
			if err := first.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	testkit.Eventually(t, patience, func() bool { return len(c.folded().Members) == 33 })
	if epoch := pulse("b").GetEpoch(); epoch < 2 {
		t.Errorf("the standby leads in epoch %d, want 2 or more", epoch)
	}
}

// folded returns the cluster layer as DELTA has it, and wants no gap or torn revision in it.
func (c *cluster) folded() *model.Tables {
	c.t.Helper()
	rows, at := model.NewTables(), model.Position{}
	var parts wire.Assembler
	err := c.conn.Read(c.t.Context(), bus.ReadOptions{
		Stream: schemas.Deltas.Name, Subjects: []string{schemas.DeltaSubject("cluster")},
	}, func(r bus.Record) error {
		part, err := wire.DecodeDelta(r.Data)
		if err != nil {
			return err
		}
		d, whole, err := parts.Add(part)
		if err != nil || !whole {
			return err
		}
		digest := rows.Apply(&d.Change, at.Digest)
		if d.From != at.Revision || digest != d.DigestAfter {
			c.t.Errorf("message %d goes from revision %d, after %d, to digest %s, it says %s", r.Sequence, d.From, at.Revision, digest, d.DigestAfter)
		}
		at = model.Position{Epoch: d.Epoch, Revision: d.To, Digest: digest}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return rows
}
