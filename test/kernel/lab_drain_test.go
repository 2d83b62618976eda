// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// drainedService has both pods of the border as backends; the second one's conditions are given.
const drainedService = `
apiVersion: v1
kind: Service
metadata: {name: drained-%[1]s, namespace: shop, annotations: {deltaplane.io/forwarding: %[1]s}}
spec:
  type: LoadBalancer
  ports: [{name: tcp, port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.%[2]d}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: drained-%[1]s, namespace: shop, labels: {kubernetes.io/service-name: drained-%[1]s}}
addressType: IPv4
ports: [{name: tcp, port: 8080}]
endpoints:
- {addresses: [%[3]s], nodeName: node-1, conditions: {ready: true}}
- {addresses: [%[4]s], nodeName: node-2, conditions: %[5]s}
---
`

// Conditions of an endpoint, and taints of its node, before a node is drained and meanwhile.
const (
	inService    = `{ready: true}`
	leaving      = `{ready: false, serving: true, terminating: true}`
	nodeAsBefore = `{apiVersion: v1, kind: Node, metadata: {name: node-2}}`
	nodeDrained  = `{apiVersion: v1, kind: Node, metadata: {name: node-2}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}`
)

const drainedNumber = 70

// Row 14: while a node is drained its pods get no new connection of clients outside, by whichever node, and load balancers
// are told to leave it out; connections that are there go on.
func TestADrainedNodeGetsNothingNewAndKeepsWhatItHas(t *testing.T) {
	s := borderScene(t)
	check(t, s.Lead(lab.Outside, "node/node-3"))
	t.Cleanup(func() { check(t, s.Lead(lab.Outside, "node/node-1")) })
	services := func(conditions string) (yaml string) {
		for i, mode := range movingModes {
			yaml += fmt.Sprintf(drainedService, mode, drainedNumber+i, s.addressesOf("shop/near")[0], s.addressesOf("shop/far")[0], conditions)
		}
		return yaml
	}
	s.with(t, services(inService))
	var held []net.Conn
	for i := range movingModes {
		held = append(held, s.heldBy(t, balancers(drainedNumber + i)[0].String(), "shop/far"))
	}
	s.saysSoon(t, "node/node-2", proxyHealth, http.StatusOK)
	s.apply(t, services(leaving)+nodeDrained)
	t.Cleanup(func() { check(t, s.Apply(context.WithoutCancel(t.Context()), decoded(t, nodeAsBefore))) })
	s.saysSoon(t, "node/node-2", proxyHealth, http.StatusServiceUnavailable)
	for i, mode := range movingModes {
		for range 32 {
			conn := s.dialOutside(t, balancers(drainedNumber + i)[0].String())
			if pod, _ := asked(t, conn); pod != "shop/near" {
				t.Errorf("%s: a new connection comes to %s", mode, pod)
			}
			check(t, conn.Close())
		}
		if pod, _ := asked(t, held[i]); pod != "shop/far" {
			t.Errorf("%s: the connection from before is answered by %s", mode, pod)
		}
	}
}

func (s *scene) dialOutside(t *testing.T, to string) net.Conn {
	t.Helper()
	conn, err := s.DialAt(lab.Outside, "tcp4", to)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// heldBy dials until a pod answers, which is one of few, and returns that connection.
func (s *scene) heldBy(t *testing.T, to, pod string) net.Conn {
	t.Helper()
	for range 256 {
		conn := s.dialOutside(t, to)
		if got, _ := asked(t, conn); got == pod {
			return conn
		}
		check(t, conn.Close())
	}
	t.Fatalf("256 connections to %s, and none comes to %s", to, pod)
	return nil
}

// saysSoon waits until a node tells load balancers that status, which follows what the node knows by a moment.
func (s *scene) saysSoon(t *testing.T, node string, port, want int) {
	t.Helper()
	testkit.Eventually(t, patience, func() bool { return s.health(t, node, port) == want })
}

// proxyHealth is where a node tells load balancers about itself.
const proxyHealth = 10256

// health is the status that a node tells load balancers at a port, 0 while none is told: a port opens, and closes, soon after
// the node knows of it.
func (s *scene) health(t *testing.T, node string, port int) int {
	t.Helper()
	conn, err := s.DialAt(node, "tcp4", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return 0
	}
	defer conn.Close()
	if _, err = fmt.Fprint(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return 0
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	check(t, answer.Body.Close())
	return answer.StatusCode
}
