// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func hostRoute(addr string, ifindex int) netlink.Route {
	ip := netip.MustParseAddr(addr)
	return netlink.Route{
		Dst:       &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())},
		LinkIndex: ifindex, Type: unix.RTN_UNICAST,
	}
}

// onePod lists a route to one pod, after a number of lists that were interrupted. The netlink package returns nothing
// but the error then.
func onePod(interrupted int) func(family int) ([]netlink.Route, error) {
	return func(family int) ([]netlink.Route, error) {
		if interrupted--; interrupted >= 0 {
			return nil, netlink.ErrDumpInterrupted
		}
		if family == netlink.FAMILY_V6 {
			return nil, nil
		}
		return []netlink.Route{hostRoute("10.1.0.1", 3)}, nil
	}
}

func TestAListOfRoutesThatIsInterruptedIsMadeAgain(t *testing.T) {
	for _, interrupted := range []int{0, 3, 1000} {
		got, err := routesFrom(onePod(interrupted))
		if interrupted == 1000 {
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				t.Errorf("got %v", err)
			}
		} else if err != nil || len(got) != 1 {
			t.Errorf("after %d interrupted lists: %v, %v", interrupted, got, err)
		}
	}
}

func TestOnlyTheRouteThatTheKernelTakesLeadsToAPod(t *testing.T) {
	blackhole := hostRoute("fd00::2", 1) // the kernel says that it leads to the loopback
	blackhole.Type = unix.RTN_BLACKHOLE
	worse := hostRoute("fd00::1", 9)
	worse.Priority = 2048
	got, err := routesFrom(func(family int) ([]netlink.Route, error) {
		if family == netlink.FAMILY_V4 {
			return nil, nil
		}
		return []netlink.Route{hostRoute("fd00::1", 3), worse, blackhole}, nil
	})
	want := map[netip.Addr]int{netip.MustParseAddr("fd00::1"): 3}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
