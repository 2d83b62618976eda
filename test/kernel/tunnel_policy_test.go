// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Row 14: policies at a pod on another node judge by the address of the client outside, not by a node's.
func TestPoliciesSeeClientsOutside(t *testing.T) {
	t.Parallel()
	const gets model.RuleSetID = 1
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e := newEstate(t, 2, true, true)
		b := e.nodes[1]
		e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
		e.lead(t, e.nodes[0])
		put := func(rows ...any) { testkit.PutPolicy(t, b.plane, rows...) }
		for _, v6 := range []bool{false, true} {
			tell(t, b.pod, b.podPort(v6))
			put(testkit.Pod{Addr: netip.MustParseAddr(b.podAddr(v6)), Ingress: gets, Incarnation: 1})
			for _, s := range e.nodes {
				put(model.Peer{Addr: netip.MustParseAddr(s.addr(v6)), Identity: 1})
			}
			put(model.Peer{Addr: netip.MustParseAddr(clientAddr(v6)), Identity: 2})
		}
		for _, allowed := range []model.IdentityID{1, 2} {
			put(says(gets, 1, model.ActionIsolate, 0), says(gets, 2, model.ActionIsolate, 0), says(gets, 0, model.ActionIsolate, 0),
				says(gets, allowed, model.ActionAllow, 0))
			check(t, b.plane.Judge(true))
			for _, v6 := range []bool{false, true} {
				for _, network := range []string{"tcp", "udp"} {
					network += either(v6, "4", "6")
					t.Logf("mode %v, %s, allowed identity %d (1 nodes, 2 the client)", mode, network, allowed)
					if allowed == 2 {
						e.asks(t, network, estateVIP(v6))
						continue
					}
					before := drops(t, b.plane)[model.ReasonIsolated]
					knock := e.knock(t, network, v6)
					testkit.Eventually(t, patience, func() bool { return drops(t, b.plane)[model.ReasonIsolated] > before })
					check(t, unix.Close(knock))
				}
			}
		}
	}
}

// knock sends the first packet of a connection, or a datagram, from the client to the load balancer's address, and returns
// the socket, which waits for nothing.
func (e *estate) knock(t testing.TB, network string, v6 bool) (socket int) {
	t.Helper()
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	to := netip.MustParseAddrPort(estateVIP(v6))
	var at unix.Sockaddr
	if v6 {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		at = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if network[:3] == "udp" {
		kind = unix.SOCK_DGRAM
	}
	e.client.Do(t, func() {
		var err error
		socket, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		if err := unix.Connect(socket, at); !errors.Is(err, unix.EINPROGRESS) {
			check(t, err)
			must(unix.Write(socket, []byte("?")))(t)
		}
	})
	return socket
}
