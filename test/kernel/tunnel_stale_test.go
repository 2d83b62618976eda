// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Row 14: no client loses a packet while only one of two nodes knows the backend that the first one picks: the other gives it
// one that it knows itself, here, on a third node or on the first.
// Row 15: nor where the node answers by itself.
func TestNodesThatKnowOtherBackendsServeThese(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 3, true, true)
	first, picked := e.nodes[0], e.nodes[1]
	e.lead(t, first)
	for _, s := range e.nodes {
		tell(t, s.pod, net.JoinHostPort(s.podAddr(false), "8080"))
		tell(t, s.pod, net.JoinHostPort(s.podAddr(true), "8080"))
	}
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e.serve(t, mode, func(v6 bool) (string, int) { return picked.podAddr(v6), picked.number })
		for number, known := range e.nodes {
			for id := model.SetID(1); id <= 4; id++ {
				for backend, row := range picked.cluster.Backends {
					if row.Set == id {
						picked.remove(backend, id)
					}
				}
				picked.knows(id, model.BackendID(100*int(id)+1+number), known)
			}
			picked.write(t)
			for _, v6 := range []bool{false, true} {
				pod, seen := net.JoinHostPort(known.podAddr(v6), "8080"), clientAddr(v6)
				if known != picked {
					seen = picked.addr(v6)
				}
				for _, network := range []string{"tcp", "udp"} {
					if who, see := e.asks(t, network+either(v6, "4", "6"), estateVIP(v6)); who != pod || see != seen {
						t.Errorf("%v, %s: %s answered to %s, want %s to %s", mode, network, who, see, pod, seen)
					}
				}
			}
		}
	}
	e.checkDrops(t)
}

// knows gives a set a backend: the pod of a node.
func (s *site) knows(set model.SetID, id model.BackendID, of *site) {
	v6 := s.cluster.Sets[set].Family == model.IPv6
	s.put(s.cluster, id, set, set, netip.MustParseAddrPort(net.JoinHostPort(of.podAddr(v6), "8080")), 0)
	row := s.cluster.Backends[id]
	row.Node = model.NodeID(of.number)
	s.cluster.Backends[id] = row
}
