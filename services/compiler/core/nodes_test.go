// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// reached is a Node that others reach at an address.
func reached(name string, addr netip.Addr) *schemas.Fact {
	f := nodeFact(name, "")
	f.GetNode().InternalIps = [][]byte{addr.AsSlice()}
	return f
}

func (w *world) addressOf(node string) netip.Addr {
	return w.nodes[model.ClusterLayer].rows.Nodes[model.NodeIDOf(node)].V4
}

// Going back to how Services were doesn't send packets to where nodes were.
func TestARollbackKeepsHowNodesAreReached(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	w.facts(reached("n1", ip(192, 168, 0, 1)))
	w.pass(time.Second)
	good := w.core.Revision()
	w.facts(goneFact(serviceFact(2)), reached("n1", ip(192, 168, 0, 9)), reached("n2", ip(192, 168, 0, 2)))
	w.pass(time.Second)
	if done := w.rollBack(good); !done.GetDone() {
		t.Fatalf("rollback: %v", done)
	}
	if n1, n2 := w.addressOf("n1"), w.addressOf("n2"); n1 != ip(192, 168, 0, 9) || n2 != ip(192, 168, 0, 2) {
		t.Errorf("n1 is reached at %s, n2 at %s", n1, n2)
	}
	w.resume()
	w.pass(time.Second)
	w.checkConverged()
}

// An address that changed while no compiler led names its Node as what it came from, of one that is gone no name is left.
func TestAnAddressThatChangedUnseenNamesItsNode(t *testing.T) {
	w := shop(t, Options{}, 3, 1)
	before := append(shopFacts(3, 1), reached("n1", ip(192, 168, 0, 1)), reached("n3", ip(192, 168, 0, 3)))
	w.facts(before...)
	w.pass(time.Second)
	w.restart(Options{})
	w.forget()
	w.facts(before...)
	w.facts(reached("n1", ip(192, 168, 0, 9)), goneFact(nodeFact("n3", "")))
	w.core.pending = pending{} // as if none of them had been heard of
	w.ready()
	w.pass(time.Second)
	w.checkConverged()
	var got []string
	for _, d := range w.heard(model.ClusterLayer) {
		for _, c := range d.GetCauses() {
			got = append(got, c.GetObject().GetKind()+" "+c.GetObject().GetName())
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"Cluster cluster", "Node n1"}, got); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
}
