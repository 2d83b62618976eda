// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"log/slog"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// patience is how long what must pass may take.
const patience = time.Minute

// A cut is between two hosts alone, and ends.
func TestHostsAreCutOff(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-cut"), pods)
	reaches := func(from, to string, timeout time.Duration) bool {
		return probe(t, l, ProbeRequest{From: from, To: to, Timeout: timeout}).Outcome == agent.OK
	}
	if err := l.Cut([]string{"node/node-1"}, []string{"node/node-2"}); err != nil {
		t.Fatal(err)
	}
	if reaches("node/node-1", "shop/host:9000", 500*time.Millisecond) {
		t.Error("node-1 reaches node-2, from which it is cut off")
	}
	if !reaches("node/node-3", "shop/host:9000", patience) || !reaches("node/node-1", "shop/stray:9000", patience) {
		t.Error("others than node-1 and node-2 are cut off from each other")
	}
	if err := l.Mend(); err != nil {
		t.Fatal(err)
	}
	if !reaches("node/node-1", "shop/host:9000", patience) {
		t.Error("node-1 is still cut off from node-2")
	}
}

// What is lost on one way alone breaks a connection, too; a share of what is sent only slows it down.
func TestFramesAreLost(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-loss"), pods)
	ask := func() agent.Outcome {
		return probe(t, l, ProbeRequest{From: "node/node-3", To: "shop/host:9000", Timeout: patience}).Outcome
	}
	if err := l.Lose("node/node-3", "node/node-2", 0.1); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != agent.OK { // a SYN is sent six times within a minute
		t.Errorf("where 10 %% are lost: %s", got)
	}
	if err := l.Lose("node/node-3", "node/node-2", 1); err != nil {
		t.Fatal(err)
	}
	got := probe(t, l, ProbeRequest{From: "node/node-2", To: "shop/stray:9000", Timeout: 500 * time.Millisecond})
	if got.Outcome != agent.Timeout {
		t.Errorf("where no answer comes: %+v", got)
	}
	if err := l.Lose("node/node-3", "node/node-2", 0); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != agent.OK {
		t.Errorf("where nothing is lost any more: %s", got)
	}
	for _, err := range []error{l.Lose("node/node-9", "node/node-2", 1), l.Lose("node/node-3", "node/node-2", 2), l.Lose(Bridge, "node/node-2", 1)} {
		if err == nil {
			t.Error("what can't be lost is")
		}
	}
}

// A process that was halted stays away until it is resumed; the others go on.
func TestProcessesAreHalted(t *testing.T) {
	t.Parallel()
	f := newFleet(slog.New(slog.DiscardHandler))
	t.Cleanup(f.stop)
	for _, name := range []string{"a", "b"} {
		if err := f.run(name, filepath.Join(t.TempDir(), "log"), func() *exec.Cmd { return exec.Command("sleep", "60") }, (*exec.Cmd).Start); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.halt("a", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if now := f.processes(); len(now) != 1 || now["b"].PID == 0 {
		t.Errorf("after a was halted there are %v", now)
	}
	if err := f.resume("b"); err == nil {
		t.Error("b is resumed, which wasn't halted")
	}
	if err := f.resume("a"); err != nil {
		t.Fatal(err)
	}
	if now := f.processes(); len(now) != 2 {
		t.Errorf("after a was resumed there are %v", now)
	}
}
