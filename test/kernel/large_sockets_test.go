// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// control does something to a socket.
func control(t testing.TB, conn *net.UDPConn, f func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	check(t, err)
	var failed error
	check(t, raw.Control(func(fd uintptr) { failed = f(int(fd)) }))
	check(t, failed)
}

func setHops(t testing.TB, conn *net.UDPConn, v6 bool, hops int) {
	t.Helper()
	control(t, conn, func(fd int) error {
		if !v6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, hops)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
	})
}

// hearErrors has a socket keep the ICMP errors that it gets. What it returns waits for one, and returns who sent it.
func hearErrors(t testing.TB, conn *net.UDPConn, v6 bool) func() string {
	t.Helper()
	control(t, conn, func(fd int) error {
		if !v6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	})
	return func() (from string) {
		testkit.Eventually(t, patience, func() bool {
			control(t, conn, func(fd int) error {
				oob := make([]byte, 512)
				_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1500), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
				if err == nil {
					from = offender(t, oob[:n])
				}
				return nil
			})
			return from != ""
		})
		return from
	}
}

// offender returns the address behind a struct sock_extended_err.
func offender(t testing.TB, oob []byte) string {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	check(t, err)
	for _, m := range messages {
		const extended = 16 // sizeof(struct sock_extended_err)
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR:
			return netip.AddrFrom4([4]byte(m.Data[extended+4:])).String()
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR:
			return netip.AddrFrom16([16]byte(m.Data[extended+8:])).String()
		}
	}
	return ""
}
