// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// rootCgroup finds where the cgroup hierarchy of version 2 is mounted.
func rootCgroup(mounts string) (string, error) {
	file, err := os.Open(mounts)
	if err != nil {
		return "", fmt.Errorf("find the cgroup version 2 hierarchy (give it with --cgroup): %w", err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// device, folder, type; see fstab(5)
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("no cgroup version 2 hierarchy in %s: mount one and name it with --cgroup", mounts)
}
