// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// A log forgets what is oldest. Unbounded, one node could have it forget within seconds what all others have said.
//
// Fault 13: floods of events.
func TestANodeThatFloodsForgetsItsOwnEvents(t *testing.T) {
	s := newStage(t)
	compiler := s.pipelineOf(t, "compiler")
	if err := compiler.EnsureStreams(t.Context(), 1, schemas.Streams...); err != nil {
		t.Fatal(err)
	}
	if err := compiler.Publish(schemas.EventSubject("compiler", ""), []byte("said before")); err != nil {
		t.Fatal(err)
	}
	var is streams.State
	last := func(sequence uint64) func() bool {
		return func() bool {
			var err error
			is, err = compiler.StreamState(t.Context(), schemas.EventLog.Name)
			return err == nil && is.Last >= sequence
		}
	}
	testkit.Eventually(t, soon, last(1))
	attacker := s.enter(t, "node-a")
	flood := func(n, size int) {
		t.Helper()
		for range n {
			attacker.publish(schemas.EventSubject("programmer", "node-a"), "", make([]byte, size))
		}
		if refused, _, err := attacker.sync(); err != nil || len(refused) > 0 {
			t.Fatalf("refused %q, %v", refused, err)
		}
	}
	flood(3, schemas.MaxEventBytes+1<<10)
	most := uint64(schemas.EventLog.MaxPerSubject)
	flood(int(most)+100, 1)
	testkit.Eventually(t, soon, last(1+most+100))
	if is.Messages != 1+most || is.First != 1 {
		t.Errorf("%d events are kept, from %d on; want %d, and the compiler's", is.Messages, is.First, 1+most)
	}
	if room := float64(most*schemas.MaxEventBytes) / float64(schemas.EventLog.MaxBytes); room > 0.25 {
		t.Errorf("one node may fill %.2f of the stream", room)
	}
}
