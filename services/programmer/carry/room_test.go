// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
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
