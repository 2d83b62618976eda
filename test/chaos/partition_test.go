// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/streams"
)

// cutOff is how long a partition lasts. A connection that is dead is noticed after ten seconds.
func cutOff() time.Duration { return pick(8*time.Second, 30*time.Second) }

// others are all servers of the bus but one.
func others(server string) []string {
	return slices.DeleteFunc(busServers(), func(s string) bool { return s == server })
}

// cut loses everything between some hosts and others while something goes on.
func (e *experiment) cut(some, others []string, meanwhile func()) {
	e.t.Helper()
	e.strikes()
	check(e.t, e.Cut(some, others))
	defer func() { check(e.t, e.Mend()) }()
	meanwhile()
}

// Fault 2: the leading compiler is cut off from the bus: another takes over, and the first changes nothing when it is back.
// Promise P3: a compiler that is out of reach changes no forwarding.
func TestTheLeadingCompilerIsCutOff(t *testing.T) {
	onlyLong(t)
	e := begin(t, "leading compiler cut off")
	e.cut([]string{e.leader(t, "compiler")}, busServers(), func() {
		e.takesOver("compiler", e.struck)
		e.lasts(cutOff() - time.Since(e.struck))
	})
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		e.cut([]string{e.leader(t, "compiler")}, busServers(), func() {
			e.takesOver("compiler", e.struck)
			e.lasts(cutOff() - time.Since(e.struck))
		})
	})
	e.converges(soon)
}

// Fault 8: a node is cut off from the bus, though not from other nodes: its connections go on, the others have each change,
// and status names it.
// Promise P5: a node that is out of reach is named within 5 s.
func TestANodeIsCutOff(t *testing.T) {
	onlyLong(t)
	e := begin(t, "node cut off from the bus")
	e.cut([]string{"node/node-3"}, busServers(), func() { e.lags("node-3") })
	e.converges(soon)
	e.whileChanging(func() {
		e.cut([]string{"node/node-3"}, busServers(), func() { e.lasts(cutOff()) })
	})
	e.converges(soon)
}

// Fault 5: a server of the bus, one that leads a stream, is cut off from everything: those who were connected to it find
// another.
// Promise P1: nodes have each change, though a server of the bus is out of reach.
func TestAServerOfTheBusIsCutOff(t *testing.T) {
	onlyLong(t)
	e := begin(t, "server of the bus cut off from all")
	for _, stream := range []string{"DELTA", "STATE"} {
		server := e.streamLeader(stream)
		e.whileChanging(func() {
			e.cut([]string{server}, e.allBut(server), func() {
				e.named("event", silentWithin, func() bool { return e.witness.said(e.struck, server, streams.CopiesLost) })
				e.lasts(cutOff() - time.Since(e.struck))
			})
		})
		e.converges(soon)
	}
}

// Fault 5: a server of the bus is cut off from the other two, but not from those who are connected to it: they must not
// stay with it.
// Promise P5: nodes that hear nothing any more are named within 5 s, or follow.
func TestAServerOfTheBusIsAlone(t *testing.T) {
	onlyLong(t)
	e := begin(t, "server of the bus cut off from servers")
	server := e.streamLeader("DELTA")
	e.whileChanging(func() {
		e.cut([]string{server}, others(server), func() {
			e.follows()
			t.Logf("every node follows %v after the cut", time.Since(e.struck).Round(time.Millisecond))
			e.lasts(cutOff() - time.Since(e.struck))
		})
	})
	e.converges(soon)
}

// follows waits, while a fault lasts, until every node has a change that was made after it began.
func (e *experiment) follows() {
	e.t.Helper()
	waitFor(e.t, "every node to have a new change", func() bool {
		out, _ := e.deltaplane(e.t.Context(), "wait", "--timeout", "5s", "-o", "json") // it may ask the server that is alone
		var is struct {
			Live        bool
			Nodes, Lost int
		}
		return json.Unmarshal(out, &is) == nil && is.Live && is.Nodes == nodes && is.Lost == 0
	})
}

// Fault 8: a fifth of all frames between a node and the bus are lost.
func TestANodeHasABadCable(t *testing.T) {
	onlyLong(t)
	e := begin(t, "a fifth of a node's frames lost")
	for _, server := range busServers() {
		check(t, e.Lose("node/node-1", server, 0.2))
		check(t, e.Lose(server, "node/node-1", 0.2))
	}
	e.whileChanging(func() { e.lasts(cutOff()) })
	e.converges(soon)
	check(t, e.Mend())
}

// allBut are all hosts but one machine, and where this test stands.
func (e *experiment) allBut(machine string) (all []string) {
	for _, process := range e.Processes() {
		if process != machine && !strings.HasPrefix(process, "programmer-") {
			all = append(all, process)
		}
	}
	for n := range nodes {
		all = append(all, fmt.Sprintf("node/node-%d", n+1))
	}
	return append(all, lab.Bridge)
}
