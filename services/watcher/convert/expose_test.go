// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
)

func TestAServiceSaysHowItIsReachedFromOutside(t *testing.T) {
	const head = "{metadata: {name: cart, namespace: shop, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: \"203.0.113.0/24, 198.51.100.7/24\"}}, "
	for name, test := range map[string]struct {
		text string
		want *schemas.Service
	}{
		"node ports, Local for both sides": {
			`{metadata: {name: cart}, spec: {type: NodePort, internalTrafficPolicy: Local, externalTrafficPolicy: Local, healthCheckNodePort: 32000,
			  ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 80, protocol: UDP, nodePort: 30080}, {name: c, port: 81}]}}`,
			&schemas.Service{
				Type: "NodePort", InternalLocal: true, ExternalLocal: true, Ports: []*schemas.ServicePort{
					{Name: "a", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 80, NodePort: 30080},
					{Name: "b", Protocol: schemas.Protocol_PROTOCOL_UDP, Port: 80, NodePort: 30080},
					{Name: "c", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 81},
				},
			},
		},
		"how clients from outside are forwarded": {
			`{metadata: {name: cart, annotations: {deltaplane.io/forwarding: dsr, other: x}}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}}`,
			&schemas.Service{Type: "NodePort", Forwarding: "dsr", Ports: []*schemas.ServicePort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 80, NodePort: 30080}}},
		},
		"balancer with Local, whose node port was asked for": {
			`{metadata: {name: cart}, spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, externalTrafficPolicy: Local, healthCheckNodePort: 32000,
			  ports: [{port: 80, nodePort: 30080}], loadBalancerSourceRanges: [" 203.0.113.9/24", 203.0.113.0/24, "2001:db8::/32"]},
			  status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: VIP}, {ip: 192.0.2.3, ipMode: Proxy}, {hostname: lb.example}, {ip: "2001:db8::1"}, {ip: 192.0.2.1}]}}}`,
			&schemas.Service{
				Type: "LoadBalancer", ExternalLocal: true, HealthCheckNodePort: 32000,
				SourceRanges: []string{"203.0.113.0/24", "2001:db8::/32"}, LoadBalancerIps: [][]byte{ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")},
				Ports: []*schemas.ServicePort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 80, NodePort: 30080}},
			},
		},
		"balancer with the clouds' annotation, Cluster, and affinity by default": {
			head + "spec: {type: LoadBalancer, sessionAffinity: ClientIP, healthCheckNodePort: 32000}}",
			&schemas.Service{Type: "LoadBalancer", AffinitySeconds: 10800},
		},
		"ranges in the spec count, not those of the annotation": {
			head + "spec: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8]}}",
			&schemas.Service{Type: "LoadBalancer", SourceRanges: []string{"10.0.0.0/8"}},
		},
		"external addresses make the outside policy count": {
			`{metadata: {name: cart}, spec: {externalIPs: [192.0.2.9, "2001:db8::9", 192.0.2.9], externalTrafficPolicy: Local,
			  sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}}}`,
			&schemas.Service{
				Type: "ClusterIP", ExternalLocal: true, AffinitySeconds: 86400, ExternalIps: [][]byte{ip("192.0.2.9"), ip("2001:db8::9")},
			},
		},
		"nothing from outside, so no policy for it": {
			`{metadata: {name: cart}, spec: {externalTrafficPolicy: Local, sessionAffinity: None}}`,
			&schemas.Service{Type: "ClusterIP"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := read[corev1.Service](t, test.text)
			s.Spec.ClusterIPs = []string{"10.96.0.1"}
			test.want.ClusterIps = [][]byte{ip("10.96.0.1")}
			got, err := Fact(s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got.GetService(), protocmp.Transform()); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAHeadlessServiceIsNotReachedFromOutside(t *testing.T) {
	fact, err := Fact(read[corev1.Service](t, `{metadata: {name: db}, spec: {clusterIP: None, externalIPs: [192.0.2.1], sessionAffinity: ClientIP}}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&schemas.Service{Type: "ClusterIP"}, fact.GetService(), protocmp.Transform()); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
}

// kube-proxy lists Services without these labels; it doesn't look at what is in them.
func TestLabelsKeepEveryProxyFromAService(t *testing.T) {
	for _, label := range []string{`service.kubernetes.io/headless: ""`, `service.kubernetes.io/headless: "no"`, `service.kubernetes.io/service-proxy-name: ""`} {
		fact, err := Fact(read[corev1.Service](t, `{metadata: {name: db, labels: {`+label+`}}, spec: {clusterIP: 10.96.0.1, externalIPs: [192.0.2.1]}}`))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&schemas.Service{Type: "ClusterIP"}, fact.GetService(), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", label, diff)
		}
	}
}

func TestHintsOfASliceAreKeptInOrder(t *testing.T) {
	fact, err := Fact(read[discoveryv1.EndpointSlice](t, `{metadata: {name: s}, addressType: IPv4, endpoints: [
		{addresses: [10.1.0.1], hints: {forZones: [{name: z2}, {name: z1}, {name: z2}], forNodes: [{name: b.example}, {name: a}]}},
		{addresses: [10.1.0.2], hints: {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []*schemas.SliceEndpoint{
		{Address: ip("10.1.0.1"), Ready: true, Serving: true, ZoneHints: []string{"z1", "z2"}, NodeHints: []string{"a", "b.example"}},
		{Address: ip("10.1.0.2"), Ready: true, Serving: true},
	}
	if diff := cmp.Diff(want, fact.GetEndpointSlice().GetEndpoints(), protocmp.Transform()); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

func TestAPodSaysWhatItServesOnItsNode(t *testing.T) {
	p := read[corev1.Pod](t, `{metadata: {name: p}, spec: {containers: [{name: c, ports: [
		  {containerPort: 8080, hostPort: 80}, {containerPort: 53, protocol: UDP, hostPort: 5353, hostIP: 127.0.0.1}, {containerPort: 9}]}],
		initContainers: [{name: setup, ports: [{containerPort: 1, hostPort: 1}]},
		  {name: sidecar, restartPolicy: Always, ports: [{containerPort: 99, protocol: SCTP, hostPort: 99, hostIP: "::"}]}]}}`)
	fact, err := Fact(p)
	if err != nil {
		t.Fatal(err)
	}
	want := []*schemas.HostPort{
		{Protocol: schemas.Protocol_PROTOCOL_TCP, HostPort: 80, ContainerPort: 8080},
		{Protocol: schemas.Protocol_PROTOCOL_UDP, HostPort: 5353, ContainerPort: 53, HostIp: ip("127.0.0.1")},
		{Protocol: schemas.Protocol_PROTOCOL_SCTP, HostPort: 99, ContainerPort: 99, HostIp: ip("::")},
	}
	if diff := cmp.Diff(want, fact.GetPod().GetHostPorts(), protocmp.Transform()); diff != "" {
		t.Errorf("host ports (-want +got):\n%s", diff)
	}
	p.Spec.HostNetwork = true
	if fact, err = Fact(p); err != nil || len(fact.GetPod().GetHostPorts()) != 0 {
		t.Errorf("on the host's network: %v, %v", fact.GetPod().GetHostPorts(), err)
	}
}

func TestANodeThatIsAboutToGoIsDraining(t *testing.T) {
	for text, want := range map[string]bool{
		`{metadata: {name: n}, spec: {taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}], unschedulable: true}}`: false,
		`{metadata: {name: n}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, value: "1", effect: NoSchedule}]}}`:            true,
		`{metadata: {name: n, deletionTimestamp: "2026-11-01T00:00:00Z"}}`:                                                          true,
	} {
		fact, err := Fact(read[corev1.Node](t, text))
		if err != nil || fact.GetNode().GetDraining() != want {
			t.Errorf("%s\ndraining %v, want %v; %v", text, fact.GetNode().GetDraining(), want, err)
		}
	}
}

func TestWhatCantBeReachedIsRefusedByField(t *testing.T) {
	service := func(rest string) runtime.Object {
		s := read[corev1.Service](t, "{metadata: {name: cart, namespace: shop}, "+rest+"}")
		s.Spec.ClusterIPs = []string{"10.96.0.1"}
		return s
	}
	ingress := func(rest string) runtime.Object {
		return service("status: {loadBalancer: {ingress: [" + rest + "]}}")
	}
	pod := func(port string) runtime.Object {
		return read[corev1.Pod](t, "{metadata: {name: p, namespace: shop}, spec: {containers: [{name: c, ports: ["+port+"]}]}}")
	}
	for _, test := range []struct {
		object runtime.Object
		want   string
	}{
		{service(`spec: {externalIPs: [192.0.2.1, 10.0.0.256]}`), `Service shop/cart: spec.externalIPs[1]: "10.0.0.256" is no IP address`},
		{service(`spec: {externalIPs: [127.0.0.1]}`), `Service shop/cart: spec.externalIPs[0]: 127.0.0.1 is a loopback address`},
		{service(`spec: {externalIPs: ["fe80::1"]}`), `Service shop/cart: spec.externalIPs[0]: fe80::1 is a link-local address, which other nodes can't reach`},
		{ingress(`{ip: 192.0.2.1}, {ip: lb.example}`), `Service shop/cart: status.loadBalancer.ingress[1].ip: "lb.example" is no IP address`},
		{ingress(`{ip: 192.0.2.1, ipMode: DSR}`), `Service shop/cart: status.loadBalancer.ingress[0].ipMode: "DSR" is not VIP or Proxy`},
		{service(`spec: {loadBalancerSourceRanges: [10.0.0.1]}`), `Service shop/cart: spec.loadBalancerSourceRanges[0]: "10.0.0.1" is no prefix such as 10.0.0.0/16 or fd00::/64`},
		{service(`spec: {sessionAffinity: Cookie}`), `Service shop/cart: spec.sessionAffinity: "Cookie" is not None or ClientIP`},
		{
			service(`spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}`),
			`Service shop/cart: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not between 1 and 86400`,
		},
		{service(`spec: {internalTrafficPolicy: Zone}`), `Service shop/cart: spec.internalTrafficPolicy: "Zone" is not Cluster or Local`},
		{service(`spec: {externalTrafficPolicy: Zone}`), `Service shop/cart: spec.externalTrafficPolicy: "Zone" is not Cluster or Local`},
		{
			service(`spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 65536}`),
			`Service shop/cart: spec.healthCheckNodePort: 65536 is not between 1 and 65535`,
		},
		{service(`spec: {ports: [{port: 80, nodePort: 30080}]}`), `Service shop/cart: spec.ports[0].nodePort: 30080 is for type NodePort or LoadBalancer only`},
		{service(`spec: {type: NodePort, ports: [{port: 80, nodePort: -1}]}`), `Service shop/cart: spec.ports[0].nodePort: -1 is not between 1 and 65535`},
		{
			service(`spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}]}`),
			`Service shop/cart: spec.ports[1].nodePort: 30080 is taken by an earlier port of the same protocol`,
		},
		{pod(`{containerPort: 1, hostPort: 65536}`), `Pod shop/p: spec.containers[0].ports[0].hostPort: 65536 is not between 1 and 65535`},
		{pod(`{containerPort: 1, hostPort: 1, hostIP: eth0}`), `Pod shop/p: spec.containers[0].ports[0].hostIP: "eth0" is no IP address`},
		{pod(`{containerPort: 1, hostPort: 1, hostIP: 224.0.0.1}`), `Pod shop/p: spec.containers[0].ports[0].hostIP: 224.0.0.1 is a multicast address`},
		{
			read[discoveryv1.EndpointSlice](t, `{metadata: {name: s, namespace: shop}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1], hints: {forZones: [{name: ""}]}}]}`),
			`EndpointSlice shop/s: endpoints[0].hints.forZones[0].name: is empty`,
		},
		{
			read[discoveryv1.EndpointSlice](t, `{metadata: {name: s, namespace: shop}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1], hints: {forNodes: [{name: a}, {name: ""}]}}]}`),
			`EndpointSlice shop/s: endpoints[0].hints.forNodes[1].name: is empty`,
		},
		{
			&corev1.Node{ObjectMeta: meta("n", nil, corev1.LabelTopologyZone, strings.Repeat("z", 64))},
			`Node n: metadata.labels[topology.kubernetes.io/zone]: has 64 bytes, more than the 63 that Kubernetes allows`,
		},
	} {
		t.Run(test.want, func(t *testing.T) {
			fact, err := Fact(test.object)
			if err == nil {
				t.Fatalf("got %v, want an error", fact)
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

func meta(name string, annotations map[string]string, label ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: "shop", Annotations: annotations}
	if len(label) == 2 {
		m.Labels = map[string]string{label[0]: label[1]}
	}
	return m
}
