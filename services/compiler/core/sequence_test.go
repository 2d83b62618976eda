// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Whoever reads the log knows which facts are in it: each delta and heartbeat says how far STATE was read.
func TestWhatIsSaidNamesTheStateThatIsInIt(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	w.forget()
	w.facts(sliceFact(0, 0, 2, w.now))
	w.pass(time.Second)
	for _, d := range w.heard(model.ClusterLayer) {
		if d.GetStateSequence() != w.sequence {
			t.Errorf("a delta to revision %d names message %d of STATE, want %d", d.GetTo(), d.GetStateSequence(), w.sequence)
		}
	}
	w.forget()
	w.facts(sliceFact(0, 0, 2, w.now)) // nothing new
	w.pass(2 * time.Second)
	var beat schemas.Heartbeat
	for _, m := range w.published {
		if m.Subject == schemas.SubjectHeartbeat {
			mustUnmarshal(t, m.Data, &beat)
		}
	}
	if beat.GetStateSequence() != w.sequence {
		t.Errorf("the heartbeat names message %d of STATE, want %d", beat.GetStateSequence(), w.sequence)
	}
}
