// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// Bounds of what follows a fault.
const (
	// soon is how long nodes may take to hold everything again once a fault is over.
	soon = 30 * time.Second
	// anew is how long they may take if the bus has lost what it knew, or everything starts.
	anew = time.Minute
	// namedWithin is how long a fault may last until people are told of it, if something is stale by it; silentWithin, if
	// nothing is.
	namedWithin  = 5 * time.Second
	silentWithin = 30 * time.Second
)

// slack is for a machine that has other things to do, and for asking. `make test` runs on any: it shows that things happen,
// and `make chaos` when.
func slack() time.Duration { return pick(25*time.Second, 3*time.Second) }

// experiment is one fault under traffic. What happens to connections is counted from its beginning to its end.
type experiment struct {
	*cluster
	t       *testing.T
	changes *changes
	traffic *traffic
	row     *row
	begun   time.Time
	struck  time.Time // when the fault began
	before  writes    // when the fault began
}

// begin takes a cluster in which all is well, and lets traffic through it.
func begin(t *testing.T, fault string) *experiment {
	t.Helper()
	c := up(t)
	draw := fnv.New64a()
	draw.Write([]byte(fault))
	if c.changes == nil {
		c.changes = &changes{cluster: c}
	}
	c.changes.random, c.changes.made = rand.New(rand.NewPCG(*seed, draw.Sum64())), 0
	e := &experiment{cluster: c, t: t, changes: c.changes, row: results.add(fault), begun: time.Now()}
	e.strikes()
	e.traffic = newTraffic(t, c)
	t.Cleanup(e.end)
	return e
}

// strikes notes that a fault begins now.
func (e *experiment) strikes() {
	e.t.Helper()
	e.before, e.struck = e.writes(e.t), time.Now()
}

// end leaves a cluster in which all is well, or none.
func (e *experiment) end() {
	e.row.count = e.traffic.end(e.t)
	e.row.changes = e.changes.made
	e.row.failed = e.t.Failed()
	e.t.Log(e.row)
	if !e.t.Failed() {
		return
	}
	e.t.Logf("events since it began:\n%s\n%s\n%s", e.witness.told(e.begun), e.streams(), e.logs())
	if err := takeDown(); err != nil {
		e.t.Error(err)
	}
}

// lasts lets time go by while a fault lasts.
func (e *experiment) lasts(d time.Duration) {
	select {
	case <-time.After(d):
	case <-e.t.Context().Done():
	}
}

// whileChanging changes objects while during runs.
func (e *experiment) whileChanging(during func()) {
	e.t.Helper()
	e.changes.while(e.t, during)
}

// converges waits, from the end of a fault on, until every node holds what it should, proves it by packets, and notes how
// long it took.
func (e *experiment) converges(within time.Duration) {
	e.t.Helper()
	over := time.Now()
	within += slack()
	ctx, cancel := context.WithTimeout(e.t.Context(), within)
	defer cancel()
	if err := e.Converged(ctx); err != nil {
		e.t.Fatalf("%v after the fault was over: %v; the status is %+v", within, err, e.status(e.t.Context()))
	}
	e.row.converged = max(e.row.converged, time.Since(over))
	e.changes.proved(e.t)
}

// wroteNothing holds the nodes, but for some, to having written nothing to their maps since the fault began.
func (e *experiment) wroteNothing(but ...string) {
	e.t.Helper()
	n := e.writes(e.t, but...).since(e.before)
	e.row.writes += n
	if n != 0 {
		e.t.Errorf("nodes wrote %d entries to their maps, though nothing had changed", n)
	}
}

// named waits until people are told of what has just begun: what is true then. It says so if that took too long.
func (e *experiment) named(how string, within time.Duration, is func() bool) {
	e.t.Helper()
	begun := time.Now()
	waitFor(e.t, "people to be told by "+how, is)
	took := time.Since(begun)
	if within == namedWithin || how == "event" {
		e.row.named, e.row.namedBy = max(e.row.named, took), how
	}
	if took > within+slack() {
		e.t.Errorf("it took %v until people were told of the fault, by %s; want %v", took.Round(time.Millisecond), how, within)
	}
}

// kill ends a process without a word; it is started again.
func (e *experiment) kill(process string) {
	e.t.Helper()
	check(e.t, e.Signal(process, syscall.SIGKILL))
}

// takesOver waits until a service is led in an epoch that began after a time, and notes how long that took.
func (e *experiment) takesOver(service string, since time.Time) {
	e.t.Helper()
	waitFor(e.t, "another "+service+" to lead", func() bool {
		at, leads := e.witness.leads(service, since)
		if leads {
			e.row.takeover = max(e.row.takeover, at.Sub(since))
		}
		return leads
	})
}
