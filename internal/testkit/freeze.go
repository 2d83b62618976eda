// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// freezing is how long a process may take to stop: a thread that waits for a disk does so before it stops.
const freezing = 30 * time.Second

// Freeze stops a process by SIGSTOP, and returns once each of its threads stands still: the signal alone only asks for that,
// and on a busy machine a process goes on for milliseconds in which it may answer, write or publish. thaw lets it go on, as
// the end of the test does at the latest.
func Freeze(t testing.TB, process *os.Process) (thaw func()) {
	t.Helper()
	thaw = func() { _ = process.Signal(syscall.SIGCONT) } // it may have ended
	t.Cleanup(thaw)
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatalf("stop process %d: %v", process.Pid, err)
	}
	var err error
	Eventually(t, freezing, func() (frozen bool) {
		frozen, err = standsStill(process.Pid)
		return frozen || err != nil
	})
	if err != nil {
		t.Fatalf("stop process %d: %v", process.Pid, err)
	}
	return thaw
}

// standsStill says whether all threads of a process are stopped. While one that is to stop is about to start another, the
// kernel has it stop first, so that none is missed.
func standsStill(pid int) (bool, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		return false, errors.Join(errors.New("it has ended"), err)
	}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		// The state follows the name, which may hold anything: proc_pid_stat(5).
		_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
		switch {
		case bytes.HasPrefix(rest, []byte("Z")), bytes.HasPrefix(rest, []byte("X")):
			return false, errors.New("it has ended")
		case !bytes.HasPrefix(rest, []byte("T")):
			return false, nil
		}
	}
	return true, nil
}
