// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrPortTaken is what PutUp's error wraps while something else has the UDP port.
var ErrPortTaken error = unix.EADDRINUSE

// PutUp has the device take packets. Its program must be attached.
func (d Device) PutUp(ifindex int) error {
	err := netlink.LinkSetUp(byIndex(ifindex))
	if errors.Is(err, ErrPortTaken) {
		return fmt.Errorf("put interface %s up: %w: %s, or give all nodes another port by --tunnel-port", Name, err, d.taken())
	}
	if err != nil {
		return fmt.Errorf("put interface %s up: %w", Name, err)
	}
	return nil
}

// taken says what has the device's port, and what to do. Sockets of VXLAN devices have no process that ss could name.
func (d Device) taken() string {
	links, err := netlink.LinkList()
	if err != nil {
		links = nil // what else could have it is said all the same
	}
	for _, l := range links {
		if other, ok := l.(*netlink.Vxlan); ok && other.Port == int(d.Port) && other.Name != Name {
			return fmt.Sprintf("VXLAN interface %s has UDP port %d; remove it (ip link del %s)", other.Name, d.Port, other.Name)
		}
	}
	return fmt.Sprintf("something else has UDP port %d (ss -lunp sport = :%d says what); stop that", d.Port, d.Port)
}

// PutDown has it take none. One that is gone is fine.
func (Device) PutDown(ifindex int) error {
	if err := netlink.LinkSetDown(byIndex(ifindex)); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("put interface %s down, which takes packets of anyone without its program: %w; remove it", Name, err)
	}
	return nil
}

func byIndex(ifindex int) netlink.Link {
	return &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
}
