// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"testing"
	"time"
)

// Fault 2: the leading compiler is killed, idle and in the middle of its work; the other takes over and no node writes
// anything that nobody has changed.
// Promise P3: losing the compiler changes no forwarding.
func TestTheLeadingCompilerIsKilled(t *testing.T) {
	e := begin(t, "leading compiler killed")
	e.kill(e.leader(t, "compiler"))
	e.takesOver(e.struck)
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(func() {
		for range pick(2, 5) {
			now := time.Now()
			e.kill(e.leader(t, "compiler"))
			e.takesOver(now)
		}
	})
	e.converges(soon)
}
