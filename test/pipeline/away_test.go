// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// watchEntries looks at a node's maps all the time, without the bus, and returns the fewest backends that it saw. The
// metrics that it reads are made once in 100 ms, so it begins when they have come to what there is.
func (p *pipeline) watchEntries(node string, now int) (stop func() (fewest int)) {
	p.t.Helper()
	fewest := now
	testkit.Eventually(p.t, patience, func() bool { return p.entries(node) == now })
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				if n := p.entries(node); n >= 0 {
					fewest = min(fewest, n)
				}
			}
		}
	}()
	halt := sync.OnceFunc(func() { close(end); <-ended })
	p.t.Cleanup(halt)
	return func() int { halt(); return fewest }
}

// The services are there before the bus. It comes, goes and comes again: with its streams, then without them. Objects
// change meanwhile. No node ever holds fewer backends than it had, and all converge each time.
//
// Fault 5: the bus is away, comes back, and comes back without its streams.
func TestTheBusMayBeAwayAndLoseEverything(t *testing.T) {
	p := begin(t)
	p.write("nodes.yaml", nodeYAML(dotted)+nodeYAML("node-2"))
	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10"))
	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 3))
	p.startServices(dotted, "node-2")
	if _, says := p.deltaplane("status"); !strings.Contains(says, "Error: connect to the bus at "+p.url+": ") || !strings.HasSuffix(says, ": is a NATS server running there?\n") {
		t.Errorf("without a bus status says %q", says)
	}
	p.startBus()
	p.healthy(2)
	all := func(rows ...string) {
		t.Helper()
		for _, node := range []string{dotted, "node-2"} {
			p.holds(node, rows...)
		}
	}
	all(backendsOf("cart", 1, 3)...)
	fewest := p.watchEntries("node-2", 3)

	p.server.Shutdown()
	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 5))
	p.startBus()
	all(backendsOf("cart", 1, 5)...)
	p.healthy(2)

	p.server.Shutdown()
	p.streams = t.TempDir()
	p.write("more.yaml", serviceYAML("more", "10.96.0.11")+sliceYAML("more-1", "more", 30, 2))
	p.startBus()
	all(slices.Concat(backendsOf("cart", 1, 5), backendsOf("more", 30, 2))...)
	p.healthy(2)
	if n := fewest(); n < 3 {
		t.Errorf("node-2 held %d backends for a while, it had 3 at the start", n)
	}
}
