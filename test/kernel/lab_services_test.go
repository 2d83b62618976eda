// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// everyKind is a cluster of two nodes in two zones with Services of all kinds: shop/web runs on both nodes, shop/one and
// shop/host on node-2 alone, shop/client on node-1.
const everyKind = `
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {topology.kubernetes.io/zone: z2}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, ports: [{name: http, containerPort: 8080}, {name: quote, containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: shop, labels: {app: one}}
spec: {nodeName: node-2, containers: [{name: main, ports: [{name: http, containerPort: 8080, hostPort: 8081}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop, labels: {app: host}}
spec: {nodeName: node-2, hostNetwork: true, containers: [{name: main, ports: [{name: http, containerPort: 9000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 1}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  externalIPs: [192.0.2.9, 203.0.113.9]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}, {name: quote, port: 53, protocol: UDP, targetPort: quote, nodePort: 30053}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.80}, {ip: 198.51.100.79, ipMode: Proxy}, {ip: "2001:db8:1::80"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: shop}
spec: {trafficDistribution: PreferSameZone, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: same, namespace: shop}
spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: shop}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: one}, ports: [{port: 80, targetPort: http, nodePort: 30081}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.81}]}}
---
apiVersion: v1
kind: Service
metadata: {name: here, namespace: shop}
spec: {internalTrafficPolicy: Local, selector: {app: one}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: known, namespace: shop}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [172.30.255.0/24], selector: {app: one}, ports: [{port: 80, targetPort: http}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.82}]}}
---
apiVersion: v1
kind: Service
metadata: {name: strangers, namespace: shop}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.0/24], selector: {app: one}, ports: [{port: 80, targetPort: http}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.83}]}}
---
apiVersion: v1
kind: Service
metadata: {name: host, namespace: shop}
spec: {type: NodePort, selector: {app: host}, ports: [{port: 80, targetPort: http, nodePort: 30082}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {type: NodePort, selector: {app: none}, ports: [{port: 80, nodePort: 30083}]}
`

// outsider is the outside client's IPv4 address.
const outsider = "172.30.255.1"

// way is one way to a Service and what must come of it.
type way struct {
	from, via, to, proto string
	outcome              agent.Outcome
	reached              string // how the pod's name begins
	seen                 string // the client's address as the pod sees it; empty is any
}

var ways = []way{
	{from: "shop/client", to: "shop/web:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "shop/client", to: "shop/web:quote", proto: "udp", outcome: agent.OK, reached: "shop/web-"},
	{from: "shop/client", to: "shop/web:81", outcome: agent.Refused},
	{from: "shop/client", to: "shop/empty:80", outcome: agent.Refused},
	{from: "shop/client", to: "10.96.99.9:80", outcome: agent.Timeout},
	{from: "shop/client", to: "shop/near:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "shop/client", to: "shop/here:80", outcome: agent.Timeout},
	{from: "node/node-2", to: "shop/here:80", outcome: agent.OK, reached: "shop/one"},
	{from: "shop/one", to: "shop/here:80", outcome: agent.OK, reached: "shop/one"},

	{from: "outside", to: "node/node-1:30080", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", to: "node/node-2:30053", proto: "udp", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", to: "node/node-1:30082", outcome: agent.OK, reached: "shop/host"},
	{from: "outside", to: "node/node-2:30082", outcome: agent.OK, reached: "shop/host", seen: outsider},
	{from: "outside", to: "node/node-1:30083", outcome: agent.Refused},
	{from: "shop/client", to: "node/node-1:30080", outcome: agent.OK, reached: "shop/web-"},
	{from: "shop/client", to: "node/node-2:30080", outcome: agent.OK, reached: "shop/web-"},
	{from: "node/node-1", to: "node/node-1:30080", outcome: agent.OK, reached: "shop/web-"},
	{from: "node/node-1", to: "127.0.0.1:30080", outcome: agent.OK, reached: "shop/web-"},
	{from: "node/node-2", to: "127.0.0.1:30053", proto: "udp", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", to: "node/node-2:30081", outcome: agent.OK, reached: "shop/one", seen: outsider},
	{from: "outside", to: "node/node-1:30081", outcome: agent.Timeout},
	{from: "shop/client", to: "node/node-1:30081", outcome: agent.OK, reached: "shop/one"},

	{from: "outside", to: "198.51.100.80:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", via: "node/node-2", to: "198.51.100.80:53", proto: "udp", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", via: "node/node-2", to: "[2001:db8:1::80]:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", to: "198.51.100.79:80", outcome: agent.Timeout},
	{from: "outside", to: "192.0.2.9:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", to: "203.0.113.9:80", outcome: agent.Timeout},
	{from: "shop/client", to: "198.51.100.80:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", to: "shop/web:80", outcome: agent.OK, reached: "shop/web-"},
	{from: "outside", via: "node/node-2", to: "198.51.100.81:80", outcome: agent.OK, reached: "shop/one", seen: outsider},
	{from: "outside", via: "node/node-1", to: "198.51.100.81:80", outcome: agent.Timeout},
	{from: "shop/client", to: "198.51.100.81:80", outcome: agent.OK, reached: "shop/one"},
	{from: "outside", to: "198.51.100.82:80", outcome: agent.OK, reached: "shop/one"},
	{from: "shop/client", to: "198.51.100.82:80", outcome: agent.Timeout},
	{from: "outside", to: "198.51.100.83:80", outcome: agent.Timeout},

	{from: "outside", to: "node/node-2:8081", outcome: agent.OK, reached: "shop/one", seen: outsider},
	{from: "outside", to: "node/node-1:8081", outcome: agent.Refused},
	{from: "shop/client", to: "node/node-2:8081", outcome: agent.OK, reached: "shop/one"},
}

// Without a kernel the reference model answers the same questions by the rows that programmers hold.
func TestServicesOfAllKindsWithoutAKernel(t *testing.T) {
	c := buildAll(t)
	l, err := lab.Up(t.Context(), decoded(t, everyKind), lab.Options{
		Name: labName + "-memory", Memory: true, Binaries: filepath.Dir(c.program), CompilerFlags: []string{"--allow-external-ips=192.0.2.0/24"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Converged(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range ways {
		report, err := l.Probe(t.Context(), lab.ProbeRequest{From: w.from, To: w.to, Via: w.via, Protocol: w.proto})
		if err != nil {
			t.Fatalf("%+v: %v", w, err)
		}
		if r := report.Results[0]; r.Outcome != w.outcome || !strings.HasPrefix(r.Reached, w.reached) || w.seen != "" && r.ClientAddress != w.seen {
			t.Errorf("%+v: got %+v", w, r)
		}
	}
}
