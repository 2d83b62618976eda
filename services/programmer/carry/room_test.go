// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// TestWhatIsPutOffIsDoneWhenItsRoomIsNeeded replaces all backends twice, in maps that have room for both generations
// that one change needs, but not for the third that waits to be reclaimed.
func TestWhatIsPutOffIsDoneWhenItsRoomIsNeeded(t *testing.T) {
	const room = 24
	c := newCompiler()
	n := startWith(t, c, maps.NewMemory([abi.MapCount]uint32{abi.Backends: room}), true, plan.Capacities{abi.Backends: room})
	for generation := range 5 {
		n.put(c.commit(model.ClusterLayer, shop(3, 4, generation), n.now))
		if failures := n.driver.Core.Stats().MapFailures; failures > 0 {
			t.Fatalf("generation %d: a write failed for want of room: %v", generation, n.driver.Core.Faults())
		}
		if generation == 0 {
			n.pass(10 * core.TickInterval)
		}
	}
	n.converged()
}

// Row 17: Services without a Maglev table are a fault that hinders nothing else, which ends when there is a table for each.
func TestServicesWithoutAMaglevTableAreNamed(t *testing.T) {
	c := newCompiler()
	n := startWith(t, c, maps.NewMemory([abi.MapCount]uint32{abi.MaglevIndex: 1}), true, plan.Capacities{abi.MaglevIndex: 1})
	outside := shop(3, 4, 0)
	for id, s := range outside.Sets {
		s.Flags |= model.External
		outside.Sets[id] = s
	}
	named := func() (texts []string) {
		for _, f := range n.driver.Core.Faults() {
			if f.Kind == core.Pressure {
				texts = append(texts, f.Text)
			}
		}
		return texts
	}
	n.put(c.commit(model.ClusterLayer, outside, n.now))
	if got := named(); len(got) != 1 || !strings.Contains(got[0], "no Maglev table left for 2 sets") || !strings.Contains(got[0], "--max-maglev-tables") {
		t.Errorf("faults: %q", got)
	}
	n.converged()
	n.put(c.commit(model.ClusterLayer, shop(3, 4, 0), n.now))
	if got := named(); got != nil {
		t.Errorf("faults, closed to the outside: %q", got)
	}
	n.converged()
}
