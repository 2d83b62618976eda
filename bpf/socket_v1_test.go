// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// pinOldSockets is what an earlier release leaves: maps of layout 1 with what two sockets remember.
func pinOldSockets(t *testing.T, dir string, connected, unconnected int, choice []byte) {
	t.Helper()
	spec, err := loadSockets()
	check(t, err)
	for name, value := range map[string]struct {
		fd   int
		data []byte
	}{
		"old_sockets":   {connected, choice},
		"old_datagrams": {unconnected, slices.Concat(choice, make([]byte, 288))},
	} {
		m, err := ebpf.NewMap(spec.Maps[name])
		check(t, err)
		check(t, m.Put(abi.Encode(uint32(value.fd)), value.data))
		check(t, m.Pin(filepath.Join(dir, oldSocketMaps[name])))
		check(t, m.Close())
	}
}

func TestSocketsFromBeforeAnUpgradeShowTheirService(t *testing.T) {
	testkit.NeedKernel(t)
	cgroup := testkit.EnterCgroup(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	oldMaps := filepath.Join(dir, "maps")
	check(t, os.MkdirAll(oldMaps, 0o700))
	ns := testkit.NewNetNS(t)
	ns.Up(t, "lo", netip.MustParsePrefix("10.1.0.1/32"))
	ns.Do(t, func() {
		var sockets [3]int // a server and two clients
		for i := range sockets {
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
			check(t, err)
			defer syscall.Close(fd)
			check(t, syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 30}))
			check(t, syscall.Bind(fd, sockaddr(netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), uint16(5000+i)).String())))
			sockets[i] = fd
		}
		check(t, syscall.Connect(sockets[1], sockaddr("10.1.0.1:5000")))
		service, server := netip.MustParseAddr("10.96.0.1").As16(), netip.MustParseAddr("10.1.0.1").As16()
		choice := slices.Concat(service[:], server[:], abi.Encode(uint32(1)), abi.Encode(abi.Port(80)), abi.Encode(abi.Port(5000)))
		pinOldSockets(t, oldMaps, sockets[1], sockets[2], choice)

		d := load(t, dir)
		check(t, d.AttachCgroup(cgroup))
		check(t, d.TakeOver())
		want := sockaddr("10.96.0.1:80").(*syscall.SockaddrInet4)
		wantFrom := func(what string, sa syscall.Sockaddr, err error) {
			t.Helper()
			check(t, err)
			if got := sa.(*syscall.SockaddrInet4); got.Addr != want.Addr || got.Port != want.Port {
				t.Errorf("%s shows %v:%d", what, got.Addr, got.Port)
			}
		}
		sa, err := syscall.Getpeername(sockets[1])
		wantFrom("the peer", sa, err)
		for i, name := range []string{"", "a connected socket", "a socket without peer"} {
			if i == 0 {
				continue
			}
			check(t, syscall.Sendto(sockets[0], []byte("x"), 0, sockaddr(netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), uint16(5000+i)).String())))
			_, sa, err := syscall.Recvfrom(sockets[i], make([]byte, 8), 0)
			wantFrom(name, sa, err)
		}
		// Dialling elsewhere it is forgotten.
		check(t, syscall.Connect(sockets[1], sockaddr("10.1.0.1:5000")))
		sa, err = syscall.Getpeername(sockets[1])
		check(t, err)
		if got := sa.(*syscall.SockaddrInet4); got.Port != 5000 {
			t.Errorf("after another dial the peer is %v:%d", got.Addr, got.Port)
		}
	})
}
