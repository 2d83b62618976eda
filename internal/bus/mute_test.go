// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"testing"
	"time"
)

// Fault 5: a server of the bus that is cut off from the others is left by whoever works with streams, and where most are
// away, servers are tried more and more rarely.
func TestAServerWithoutStreamsIsLeft(t *testing.T) {
	var m mute
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	quiet := func(d time.Duration) (left []time.Duration) {
		for begun, end := now, now.Add(d); now.Before(end); {
			now = now.Add(time.Second)
			if m.unanswered(now.Add(-100*time.Millisecond), now) {
				left = append(left, now.Sub(begun))
				m.moved()
			}
		}
		return left
	}
	if left := quiet(5 * time.Second); len(left) != 0 {
		t.Errorf("left after %v: a stream may take that long to find a leader", left)
	}
	if left := quiet(2 * time.Second); len(left) != 1 {
		t.Errorf("left after %v, want once", left)
	}
	if left := quiet(time.Hour); len(left) < 55 || len(left) > 65 || left[0] < 10*time.Second {
		t.Errorf("left %d times in an hour of no answers, first after %v; want once a minute in the end", len(left), left[0])
	}
	m.answered()
	if left := quiet(4 * time.Second); len(left) != 0 {
		t.Errorf("left after %v, though a stream had answered", left)
	}
	if !m.unanswered(now.Add(-6*time.Second), now) {
		t.Error("an append had no answer for 6 s; want the server left, whatever was read meanwhile")
	}
}
