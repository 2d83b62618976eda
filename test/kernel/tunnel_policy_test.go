// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"testing"
	"time"

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
			tell(t, b.pod, net.JoinHostPort(b.podAddr(v6), "8080"))
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
			timeout := patience
			if allowed == 1 {
				timeout = 300 * time.Millisecond
			}
			for _, v6 := range []bool{false, true} {
				for _, network := range []string{"tcp", "udp"} {
					var err error
					e.client.Do(t, func() { err = dialledAs(network, estateVIP(v6), timeout) })
					if allowed == 1 && !isTimeout(err) || allowed == 2 && err != nil {
						t.Errorf("mode %v, %s, IPv6 %v, allowed identity %d (1 nodes, 2 the client): %v", mode, network, v6, allowed, err)
					}
				}
			}
		}
	}
}
