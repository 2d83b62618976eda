// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	root, err := cgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "deltaplane-test-")
	if err != nil {
		t.Fatalf("make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		Eventually(t, 5*time.Second, func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, os.ErrNotExist)
		})
	})
	return dir
}

func joinCgroup(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d", os.Getpid()), 0o644)
}

// cgroupRoot finds where the version 2 hierarchy is mounted: elsewhere on hybrid hosts than on others.
func cgroupRoot() (string, error) {
	mounts, err := os.Open("/proc/mounts")
	if err != nil {
		return "", err
	}
	defer mounts.Close()
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no version 2 cgroup hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

func ownCgroup() (string, error) {
	root, err := cgroupRoot()
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
