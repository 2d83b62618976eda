// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// Row 14: a NodePort, hostPort or load balancer's address on the nodes' own UDP port doesn't take what nodes wrap for each
// other.
func TestNoServiceTakesWhatNodesWrap(t *testing.T) {
	t.Parallel()
	for _, kind := range []model.FrontendKind{model.FrontendNodePort, model.FrontendHostPort, model.FrontendLoadBalancer} {
		t.Run(fmt.Sprint("kind ", uint8(kind)), func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, 2, true, false)
			b := e.nodes[1]
			e.serve(t, model.ForwardTunnel, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
			const udp = model.SetID(3) // over IPv4, as serve numbers them
			switch kind {
			case model.FrontendNodePort:
				b.ownFront(udp, model.MatchNodePort, 0, tunnel.DefaultPort)
			case model.FrontendHostPort:
				b.ownFront(udp, model.MatchHostPort, 0, tunnel.DefaultPort)
			default:
				b.front(udp, kind, 0, net.JoinHostPort(b.addr(false), strconv.Itoa(tunnel.DefaultPort)))
			}
			b.write(t)
			e.lead(t, e.nodes[0])
			pod := b.podPort(false)
			tell(t, b.pod, pod)
			for _, network := range []string{"tcp4", "udp4"} {
				if who, see := e.asks(t, network, estateVIP(false)); who != pod || see != clientAddr(false) {
					t.Errorf("%s: %s answered to %s, want %s to %s", network, who, see, pod, clientAddr(false))
				}
			}
			e.checkDrops(t)
		})
	}
}
