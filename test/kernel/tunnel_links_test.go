// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
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

// Trap 32: what the kernel would drop for its source (rp_filter, strict) isn't sent on past it, by packet programs or XDP: the
// way back to its source leads elsewhere. Where the kernel doesn't ask it goes on.
func TestSourcesAreCheckedBeforePacketsGoOn(t *testing.T) {
	t.Parallel()
	const elsewhere = "192.0.2.9"
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	e.serve(t, model.ForwardTunnel, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
	e.lead(t, a)
	a.Route(t, netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr(a.podAddr(false)), "pod")
	e.client.Up(t, "eth0", netip.MustParsePrefix(elsewhere+"/32"))
	e.router.Route(t, netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr(clientOut4), "client")
	pod := listenUDP(t, b.pod, b.podAddr(false)+":8080")
	send := func(port int) {
		e.client.Do(t, func() {
			from := &net.UDPAddr{IP: net.ParseIP(elsewhere), Port: port}
			conn, err := net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(estateVIP(false))))
			check(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte("who"))
			check(t, err)
		})
	}
	send(7000)
	testkit.Eventually(t, patience, func() bool { return a.counter(t, "IPReversePathFilter") == 1 })
	check(t, a.plane.CheckSources(nil))
	send(7001)
	expectFrom(t, pod, elsewhere+":7001") // and nothing before
	e.checkDrops(t)
}

// Row 14: a node wraps nothing from an address that is none of its interfaces', from which the kernel sends nothing: clients get
// its own instead.
func TestANodeSendsFromItsOwnAddressesAlone(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	e.put(t, model.ForwardTunnel, model.IPv4)
	check(t, a.plane.SetLocals(map[netip.Addr]uint8{netip.MustParseAddr(a.addr(true)): abi.LocalNodePort}))
	pod := b.podPort(false)
	tell(t, b.pod, pod)
	for _, network := range []string{"tcp4", "udp4"} {
		if who, see := e.asks(t, network, estateVIP(false)); who != pod || see != a.addr(false) {
			t.Errorf("%s: %s answered to %s, want %s to %s", network, who, see, pod, a.addr(false))
		}
	}
	e.checkDrops(t)
}

// counter is one of the kernel's in the node, of /proc/net/netstat.
func (s *site) counter(t testing.TB, name string) (value uint64) {
	t.Helper()
	s.Do(t, func() {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		check(t, err)
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			if at := slices.Index(names, name); at >= 0 {
				value, err = strconv.ParseUint(values[at], 10, 64)
				check(t, err)
			}
		}
	})
	return value
}
