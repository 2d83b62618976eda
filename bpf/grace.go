// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Grace returns once every program that was running has ended, so that none still holds what it read before
// (MEMBARRIER_CMD_GLOBAL, which is the kernel's synchronize_rcu; some 10 to 40 ms). None of ours may sleep. A kernel
// with processors that are free of ticks (nohz_full) has no such barrier: there it is had from a map.
func Grace() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
	if errno == 0 {
		return nil
	}
	if err := graceByMap(); err != nil {
		return errors.Join(fmt.Errorf("wait for running programs by membarrier: %w", errno), err)
	}
	return nil
}

// graceByMap puts a map into a map of maps: the kernel returns from that only after the programs that might see the
// old one have ended (maybe_wait_bpf_programs in kernel/bpf/syscall.c, since Linux 4.20).
func graceByMap() error {
	inner := &ebpf.MapSpec{Name: "grace", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Name: "grace_outer", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return fmt.Errorf("wait for running programs by a map of maps: %w", err)
	}
	defer outer.Close()
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("wait for running programs by a map of maps: %w", err)
	}
	defer m.Close()
	if err := outer.Put(uint32(0), m); err != nil {
		return fmt.Errorf("wait for running programs by a map of maps: %w", err)
	}
	return nil
}
