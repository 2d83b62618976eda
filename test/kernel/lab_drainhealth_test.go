// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
)

// drainedHealth is the healthCheckNodePort of the Service below.
const drainedHealth = 31970

// drainedLocal has both pods of the border, each for the clients of its node; the second one's conditions are given.
const drainedLocal = `
apiVersion: v1
kind: Service
metadata: {name: drained-local, namespace: shop}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: %[1]d
  ports: [{name: tcp, port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.%[2]d}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: drained-local, namespace: shop, labels: {kubernetes.io/service-name: drained-local}}
addressType: IPv4
ports: [{name: tcp, port: 8080}]
endpoints:
- {addresses: [%[3]s], nodeName: node-1, conditions: {ready: true}}
- {addresses: [%[4]s], nodeName: node-2, conditions: %[5]s}
---
`

const drainedLocalNumber = 74

// Row 9: a healthCheckNodePort says of a node that is to be deleted what it said before, as with kube-proxy (KEP-3836), and
// 503 once the pods there are ending; who still comes by that node is served by them, and connections from before go on.
func TestHealthCheckNodePortsWhileANodeIsDrained(t *testing.T) {
	s := borderScene(t)
	to := balancers(drainedLocalNumber)[0].String()
	service := func(conditions string) string {
		return fmt.Sprintf(drainedLocal, drainedHealth, drainedLocalNumber, s.addressesOf("shop/near")[0], s.addressesOf("shop/far")[0], conditions)
	}
	s.with(t, service(inService))
	check(t, s.Lead(lab.Outside, "node/node-2"))
	t.Cleanup(func() { check(t, s.Lead(lab.Outside, "node/node-1")) })
	held := s.heldBy(t, to, "shop/far")
	t.Cleanup(func() { check(t, s.Apply(context.WithoutCancel(t.Context()), decoded(t, nodeAsBefore))) })
	for _, step := range []struct {
		says, change        string
		node, checks, other int // what the node says of itself and at the Service's port, and the other node at that
	}{
		{"before", service(inService), http.StatusOK, http.StatusOK, http.StatusOK},
		{"the node is to be deleted", nodeDrained, http.StatusServiceUnavailable, http.StatusOK, http.StatusOK},
		{"its pods are ending", service(leaving), http.StatusServiceUnavailable, http.StatusServiceUnavailable, http.StatusOK},
		{"neither any more", service(inService) + nodeAsBefore, http.StatusOK, http.StatusOK, http.StatusOK},
	} {
		s.apply(t, step.change)
		for at, want := range map[string]map[int]int{
			"node/node-2": {proxyHealth: step.node, drainedHealth: step.checks}, "node/node-1": {drainedHealth: step.other},
		} {
			for port, status := range want {
				s.saysSoon(t, at, port, status)
			}
		}
		for what, conn := range map[string]net.Conn{"a connection from before": held, "a new one": s.dialOutside(t, to)} {
			if pod, _ := asked(t, conn); pod != "shop/far" {
				t.Errorf("%s: %s is answered by %s", step.says, what, pod)
			}
		}
	}
}
