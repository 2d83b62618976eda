// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Row 17: a neighbour that only XDP sends to is asked for once its entry is old, and one whose hardware address has changed
// is not sent to there any more: XDP passes what is for it to the kernel, which looks for it.
func TestNeighboursOfXDPAreAskedFor(t *testing.T) {
	testkit.NeedKernel(t)
	moved := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	here, there := testkit.NewNetNS(t), testkit.NewNetNS(t)
	pairOf := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	testkit.Veth(t, here, "eth0", pairOf("192.0.2.1/24", "2001:db8::1/64"), there, "eth0", pairOf("192.0.2.2/24", "2001:db8::2/64"))
	for _, family := range []string{"ipv4", "ipv6"} { // not after seconds
		for _, setting := range []string{"delay_first_probe_time", "ucast_solicit"} {
			here.Sysctl(t, "net/"+family+"/neigh/eth0/"+setting, "0")
		}
	}
	ifindex := here.Index(t, "eth0")
	here.Do(t, func() {
		for _, addr := range []string{"192.0.2.2", "2001:db8::2"} {
			must(t, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: ifindex, State: netlink.NUD_STALE, IP: net.ParseIP(addr), HardwareAddr: moved,
			}))
		}
	})
	testkit.Eventually(t, time.Minute, func() (gone bool) {
		here.Do(t, func() {
			must(t, ConfirmNeighbours(ifindex))
			all, err := netlink.NeighList(ifindex, netlink.FAMILY_ALL)
			must(t, err)
			gone = !slices.ContainsFunc(all, func(n netlink.Neigh) bool {
				return n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 && n.HardwareAddr.String() == moved.String()
			})
		})
		return gone
	})
}
