// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settings says when the kernel tells that forwarding, the check of sources or the like was set otherwise, until done. The
// channel is closed once no more will be told.
func settings(done <-chan struct{}) (<-chan struct{}, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return nil, err
	}
	changes := make(chan struct{}, 1)
	go func() {
		<-done
		s.Close()
	}()
	go func() {
		defer close(changes)
		for {
			if _, _, err := s.Receive(); err != nil {
				return // closed, or more was said than was taken
			}
			tell(changes)
		}
	}()
	return changes, nil
}
