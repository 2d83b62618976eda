// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ConfirmNeighbours has the kernel ask those neighbours of an interface if they are still there that it hasn't heard of for
// some time (state STALE), as it would before it sent a packet. What XDP sends tells it nothing, and so one whose hardware
// address has changed would get no packet ever after. It is of the network namespace of the calling thread.
func ConfirmNeighbours(ifindex int) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := again(func() ([]netlink.Neigh, error) { return netlink.NeighList(ifindex, family) })
		if err != nil {
			return fmt.Errorf("list the neighbours of interface %d: %w", ifindex, err)
		}
		for _, n := range all {
			if n.State != netlink.NUD_STALE {
				continue
			}
			use := netlink.Neigh{LinkIndex: ifindex, Family: family, IP: n.IP, Flags: netlink.NTF_USE}
			if err := netlink.NeighSet(&use); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
				return fmt.Errorf("have the kernel look after neighbour %s of interface %d: %w", n.IP, ifindex, err)
			}
		}
	}
	return nil
}
