// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/cgroup"
)

// EnterCgroup makes a version 2 cgroup and moves this process into it until the test ends, so that sockets made
// from now on belong to it. Tests that use it must not run in parallel.
func EnterCgroup(t testing.TB) string {
	t.Helper()
	home, err := ownCgroup()
	if err != nil {
		t.Fatal(err)
	}
	dir := NewCgroup(t)
	if err := joinCgroup(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := joinCgroup(home); err != nil {
			t.Errorf("leave the test's cgroup: %v", err)
		}
	})
	return dir
}

// NewCgroup makes a version 2 cgroup that ends with the test.
func NewCgroup(t testing.TB) string {
	t.Helper()
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "deltaplane-test-")
	if err != nil {
		t.Fatalf("make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		Eventually(t, 30*time.Second, func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, os.ErrNotExist)
		})
	})
	return dir
}

func joinCgroup(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d", os.Getpid()), 0o644)
}

func ownCgroup() (string, error) {
	root, err := cgroup.Root()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return root, nil
}

// BPFFS mounts a bpffs that ends with the test.
func BPFFS(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("deltaplane-test", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the test's bpffs: %v", err)
		}
	})
	return dir
}
