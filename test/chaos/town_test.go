// SPDX-License-Identifier: Apache-2.0

package chaos

// town has a Service that buyers of all nodes may reach, and whoever comes by a node, but strangers not; and one whose
// policy changes. Nobody's pods change: what fails is never the fault of a pod.
const town = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: bench, namespace: shop}
spec:
  selector: {matchLabels: {app: bench}}
  template:
    metadata: {labels: {app: bench}}
    spec: {containers: [{name: main, ports: [{containerPort: 9000}]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: buyer, namespace: shop}
spec:
  selector: {matchLabels: {app: buyer}}
  template:
    metadata: {labels: {app: buyer}}
    spec: {containers: [{name: main}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: stranger, namespace: shop}
spec:
  selector: {matchLabels: {app: stranger}}
  template:
    metadata: {labels: {app: stranger}}
    spec: {containers: [{name: main}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: names, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: bench, namespace: shop}
spec:
  selector: {app: bench}
  ports: [{port: 9000}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: buyer}}}, {ipBlock: {cidr: 172.30.0.0/16}}]
`
