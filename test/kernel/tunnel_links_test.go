// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Trap 32: clients that come by another uplink than the one by which nodes reach each other are answered there, or by yet
// another one if the node's routes say so.
func TestClientsOutsideComeByAnotherUplink(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		for _, another := range []bool{false, true} {
			e := newEstate(t, 2, true, true)
			a, b := e.nodes[0], e.nodes[1]
			e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
			testkit.Veth(t, e.router, "border", pair("172.18.71.1", "2001:db8:18:71::1"), a.NetNS, "border", pair("172.18.71.2", "2001:db8:18:71::2"))
			index := a.Index(t, "border")
			a.Do(t, func() { check(t, a.plane.AttachUplink(index)) })
			if another {
				a.Sysctl(t, "net/ipv4/conf/border/rp_filter", "2")
			} else {
				a.Route(t, netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("172.18.71.1"), "border")
				a.Route(t, netip.MustParsePrefix("2001:db8:7::/64"), netip.MustParseAddr("2001:db8:18:71::1"), "border")
			}
			for _, v6 := range []bool{false, true} {
				tell(t, b.pod, b.podPort(v6))
				vip := netip.MustParseAddrPort(estateVIP(v6)).Addr()
				by := netip.MustParseAddr(either(v6, "172.18.71.2", "2001:db8:18:71::2"))
				e.router.Route(t, netip.PrefixFrom(vip, vip.BitLen()), by, "border")
				for _, network := range []string{"tcp", "udp"} {
					if who, see := e.asks(t, network+either(v6, "4", "6"), estateVIP(v6)); who != b.podPort(v6) || see != clientAddr(v6) {
						t.Errorf("%v, answers by another uplink %t, %s: %s answered to %s, want %s to %s", mode, another, network, who, see, b.podPort(v6), clientAddr(v6))
					}
				}
			}
			e.checkDrops(t)
		}
	}
}
