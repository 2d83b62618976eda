// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"strings"
	"syscall"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// street is two nodes of two addresses a family, shop/web on both, shop/one on node-2, shop/self on node-1, and three
// pods that share one hostPort of node-1.
const street = `
apiVersion: v1
kind: Node
metadata: {name: node-1}
status:
  addresses:
  - {type: InternalIP, address: 172.30.0.11}
  - {type: InternalIP, address: "fd00:172:30::11"}
  - {type: ExternalIP, address: 203.0.113.11}
  - {type: ExternalIP, address: "2001:db8:113::11"}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, ports: [{name: http, containerPort: 8080}, {name: quote, containerPort: 5300, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 1}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop}
spec: {nodeName: node-1, hostNetwork: true, containers: [{name: main, ports: [{containerPort: 9000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: shop, labels: {app: one}}
spec: {nodeName: node-2, containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: self, namespace: shop, labels: {app: self}}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: door-a, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 8080, hostPort: 8081, hostIP: 172.30.0.11}, {containerPort: 8080, hostPort: 8081, hostIP: "fd00:172:30::11"}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: door-b, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 8080, hostPort: 8081, hostIP: 203.0.113.11}, {containerPort: 8080, hostPort: 8081, hostIP: "2001:db8:113::11"}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: door-c, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 8080, hostPort: 8081, hostIP: 203.0.113.11, protocol: UDP}, {containerPort: 8080, hostPort: 8081, hostIP: "2001:db8:113::11", protocol: UDP}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  externalIPs: [192.0.2.9, "2001:db8:2::9", 198.51.100.9]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}, {name: quote, port: 80, protocol: UDP, targetPort: quote, nodePort: 30080}, {name: other, port: 81, targetPort: http, nodePort: 30081}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.80}, {ip: 198.51.100.79, ipMode: Proxy}, {ip: "2001:db8:1::80"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: none}
  ports: [{name: t, port: 80, nodePort: 30083}, {name: u, port: 80, protocol: UDP, nodePort: 30083}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.83}, {ip: "2001:db8:1::83"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  selector: {app: one}
  ports: [{name: t, port: 80, targetPort: 8080, nodePort: 30084}, {name: u, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30084}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.84}, {ip: "2001:db8:1::84"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: self, namespace: shop}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: self}
  ports: [{name: t, port: 80, targetPort: 8080, nodePort: 30085}, {name: u, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30085}]
---
apiVersion: v1
kind: Service
metadata: {name: known, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerSourceRanges: [172.30.255.0/24, "fd00:172:30::ffff:0/112"]
  selector: {app: one}
  ports: [{name: t, port: 80, targetPort: 8080, nodePort: 30086}, {name: u, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30086}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.86}, {ip: "2001:db8:1::86"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: inner, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerSourceRanges: [10.244.1.0/24, "fd00:10:244:1::/64"]
  selector: {app: one}
  ports: [{name: t, port: 80, targetPort: 8080}, {name: u, port: 80, protocol: UDP, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.87}, {ip: "2001:db8:1::87"}]}}
`

// Who dials: a pod by its sockets and by packets alone, a process of the node, a pod in the node's namespace.
var insiders = []string{"shop/client", rawPod + "shop/client", "node/node-1", "shop/agent"}

var everyone = append([]string{"outside"}, insiders...)

// Each place dials each kind of address, in both families, and what comes of it is what both engines explain.
//
// Row 1: a ClusterIP is reached by pods, by sockets and by packets alone, by processes of the node and by pods in its
// namespace; the backend sees the pod's own address.
// Row 5: a Service without endpoints refuses at once, at each of its addresses and to everyone, and one whose policy
// finds none on this node drops.
// Row 6: another port of a ClusterIP is refused, and an address of the Services' range that none has is dropped.
// Row 7: a NodePort answers on each address of each node, from outside, from pods and from the node, which reaches it by
// its loopback too, and no process of the node can bind it; one number may be open in two protocols.
// Row 8: an externalIP is served where its range is allowed, a load balancer's address unless it is a proxy's, to those in
// its source ranges alone, pods too, and one hostPort leads to several pods by its address and protocol.
// Row 13: a pod reaches itself through its own Service, by sockets and by packets alone.
// Trap 21: a pod that is its own backend is answered by the Service.
// Trap 39: under a Local policy without a local endpoint packets are dropped, not refused.
// Trap 40: source ranges hold for pods too, which are known by their own addresses.
func TestServicesAreReachedFromEverywhere(t *testing.T) {
	t.Parallel()
	s := newScene(t, "reach", street)
	pods := []string{"shop/client", rawPod + "shop/client"}
	for _, c := range []struct {
		name   string
		places []string
		ways   []way
	}{
		{"a ClusterIP from everyone", everyone, []way{
			{to: "shop/web:80", outcome: agent.OK, reached: "shop/web-"},
			{to: "shop/web:81", proto: "tcp", outcome: agent.OK, reached: "shop/web-"},
			{to: "shop/inner:80", outcome: agent.OK, reached: "shop/one"},
		}},
		{"no endpoints refuse at once", everyone, []way{
			{to: "shop/empty:80 198.51.100.83:80 [2001:db8:1::83]:80 node/node-1:30083 203.0.113.11:30083", outcome: agent.Refused},
		}},
		{"none on this node drops, from inside", insiders, []way{
			{to: "shop/elsewhere:80", outcome: agent.Timeout},
			{to: "198.51.100.84:80 [2001:db8:1::84]:80 node/node-1:30084", outcome: agent.OK, reached: "shop/one"},
		}},
		{"none on this node drops, from outside", []string{"outside"}, []way{
			{to: "198.51.100.84:80 [2001:db8:1::84]:80 node/node-1:30084", outcome: agent.Timeout},
			{via: "node/node-2", to: "198.51.100.84:80 [2001:db8:1::84]:80 node/node-2:30084", outcome: agent.OK, reached: "shop/one"},
		}},
		{"other ports and addresses of Services", everyone, []way{
			{to: "shop/web:82 shop/self:81", outcome: agent.Refused},
			{to: "10.96.99.9:80 [fd00:10:96::9999]:80", outcome: agent.Timeout},
		}},
		{"a NodePort on each address of each node", everyone, []way{
			{to: "node/node-1:30080 node/node-2:30080 203.0.113.11:30080 [2001:db8:113::11]:30080", outcome: agent.OK, reached: "shop/web-"},
		}},
		{"a NodePort of one's own node by its loopback", []string{"node/node-1", "node/node-2", "shop/agent"}, []way{
			{to: "127.0.0.1:30080 [::1]:30080", outcome: agent.OK, reached: "shop/web-"},
		}},
		{"addresses from elsewhere", everyone, []way{
			{to: "192.0.2.9:80 [2001:db8:2::9]:80 198.51.100.80:80 [2001:db8:1::80]:80", outcome: agent.OK, reached: "shop/web-"},
		}},
		{"addresses that aren't served", []string{"outside", "shop/client"}, []way{
			{to: "198.51.100.9:80 198.51.100.79:80", outcome: agent.Timeout},
		}},
		{"source ranges, from outside", []string{"outside"}, []way{
			{to: "198.51.100.86:80 [2001:db8:1::86]:80 node/node-1:30086", outcome: agent.OK, reached: "shop/one"},
			{to: "198.51.100.87:80 [2001:db8:1::87]:80", outcome: agent.Timeout},
		}},
		{"source ranges, from pods", pods, []way{
			{to: "198.51.100.86:80 [2001:db8:1::86]:80", outcome: agent.Timeout},
			{to: "198.51.100.87:80 [2001:db8:1::87]:80 shop/known:80 node/node-1:30086", outcome: agent.OK, reached: "shop/one"},
		}},
		{"source ranges, from the node", []string{"node/node-1", "shop/agent"}, []way{
			{to: "198.51.100.86:80 [2001:db8:1::86]:80 198.51.100.87:80 [2001:db8:1::87]:80", outcome: agent.Timeout},
		}},
		{"one hostPort of three pods", everyone, []way{
			{to: "172.30.0.11:8081 [fd00:172:30::11]:8081", proto: "tcp", outcome: agent.OK, reached: "shop/door-a"},
			{to: "203.0.113.11:8081 [2001:db8:113::11]:8081", proto: "tcp", outcome: agent.OK, reached: "shop/door-b"},
			{to: "203.0.113.11:8081 [2001:db8:113::11]:8081", proto: "udp", outcome: agent.OK, reached: "shop/door-c"},
			{to: "172.30.0.11:8081 node/node-2:8081", proto: "udp", outcome: agent.Refused},
		}},
		{"a pod to itself", []string{"shop/self", rawPod + "shop/self"}, []way{
			{to: "shop/self:80 node/node-1:30085", outcome: agent.OK, reached: "shop/self"},
		}},
		{"a pod to itself by another node", []string{"shop/one", rawPod + "shop/one"}, []way{
			{to: "node/node-1:30084 node/node-2:30084", outcome: agent.OK, reached: "shop/one"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) { s.expect(t, c.places, c.ways...) })
	}
	t.Run("no process of the node takes a NodePort", func(t *testing.T) { nobodyTakes(t, s, 30080) })
}

// nobodyTakes binds a NodePort in a node's namespace and cgroup, which fails, and in a pod's, which doesn't.
func nobodyTakes(t *testing.T, s *scene, port uint16) {
	t.Helper()
	for _, a := range s.attempts(t, way{to: "shop/one:8080"}) {
		for _, from := range []string{"node/node-1", "shop/agent", "shop/client"} {
			report, err := s.Probe(t.Context(), lab.ProbeRequest{From: from, To: a.target.String(), Protocol: a.proto, SourcePort: port})
			check(t, err)
			inUse := strings.Contains(report.Results[0].Error, syscall.EADDRINUSE.Error())
			if r := report.Results[0]; inUse == (from == "shop/client") || !inUse && r.Outcome != agent.OK {
				t.Errorf("%s binds %d by %s: %+v", from, port, a.proto, r)
			}
		}
	}
}
