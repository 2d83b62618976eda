// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
)

// Fault 13: a node tells in whatever field what would write over an operator's terminal.
func TestNoStringOfAMessageStaysUnprintable(t *testing.T) {
	m := &schemas.FlowsReply{
		Refused:     "no\x1b[2J",
		Connections: []*schemas.Connection{{Pod: "a\r", Rule: "allows"}},
		Drops:       []*schemas.RecentDrop{{Drop: &schemas.Drop{Policies: "x\u009by", SourcePort: 7}}},
	}
	CleanStrings(m)
	want := &schemas.FlowsReply{
		Refused:     "no?[2J",
		Connections: []*schemas.Connection{{Pod: "a?", Rule: "allows"}},
		Drops:       []*schemas.RecentDrop{{Drop: &schemas.Drop{Policies: "x?y", SourcePort: 7}}},
	}
	if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
