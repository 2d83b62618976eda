// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// phaseOf returns the name of the phase that writes an entry; empty if none does.
func phaseOf(p *plan.Plan, m abi.Map, key []byte) string {
	for _, phase := range p.Phases {
		for _, batch := range phase.Batches {
			for _, w := range batch {
				if w.Map == m && slices.Equal(w.Key, key) {
					return phase.Name
				}
			}
		}
	}
	return ""
}

// Programs never find a backend whose node has no row yet, or no longer: they would send its clients on with their own
// address.
func TestANodesRowComesBeforeItsBackendsAndGoesAfterThem(t *testing.T) {
	at := func(b model.Backend, node model.NodeID) model.Backend {
		b.Node = node
		return b
	}
	node := model.Node{ID: 5, V4: netip.MustParseAddr("192.0.2.1")}
	unknown := rows(set(1, 1), frontend(1, 1), backend(7, 1, 5), in(1, 7))
	known := rows(set(1, 1), frontend(1, 1), at(backend(7, 1, 5), 5), node, in(1, 7))
	_, s := filled(t, unknown)
	there := mustApply(t, s, towards(s, model.LayerCluster, known))
	if row, b := phaseOf(there, abi.Nodes, abi.Encode(uint32(5))), phaseOf(there, abi.Backends, abi.Encode(uint32(7))); row != "prepare" || b != "switch" {
		t.Errorf("the node comes in %q, its backend in %q", row, b)
	}
	back := mustApply(t, s, towards(s, model.LayerCluster, unknown))
	if row, b := phaseOf(back, abi.Nodes, abi.Encode(uint32(5))), phaseOf(back, abi.Backends, abi.Encode(uint32(7))); row != "reclaim" || b != "switch" {
		t.Errorf("the node goes in %q, its backend in %q", row, b)
	}
}

func TestNodesThatDontFitOrCantBeAreRefusedByName(t *testing.T) {
	_, s := filled(t, rows())
	var capacities plan.Capacities
	capacities[abi.Nodes] = 1
	two := rows(model.Node{ID: 5, V4: netip.MustParseAddr("192.0.2.1")}, model.Node{ID: 6, V4: netip.MustParseAddr("192.0.2.2"), V6: netip.MustParseAddr("fd01::2")})
	_, err := s.Apply(capacities, towards(s, model.LayerCluster, two))
	if err == nil || !strings.Contains(err.Error(), "map nodes_v1 has 0 of 1 entries in use and the change needs 2 more, such as node 0x0000000") {
		t.Errorf("%v", err)
	}
	_, err = s.Apply(capacities, towards(s, model.LayerCluster, rows(model.Node{ID: 5})))
	if want := "node 0x00000005: its number is 0 or it has no address"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
