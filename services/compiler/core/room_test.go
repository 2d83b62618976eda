// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/schemas"
)

// Fault 13: one node that says its maps are too small is named, and keeps nobody from going back; when most say so, it is
// true enough.
func TestANodeWithoutRoomKeepsNobodyFromARollback(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	says := func(node string, room uint64) {
		t.Helper()
		report := &schemas.Applied{Node: node, Maps: []*schemas.MapUse{{Name: "backends_v3", Entries: 1, Capacity: room}}}
		if _, err := w.core.Applied(w.now, node, marshal(report)); err != nil {
			t.Fatal(err)
		}
	}
	dry := func() *schemas.RollbackReply {
		t.Helper()
		revision := w.core.Revision()
		return w.askRollback(&schemas.RollbackRequest{Revision: uint64(revision), By: "ann", DryRun: true}, w.history(revision))
	}
	says("n1", 1)
	if got := dry().GetText(); !strings.Contains(got, "doesn't fit node n1") {
		t.Errorf("all nodes lack room, and it is said: %q", got)
	}
	says("n2", 1000)
	says("n3", 1000)
	if got := dry().GetText(); !strings.Contains(got, "going back") || !strings.Contains(got, "1 nodes say that their maps have no room for it, they keep what they have (n1, …)") {
		t.Errorf("one of three lacks room, and it is said: %q", got)
	}
	says("n2", 1)
	if got := dry().GetText(); !strings.Contains(got, "doesn't fit node n1") {
		t.Errorf("two of three lack room, and it is said: %q", got)
	}
}
