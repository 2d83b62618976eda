// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// SumUp lets the sender fill in checksums of what leaves by a link, as a network card does: a veth alone passes packets on
// as the sockets left them (CHECKSUM_PARTIAL), and segments that no cable could carry.
func SumUp(namespace *space.Namespace, link string) error {
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_STXCSUM}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], link)
	err := namespace.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fill in checksums on link %s: %w", link, err)
	}
	return nil
}
