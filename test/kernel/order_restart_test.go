// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// kills ends a service without a word in the middle of a change; the lab starts it again.
func (w *walk) kills(prefix string) func() {
	return func() {
		for name, process := range w.scene.State().Services {
			if strings.HasPrefix(name, prefix) {
				check(w.t, process.Signal(syscall.SIGKILL))
			}
		}
	}
}

// Policy row 3: what has begun goes on, or stays denied, through restarts.
// Policy row 7: so it is while what compiles and programs policies dies amid changes, or comes again with tables of other sizes:
// nothing that is denied before and after passes, nothing that is allowed is lost.
func TestStreamsWhilePoliciesChangeAndServicesDie(t *testing.T) {
	t.Parallel()
	s := newScene(t, "order-dies", townYAML())
	w := newWalk(t, s, *orderSeed)
	w.first()
	for _, victim := range []string{"programmer-node-1", "compiler", "programmer", "watcher", ""} {
		w.step(w.kills(victim))
	}
	for i, size := range []int{4096, 1 << 16} {
		check(t, s.Restart(fmt.Sprintf("node-%d", 1+i), fmt.Sprintf("--max-connections=%d", size), fmt.Sprintf("--max-verdicts=%d", size)))
		w.step(nil)
	}
	w.none()
	t.Logf("%d changes", w.changes)
	w.streams.settled(w.history)
}
