// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"os"
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
	sleeper, err := os.FindProcess(e.State().Services[process].PID)
	check(e.t, err)
	defer testkit.Freeze(e.t, sleeper)()
	meanwhile()
}

// Fault 2: the leading compiler stops for 30 s, another takes over, and it goes on as if nothing had been: it changes
// nothing, idle or while things change.
// Promise P3: a compiler that stops and goes on changes no forwarding.
func TestTheLeadingCompilerSleeps(t *testing.T) { sleepingLeader(t, "compiler") }

// Fault 2: the same with the leading watcher.
// Promise P3: a watcher that stops and goes on changes no forwarding.
func TestTheLeadingWatcherSleeps(t *testing.T) {
	onlyLong(t)
	sleepingLeader(t, "watcher")
}

func sleepingLeader(t *testing.T, service string) {
	t.Helper()
	e := begin(t, "leading "+service+" asleep")
	sleeps := func() {
		sleeper := e.leader(t, service)
		e.sleeps(sleeper, func() {
			e.takesOver(service, e.struck)
			e.lasts(asleep() - time.Since(e.struck))
		})
		e.lasts(2 * time.Second) // in which it may try what it likes
		if now := e.leader(t, service); now == sleeper {
			t.Errorf("%s slept, was deposed, and leads again", now)
		}
	}
	sleeps()
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(sleeps)
	e.converges(soon)
}

// Fault 8: a programmer stops: status names it, while nothing changes and while things do, when the other nodes have each
// change.
// Promise P5: a stale node is named within 5 s.
func TestANodeSleeps(t *testing.T) {
	e := begin(t, "node asleep")
	e.sleeps("programmer-node-2", func() { e.lags("node-2", "node-2") })
	e.converges(soon)
	e.whileChanging(func() {
		e.sleeps("programmer-node-2", func() { e.lasts(asleep()) })
	})
	e.converges(soon)
}

// lags waits until status says that a node isn't where it should be, and that all others are: in `make chaos` while
// nothing changes, and after a change. Nodes that are asleep can't be asked what they wrote.
func (e *experiment) lags(laggard string, asleep ...string) {
	e.t.Helper()
	if *long {
		e.named("status", silentWithin, func() bool { return e.convergedBut(laggard) })
		e.wroteNothing(asleep...)
	}
	check(e.t, e.changes.policyChanges(e.t.Context()))
	e.named("status", namedWithin, func() bool { return e.convergedBut(laggard) })
}

// convergedBut says whether status has all nodes but one where they should be.
func (e *experiment) convergedBut(laggard string) bool {
	s := e.status(e.t.Context())
	for _, n := range s.Nodes {
		if n.Converged != (n.Node != laggard) {
			return false
		}
	}
	return len(s.Nodes) == nodes
}
