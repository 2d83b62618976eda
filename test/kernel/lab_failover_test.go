// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
)

// Sizes of what goes on while first nodes come and go; make test-failover takes the whole.
var (
	failoverNumber = flag.Int("failover.transfers", 200, "transfers at once, in each way to forward")
	failoverBytes  = flag.Int64("failover.bytes", 500_000, "bytes of each transfer")
)

// movingService has backends on node-1 and node-2.
const movingService = `
apiVersion: v1
kind: Service
metadata: {name: moving-%[1]s, namespace: shop, annotations: {deltaplane.io/forwarding: %[1]s}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {tier: web}
  ports: [{name: tcp, port: 80, targetPort: 8099}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.%[2]d}, {ip: "2001:db8:1::%[2]d"}]}}
---
`

// first number of the balancers' addresses of moving services.
const movingNumber = 60

// movingModes are those whose connections don't depend on the first node.
var movingModes = []string{"tunnel", "dsr"}

// TestTransfersSurviveTheirFirstNode starts all programmers again while transfers are under way, and moves the client's
// way: from a node that dies to the node of some of the backends, to which the others' have never come, and to the others'.
//
// Row 14: transfers go on when their packets come by another first node, and by the backend's own, whatever the programmers
// do meanwhile.
// Row 15: so they do where backends' nodes answer themselves.
// Row 17: another first node picks the same backend for a connection that it has never seen.
func TestTransfersSurviveTheirFirstNode(t *testing.T) {
	s := borderScene(t)
	near, far := s.transferAt(t, "shop/near"), s.transferAt(t, "shop/far")
	var yaml strings.Builder
	for i, mode := range movingModes {
		fmt.Fprintf(&yaml, movingService, mode, movingNumber+i)
	}
	s.with(t, yaml.String())
	t.Cleanup(func() { check(t, errors.Join(s.Mend(), s.Lead(lab.Outside, "node/node-1"))) })
	others := []string{lab.Outside, "node/node-1", "node/node-2"}
	for i, mode := range movingModes {
		t.Run(mode, func(t *testing.T) {
			check(t, s.Lead(lab.Outside, "node/node-3"))
			newTransfers(*failoverNumber, *failoverBytes, 3).run(t, s, balancers(movingNumber+i),
				func() {
					for _, node := range s.Nodes() {
						check(t, s.Restart(node))
					}
					check(t, s.Converged(t.Context()))
				},
				func() {
					check(t, s.Cut([]string{"node/node-3"}, others))
					check(t, s.Lead(lab.Outside, "node/node-1"))
				},
				func() { check(t, s.Lead(lab.Outside, "node/node-2")) },
			)
			check(t, s.Mend())
		})
	}
	if near.Load() == 0 || far.Load() == 0 {
		t.Errorf("transfers of %d and of %d connections: one backend alone shows little", near.Load(), far.Load())
	}
}
