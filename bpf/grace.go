// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Grace returns once every program that was running has ended, so that none still holds what it read before
// (MEMBARRIER_CMD_GLOBAL, which is the kernel's synchronize_rcu; some 10 to 40 ms).
func Grace() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return fmt.Errorf("wait for running programs by membarrier: %w", errno)
	}
	return nil
}
