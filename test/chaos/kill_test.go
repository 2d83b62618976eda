// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"slices"
	"testing"
	"time"
)

// Fault 2: the leading compiler is killed, idle and in the middle of its work; another leads, and no node writes
// anything that nobody has changed.
// Promise P3: losing the compiler changes no forwarding.
func TestTheLeadingCompilerIsKilled(t *testing.T) {
	e := begin(t, "leading compiler killed")
	e.kill(e.leader(t, "compiler"))
	e.takesOver("compiler", e.struck)
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		for range pick(2, 5) {
			now := time.Now()
			e.kill(e.leader(t, "compiler"))
			e.takesOver("compiler", now)
		}
	})
	e.converges(soon)
}

// Fault 2: the leading watcher is killed, idle and while objects change; another leads.
// Promise P3: losing the watcher changes no forwarding.
func TestTheLeadingWatcherIsKilled(t *testing.T) {
	e := begin(t, "leading watcher killed")
	e.kill(e.leader(t, "watcher"))
	e.takesOver("watcher", e.struck)
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		for range pick(1, 5) {
			now := time.Now()
			e.kill(e.leader(t, "watcher"))
			e.takesOver("watcher", now)
		}
	})
	e.converges(soon)
}

// Fault 3: a programmer is killed, idle and in the middle of its writes; what it left is taken up as it is.
// Promise P4: a programmer that is killed loses no packet and no connection.
func TestProgrammersAreKilled(t *testing.T) {
	e := begin(t, "programmers killed")
	for _, process := range e.of("programmer-") {
		e.kill(process)
	}
	e.runs()
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		for range pick(1, 5) {
			for _, process := range e.of("programmer-") {
				e.kill(process)
				e.lasts(changeEvery)
			}
			e.runs()
		}
	})
	e.converges(soon)
}

// Fault 5: servers of the bus are killed one after the other, those that lead a stream first.
// Promise P3: losing a server of the bus changes no forwarding.
func TestServersOfTheBusAreKilled(t *testing.T) {
	onlyLong(t)
	e := begin(t, "servers of the bus killed")
	e.kill(e.streamLeader("DELTA"))
	e.runs()
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		for _, stream := range []string{"STATE", "DELTA", "APPLIED", "DELTA"} {
			e.kill(e.streamLeader(stream))
			e.runs()
			e.ready(busServers()...)
		}
	})
	e.converges(soon)
}

// Fault 4: all processes of all machines are killed at once.
// Promise P3: losing watcher, compiler, bus and programmers together changes no forwarding.
func TestEverythingIsKilledAtOnce(t *testing.T) {
	e := begin(t, "everything killed at once")
	all := e.Processes()
	for _, process := range all {
		e.kill(process)
	}
	e.runs()
	e.converges(anew)
	e.wroteNothing()
	if !*long {
		return
	}
	e.whileChanging(func() {
		random := slices.Clone(all)
		e.changes.random.Shuffle(len(random), func(i, j int) { random[i], random[j] = random[j], random[i] })
		for _, process := range random {
			e.kill(process)
		}
		e.runs()
	})
	e.converges(anew)
}

// runs waits until all processes run that a cluster has.
func (e *experiment) runs() {
	e.t.Helper()
	waitFor(e.t, "all processes to run", func() bool { return len(e.Processes()) == processes })
}
