// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds the control group hierarchy that BPF programs attach to. It only reads.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrNotMounted says that this machine, or container, has no version 2 hierarchy.
var ErrNotMounted = errors.New("no version 2 cgroup hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")

// Root returns where the version 2 hierarchy is mounted: /sys/fs/cgroup on most machines, below it on those that
// have version 1 too. See cgroups(7).
func Root() (string, error) {
	mounts, err := os.Open("/proc/mounts")
	if err != nil {
		return "", fmt.Errorf("find the cgroup hierarchy: %w", err)
	}
	defer mounts.Close()
	return rootOf(mounts)
}

// rootOf reads lines of fstab(5): device, folder, type, and so on.
func rootOf(mounts io.Reader) (string, error) {
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.Join(lines.Err(), ErrNotMounted)
}
