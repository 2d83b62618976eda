// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ErrNoSCTP says that this kernel has no SCTP sockets.
var ErrNoSCTP = errors.New("this kernel has no SCTP sockets (module sctp)")

// sctpListener is a listening SCTP socket. Package net doesn't know the protocol.
type sctpListener struct{ fd int }

// Close wakes a blocked accept by shutting the socket down first.
func (l sctpListener) Close() error {
	return errors.Join(ignoreNotConnected(unix.Shutdown(l.fd, unix.SHUT_RDWR)), unix.Close(l.fd))
}

func ignoreNotConnected(err error) error {
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.EBADF) {
		return nil
	}
	return err
}

func (s *Server) listenSCTP(at netip.AddrPort) error {
	family, address := sockaddr(at)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return ErrNoSCTP
	}
	if err != nil {
		return fmt.Errorf("open an SCTP socket: %w", err)
	}
	if err := errors.Join(unix.Bind(fd, address), unix.Listen(fd, 128)); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	return s.start(sctpListener{fd}, func() { s.acceptSCTP(fd) })
}

func (s *Server) acceptSCTP(fd int) {
	for {
		connection, client, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return
		}
		s.open.Add(1)
		if _, err := unix.Write(connection, []byte(s.line(addrPort(client)))); err != nil {
			s.log.Debug("answer over SCTP", "pod", s.pod, "error", err)
		}
		_ = unix.Close(connection) // the line is sent before the association ends (RFC 9260, section 9.2)
		s.open.Add(-1)
	}
}

func sockaddr(at netip.AddrPort) (int, unix.Sockaddr) {
	if at.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

func addrPort(address unix.Sockaddr) netip.AddrPort {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
