// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

const zones = `
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: node-3, labels: {topology.kubernetes.io/zone: z2}}
`

// A pod's state for onePod: it is ready unless it says otherwise.
const (
	notReady      = `status: {conditions: [{type: Ready, status: "False"}]}`
	leavingServes = "leaving"
	leavingDeaf   = "leaving, not ready"
)

// onePod is a pod that is named after its app and node: web-1 runs on node-1.
func onePod(app string, node int, state string) string {
	meta, status := "", state
	if state == leavingServes || state == leavingDeaf {
		meta, status = `, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [example.com/stay]`, ""
	}
	if state == leavingDeaf {
		status = notReady
	}
	host, port := "", 8080
	if app == "agent" {
		host, port = "hostNetwork: true, ", 9000
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s-%d, namespace: shop, labels: {app: %s}%s}
spec: {nodeName: node-%d, %scontainers: [{name: main, ports: [{name: http, containerPort: %d}, {name: quote, containerPort: 53, protocol: UDP}]}]}
%s
`, app, node, app, meta, node, host, port, status)
}

// serviceOf selects the pods of one app, in both families. spec is what else it says.
func serviceOf(name, app, spec string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: %s}, ports: [{name: http, port: 80, targetPort: http}, {name: quote, port: 53, protocol: UDP, targetPort: quote}], %s}
`, name, app, spec)
}

// balanced has the load balancer addresses 198.51.100.N and 2001:db8:1::N.
func balanced(n int) string {
	return fmt.Sprintf("status: {loadBalancer: {ingress: [{ip: 198.51.100.%d}, {ip: \"2001:db8:1::%d\"}]}}\n", n, n)
}

func balancer(n, family int) string {
	if family == 4 {
		return fmt.Sprintf("198.51.100.%d:80", n)
	}
	return fmt.Sprintf("[2001:db8:1::%d]:80", n)
}

// TestTrafficDistribution has a client on each node, while endpoints come and go.
//
// Row 10: clients keep to endpoints of their zone (PreferSameZone, PreferClose) or of their node (PreferSameNode) as
// long as one is ready there, and go to any other when none is.
// Row 22: in a dual-stack cluster each of this holds for IPv4 and IPv6 alike, by socket and for the node itself.
func TestTrafficDistribution(t *testing.T) {
	testkit.NeedKernel(t)
	s := newStory(t, "distribution", zones+
		onePod("web", 1, "")+onePod("web", 2, "")+onePod("web", 3, "")+onePod("client", 1, "")+onePod("client", 2, "")+onePod("client", 3, "")+
		serviceOf("zone", "web", "trafficDistribution: PreferSameZone")+serviceOf("close", "web", "trafficDistribution: PreferClose")+
		serviceOf("node", "web", "trafficDistribution: PreferSameNode"))
	const one, two, three = "shop/web-1", "shop/web-2", "shop/web-3"
	type prefers struct{ zone, node string } // whom a client on each of the three nodes meets
	for _, step := range []struct {
		says, change string
		want         [3]prefers
	}{
		{"all are ready", "", [3]prefers{{one + " " + two, one}, {one + " " + two, two}, {three, three}}},
		{"one is not ready", onePod("web", 1, notReady), [3]prefers{{two, two}, {two, two}, {three, three}}},
		{"one leaves", onePod("web", 1, leavingServes), [3]prefers{{two, two}, {two, two}, {three, three}}},
		{"a zone has none", onePod("web", 2, notReady), [3]prefers{{three, three}, {three, three}, {three, three}}},
		{"the other has none", onePod("web", 1, "") + onePod("web", 3, notReady), [3]prefers{{one, one}, {one, one}, {one, one}}},
		{"all are back", onePod("web", 2, "") + onePod("web", 3, ""), [3]prefers{{one + " " + two, one}, {one + " " + two, two}, {three, three}}},
	} {
		t.Run(step.says, func(t *testing.T) {
			if step.change != "" {
				s.change(t, step.change)
			}
			for i, want := range step.want {
				client := fmt.Sprintf("shop/client-%d", i+1)
				s.all(t, want.zone, way{from: client, to: "shop/zone:80"})
				s.all(t, want.zone, way{from: client, to: "shop/close:53", proto: "udp"})
				s.all(t, want.node, way{from: client, to: "shop/node:80"})
				s.all(t, want.node, way{from: fmt.Sprintf("node/node-%d", i+1), to: "shop/node:80"})
			}
		})
	}
}

// TestLocalTrafficPolicies has ready and terminating endpoints on some nodes and none on others.
//
// Row 9: under a policy Local a client gets what runs on its node: ready endpoints, else those that terminate and
// serve, worked out for each policy apart; none there and it is dropped; pods and nodes are not bound by the external one.
// Trap 39: a node without a local endpoint drops what comes from outside, and sends what comes from inside anywhere.
func TestLocalTrafficPolicies(t *testing.T) {
	testkit.NeedKernel(t)
	s := newStory(t, "local", zones+
		onePod("web", 1, "")+onePod("web", 2, "")+onePod("agent", 1, "")+onePod("client", 1, "")+onePod("client", 3, "")+
		serviceOf("inside", "web", "internalTrafficPolicy: Local")+
		serviceOf("agents", "agent", "internalTrafficPolicy: Local")+
		serviceOf("outside", "web", "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31999")+balanced(90))
	const both = "shop/web-1 shop/web-2"
	for _, step := range []struct {
		says, change   string
		inside, edge   [3]string // from the node itself and from outside, at each node
		anywhere, ends string    // from pods to the load balancer; what each node's health check says
	}{
		{"two nodes have one", "", [3]string{"shop/web-1", "shop/web-2", "timeout"}, [3]string{"shop/web-1", "shop/web-2", "timeout"}, both, "1 1 0"},
		{
			"one of them leaves and serves", onePod("web", 1, leavingServes),
			[3]string{"shop/web-1", "shop/web-2", "timeout"},
			[3]string{"shop/web-1", "shop/web-2", "timeout"},
			"shop/web-2", "0 1 0",
		},
		{
			"one leaves and serves no more", onePod("web", 1, leavingDeaf),
			[3]string{"timeout", "shop/web-2", "timeout"},
			[3]string{"timeout", "shop/web-2", "timeout"},
			"shop/web-2", "0 1 0",
		},
		{
			"all leave and serve", onePod("web", 1, leavingServes) + onePod("web", 2, leavingServes),
			[3]string{"shop/web-1", "shop/web-2", "timeout"},
			[3]string{"shop/web-1", "shop/web-2", "timeout"},
			both, "0 0 0",
		},
		{
			"none serves", onePod("web", 1, leavingDeaf) + onePod("web", 2, notReady),
			[3]string{"refused", "refused", "refused"},
			[3]string{"refused", "refused", "refused"},
			"refused", "0 0 0",
		},
	} {
		t.Run(step.says, func(t *testing.T) {
			if step.change != "" {
				s.change(t, step.change)
			}
			for i := range 3 {
				node := fmt.Sprintf("node/node-%d", i+1)
				s.all(t, step.inside[i], way{from: node, to: "shop/inside:80"})
				for _, family := range []int{4, 6} {
					edge := way{from: "outside", via: node, to: balancer(90, family)}
					if got := s.met(t, step.edge[i], family, edge); got != step.edge[i] {
						t.Errorf("%+v: got %q, want %q", edge, got, step.edge[i])
					}
				}
			}
			s.all(t, step.inside[0], way{from: "shop/client-1", to: "shop/inside:53", proto: "udp"})
			for _, family := range []int{4, 6} {
				if got := s.met(t, step.anywhere, family, way{from: "shop/client-3", to: balancer(90, family)}); got != step.anywhere {
					t.Errorf("a pod at the load balancer over IPv%d: got %q, want %q", family, got, step.anywhere)
				}
			}
			testkit.Eventually(t, patience, func() bool { return s.localEndpoints(t) == step.ends })
		})
	}
	s.all(t, "shop/agent-1", way{from: "shop/client-1", to: "shop/agents:80"})
	s.all(t, "shop/agent-1", way{from: "node/node-1", to: "shop/agents:80"})
	s.all(t, "timeout", way{from: "shop/client-3", to: "shop/agents:80"})
}

// localEndpoints asks each node's health check from outside, as a load balancer does: how many endpoints it has here.
func (s *story) localEndpoints(t *testing.T) string {
	t.Helper()
	place, err := s.Place("outside")
	if err != nil {
		t.Fatal(err)
	}
	var counts []string
	for _, node := range s.Cluster().Nodes {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = space.OpenNamespace(place.Namespace).Do(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		}}
		url := "http://" + netip.AddrPortFrom(manifest.NodeAddrs(node)[0], 31999).String()
		response, err := (&http.Client{Transport: transport, Timeout: patience}).Get(url)
		if err != nil {
			return err.Error()
		}
		var says struct{ LocalEndpoints int }
		err = json.NewDecoder(response.Body).Decode(&says)
		if closed := response.Body.Close(); err != nil || closed != nil || (response.StatusCode == http.StatusOK) != (says.LocalEndpoints > 0) {
			t.Fatalf("%s: %s, %+v, %v", node.Name, response.Status, says, err)
		}
		counts = append(counts, strconv.Itoa(says.LocalEndpoints))
	}
	return strings.Join(counts, " ")
}
