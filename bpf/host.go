// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// socketSwitches fit the socket programs to this kernel, and to the network namespace of the caller: its sockets are
// the node's own.
func socketSwitches(log *slog.Logger) (map[string]any, error) {
	cookie, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	canSetError := has(asm.FnSetRetval)
	if !canSetError {
		log.Warn("clients of a Service without backends see EPERM instead of ECONNREFUSED: bpf_set_retval came with Linux 5.18")
	}
	return map[string]any{
		"host_cookie": cookie, "can_set_error": canSetError, "can_see_multipath": has(asm.FnSkcToMptcpSock),
	}, nil
}

func has(helper asm.BuiltinFunc) bool {
	return !errors.Is(features.HaveProgramHelper(ebpf.CGroupSockAddr, helper), ebpf.ErrNotSupported)
}

// netnsCookie returns what the kernel calls the caller's network namespace; 0 before Linux 5.14, where it doesn't
// tell.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make a socket to ask for the network namespace's cookie: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the network namespace's cookie: %w", err)
	}
	return cookie, nil
}
