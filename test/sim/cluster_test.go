// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"io"
	"time"

	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// How a history goes: the cluster settles, people and faults have their way, then all is healed and must converge.
const (
	settling = 4 * time.Second
	troubled = 40 * time.Second
	healed   = 150 * time.Second // at most; what is converged sooner ends sooner
	replicas = 2
)

// cluster is all there is.
type cluster struct {
	*world
	seed      uint64
	options   core.Options
	seals     seals
	bus       *wires
	state     *stream
	delta     *stream
	api       *apiServer
	people    *people
	watchers  []*watcher
	compilers []*compiler
	nodes     []*node
	checks    *checks
	calm      bool          // nothing fails
	converged time.Duration // from the healing to when all nodes held what they should; 0 if they never did
}

// newCluster draws a cluster from a seed. Events are written to verbose, if there is one.
func newCluster(seed uint64, verbose io.Writer) *cluster {
	c := &cluster{world: newWorld(seed), seed: seed}
	c.trace.to = verbose
	c.bus = newWires(c.world)
	c.state = &stream{wires: c.bus, name: "STATE", lastOnly: true}
	c.delta = &stream{wires: c.bus, name: "DELTA"}
	c.api = newAPIServer(c.world)
	if seed%sealedEvery == 0 {
		c.seals = newSeals()
	}
	c.options = core.Options{Quarantine: 20 * time.Second, Signer: c.seals.signer}
	for i := range 3 + c.random.IntN(4) {
		name := fmt.Sprint("node-", i)
		c.nodes = append(c.nodes, newNode(c, name, i == 0 && seed%witnessEvery == 0))
	}
	c.people = &people{world: c.world, api: c.api}
	for _, n := range c.nodes {
		c.people.nodes = append(c.people.nodes, n.name)
	}
	for i := range replicas {
		c.watchers = append(c.watchers, newWatcher(c, fmt.Sprint("watcher-", i)))
		c.compilers = append(c.compilers, newCompiler(c, fmt.Sprint("compiler-", i)))
	}
	for _, p := range c.processes() {
		if c.chance(0.5) {
			p.skew = c.between(-skewMost, skewMost)
		}
	}
	c.checks = newChecks(c)
	return c
}

// witnessEvery is in how many histories one has a node that is watched as packets do: following every packet takes
// longer than all else.
const witnessEvery = 10

// skewMost is how far clocks are off.
const skewMost = 2 * time.Second

func (c *cluster) processes() (all []*process) {
	for _, w := range c.watchers {
		all = append(all, w.process)
	}
	for _, co := range c.compilers {
		all = append(all, co.process)
	}
	for _, n := range c.nodes {
		all = append(all, n.process)
	}
	return all
}

// start starts a process that is down.
func (c *cluster) start(p *process) {
	for _, w := range c.watchers {
		if w.process == p {
			w.run()
		}
	}
	for _, co := range c.compilers {
		if co.process == p {
			co.run()
		}
	}
	for _, n := range c.nodes {
		if n.process == p {
			n.run()
		}
	}
}

// reconnected tells a process that the bus is back.
func (c *cluster) reconnected(p *process) {
	for _, w := range c.watchers {
		if w.process == p {
			w.reconnected()
		}
	}
	for _, co := range c.compilers {
		if co.process == p {
			co.reconnected()
		}
	}
	for _, n := range c.nodes {
		if n.process == p {
			n.reconnected()
		}
	}
}

// live is one history, from the first object to the last check.
func (c *cluster) live() {
	c.people.settle()
	for _, p := range c.processes() {
		c.start(p)
	}
	never := func() bool { return false }
	c.runUntil(begin.Add(settling), never)
	f := newFaults(c)
	if !c.calm {
		f.begin()
	}
	c.busy(begin.Add(settling + troubled))
	c.runUntil(begin.Add(settling+troubled), never)
	f.heal()
	from := c.now
	c.checks.watchConvergence()
	c.runUntil(from.Add(healed), c.checks.settled)
	if c.checks.settled() {
		c.converged = max(c.now.Sub(from), 1)
	}
	c.checks.final()
}

// busy has people change objects until a time.
func (c *cluster) busy(until time.Time) {
	if c.now.After(until) {
		return
	}
	if c.chance(0.03) {
		c.people.burst()
	} else {
		c.people.change()
	}
	pace := 300 * time.Millisecond
	if c.chance(0.2) {
		pace = 10 * time.Millisecond
	}
	c.after(c.between(0, 2*pace), func() { c.busy(until) })
}
