// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
)

// weighedService has the pods of the border, each in a slice of a weight of its own.
const weighedService = `
apiVersion: v1
kind: Service
metadata: {name: weighed, namespace: shop}
spec:
  type: LoadBalancer
  ports: [{name: tcp, port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.%[1]d}]}}
---
`

const weighedSlice = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: weighed-%[1]s, namespace: shop, labels: {kubernetes.io/service-name: weighed}, annotations: {deltaplane.io/weight: "%[2]d"}}
addressType: IPv4
ports: [{name: tcp, port: 8080}]
endpoints: [{addresses: [%[3]s], nodeName: %[4]s, conditions: {ready: true}}]
---
`

const weighedNumber = 76

// Row 17: the weights that annotations of EndpointSlices say are the shares of new connections from outside, by whichever
// node they come, and each connection goes where the Maglev table of these weights says; a weight that is edited counts at once.
func TestConnectionsFromOutsideGoByWeight(t *testing.T) {
	s := borderScene(t)
	pods := []string{"shop/near", "shop/far"}
	to := balancers(weighedNumber)[0]
	weighed := func(weights [2]uint16) (yaml string, slots []string) {
		var members []maglev.Member
		yaml = fmt.Sprintf(weighedService, weighedNumber)
		for i, pod := range pods {
			at := s.addressesOf(pod)[0]
			yaml += fmt.Sprintf(weighedSlice, pod[len("shop/"):], weights[i], at, fmt.Sprint("node-", i+1))
			members = append(members, maglev.Member{ID: uint32(i + 1), At: netip.AddrPortFrom(at, 8080), Weight: weights[i]})
		}
		for _, id := range maglev.Fill(maglev.DefaultSize, members) {
			slots = append(slots, pods[id-1])
		}
		return yaml, slots
	}
	t.Cleanup(func() { check(t, s.Lead(lab.Outside, "node/node-1")) })
	yaml, _ := weighed([2]uint16{1, 1})
	s.with(t, yaml)
	port := uint16(22000)
	for _, weights := range [][2]uint16{{3, 1}, {1, 9}} {
		yaml, slots := weighed(weights)
		s.apply(t, yaml)
		for _, via := range []string{"node/node-3", "node/node-1"} {
			check(t, s.Lead(lab.Outside, via))
			const connections = 200
			reached := map[string]int{}
			for range connections {
				port++
				conn := s.from(t, lab.Outside, "tcp", port, to, nil)
				pod, client := asked(t, conn)
				check(t, conn.Close())
				reached[pod]++
				if want := slots[maglev.SlotOf(maglev.Hash(client, to, uint8(model.TCP)), maglev.DefaultSize)]; pod != want {
					t.Errorf("weights %v, by %s: %s reaches %s, want %s", weights, via, client, pod, want)
				}
			}
			got, want := reached[pods[0]], connections*int(weights[0])/int(weights[0]+weights[1])
			if got < want-connections/8 || got > want+connections/8 {
				t.Errorf("weights %v, by %s: %d of %d connections reach %s, want some %d", weights, via, got, connections, pods[0], want)
			}
		}
	}
}
