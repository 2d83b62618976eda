// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"os/exec"
	"testing"
	"time"
)

func TestAFrozenProcessStandsStillUntilItThaws(t *testing.T) {
	busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Process.Kill(); _ = busy.Wait() })
	for range 20 {
		thaw := Freeze(t, busy.Process)
		if still, err := standsStill(busy.Process.Pid); !still || err != nil {
			t.Fatalf("it stands still: %t, %v", still, err)
		}
		thaw()
		Eventually(t, 10*time.Second, func() bool {
			still, err := standsStill(busy.Process.Pid)
			return !still && err == nil
		})
	}
}
