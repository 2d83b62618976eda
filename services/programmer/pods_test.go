// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
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

func TestListOfRoutesThatIsInterruptedDetachesNothing(t *testing.T) {
	p := newPods(&podPlane{inMemory: memoryPlane(), on: map[int]bool{}}, slog.New(slog.DiscardHandler), func(string) {})
	pod := []model.Endpoint{{Addr: netip.MustParseAddr("10.1.0.1"), Pod: "shop/one"}}
	for _, interrupted := range []int{0, 3, 1000} {
		p.routes = func() (map[netip.Addr]int, error) { return routesFrom(onePod(interrupted)) }
		again := p.reconcile(pod, time.Unix(1, 0))
		if got := p.plane.attachedPods(); !cmp.Equal(got, []int{3}) || again != (interrupted == 1000) {
			t.Errorf("after %d interrupted lists: attached to %v, again %v", interrupted, got, again)
		}
	}
	if _, err := routesFrom(onePod(1000)); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("got %v", err)
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
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
