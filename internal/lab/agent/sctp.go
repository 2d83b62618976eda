// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// attemptSCTP dials by hand: package net doesn't know the protocol.
func attemptSCTP(ctx context.Context, target Target) (string, error) {
	family, peer, local := sockaddrs(target.Address, target.SourcePort)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return "", fmt.Errorf("open an SCTP socket (the kernel module sctp is needed): %w", err)
	}
	defer unix.Close(fd)
	end, _ := ctx.Deadline()
	limit := unix.NsecToTimeval(max(time.Until(end), time.Millisecond).Nanoseconds())
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	if err == nil && target.Mark != 0 {
		err = setMark(fd, target.Mark)
	}
	if err == nil && target.SourcePort != 0 {
		err = unix.Bind(fd, local)
	}
	if err == nil {
		err = unix.Connect(fd, peer)
	}
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EAGAIN) {
		return "", unix.ETIMEDOUT
	}
	if err != nil {
		return "", err
	}
	buffer := make([]byte, 1024)
	n, err := unix.Read(fd, buffer)
	if errors.Is(err, unix.EAGAIN) {
		return "", unix.ETIMEDOUT
	}
	return string(buffer[:max(n, 0)]), err
}

func sockaddrs(to netip.AddrPort, sourcePort uint16) (family int, peer, local unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}, &unix.SockaddrInet4{Port: int(sourcePort)}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}, &unix.SockaddrInet6{Port: int(sourcePort)}
}
