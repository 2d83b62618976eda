// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"syscall"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// asleep is how long a process is stopped.
func asleep() time.Duration { return pick(5*time.Second, 30*time.Second) }

// sleeps stops a process while something else goes on.
func (e *experiment) sleeps(process string, meanwhile func()) {
	e.t.Helper()
	e.strikes()
	check(e.t, e.Signal(process, syscall.SIGSTOP))
	defer func() { check(e.t, e.Signal(process, syscall.SIGCONT)) }()
	meanwhile()
}

// Fault 2: the leading compiler stops for 30 s, another takes over, and it goes on as if nothing had been: it changes
// nothing, idle or while things change.
func TestTheLeadingCompilerSleeps(t *testing.T) {
	e := begin(t, "leading compiler asleep")
	first := e.leader(t, "compiler")
	e.sleeps(first, func() {
		e.takesOver(e.struck)
		e.lasts(asleep() - time.Since(e.struck))
	})
	second := e.leader(t, "compiler")
	if second == first {
		t.Fatalf("%s leads and is asleep", first)
	}
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		e.sleeps(second, func() {
			e.takesOver(e.struck)
			e.lasts(asleep() - time.Since(e.struck))
		})
		e.lasts(2 * time.Second)
	})
	e.converges(soon)
	if now := e.leader(t, "compiler"); now == second {
		t.Errorf("%s slept and leads again", now)
	}
}

// Fault 2: the leading watcher stops for 30 s and goes on as if nothing had been.
func TestTheLeadingWatcherSleeps(t *testing.T) {
	onlyLong(t)
	e := begin(t, "leading watcher asleep")
	e.sleeps(e.leader(t, "watcher"), func() { e.lasts(asleep()) })
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		e.sleeps(e.leader(t, "watcher"), func() { e.lasts(asleep()) })
	})
	e.converges(soon)
}

// Fault 8: a programmer stops while things change: the other nodes have each change, and status names the one that hasn't.
// Promise P5: a stale node is named within 5 s.
func TestANodeSleeps(t *testing.T) {
	e := begin(t, "node asleep")
	e.whileChanging(func() {
		e.sleeps("programmer-node-2", func() {
			e.named("status", func() bool { return e.status(t.Context()).behind("node-2") != "" })
			e.lasts(asleep() - time.Since(e.struck))
		})
	})
	e.converges(soon)
	e.sleeps("programmer-node-2", func() {
		check(t, e.changes.one(t.Context()))
		e.othersFollow("node-2")
	})
	e.converges(soon)
}

// othersFollow waits until all nodes but one hold the newest revision.
func (e *experiment) othersFollow(laggard string) {
	e.t.Helper()
	var s status
	testkit.Eventually(e.t, soon, func() bool {
		s = e.status(e.t.Context())
		for _, n := range s.Nodes {
			if n.Converged != (n.Node != laggard) {
				return false
			}
		}
		return len(s.Nodes) == nodes
	})
}
