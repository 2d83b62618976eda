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
		return fmt.Errorf("put interface %s up: %w: something else has UDP port %d (ss -lunp sport = :%d says what); "+
			"stop that, or give all nodes another port by --tunnel-port", Name, err, d.Port, d.Port)
	}
	if err != nil {
		return fmt.Errorf("put interface %s up: %w", Name, err)
	}
	return nil
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
