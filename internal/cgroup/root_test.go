// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"strings"
	"testing"
)

// Trap 27: where both cgroup versions are mounted, version 2 is found.
func TestRootIsTheVersion2HierarchyBesideVersion1(t *testing.T) {
	hybrid := "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
	if got, err := rootOf(strings.NewReader(hybrid)); err != nil || got != "/sys/fs/cgroup/unified" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestRootSaysWhatToMount(t *testing.T) {
	_, err := rootOf(strings.NewReader("tmpfs /tmp tmpfs rw 0 0\n"))
	if !errors.Is(err, ErrNotMounted) || !strings.Contains(err.Error(), "mount -t cgroup2") {
		t.Fatalf("got %v", err)
	}
}
