// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"testing"
	"time"
)

// Eventually waits until condition holds and fails the test if it doesn't within timeout. The condition is asked
// every few milliseconds, on the test's goroutine.
func Eventually(t testing.TB, timeout time.Duration, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v in vain", timeout)
		}
	}
}
