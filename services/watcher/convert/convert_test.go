// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// read makes an object of YAML as people write it.
func read[T any](t *testing.T, text string) *T {
	t.Helper()
	var object T
	if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return &object
}

func ip(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

func stamp(text string) *timestamppb.Timestamp {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return timestamppb.New(t)
}

func TestFactKeepsWhatDecidesAboutPackets(t *testing.T) {
	for name, test := range map[string]struct {
		object runtime.Object
		want   *schemas.Fact
	}{
		"dual-stack service": {
			read[corev1.Service](t, `
metadata:
  {name: cart, namespace: shop, uid: u1, resourceVersion: "7", creationTimestamp: "2026-11-01T00:00:00Z",
   labels: {service.kubernetes.io/service-proxy-name: other},
   managedFields: [{manager: kubectl, time: "2026-11-01T00:00:00Z"}, {manager: argocd, time: "2026-11-02T00:00:00Z"}]}
spec:
  {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00::1"], publishNotReadyAddresses: true,
   ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: sigtran, port: 80, protocol: SCTP}]}`),
			&schemas.Fact{
				Object:  &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "cart", Uid: "u1", ResourceVersion: "7"},
				Manager: "argocd",
				State: &schemas.Fact_Service{Service: &schemas.Service{
					ClusterIps: [][]byte{ip("10.96.0.1"), ip("fd00::1")}, PublishNotReadyAddresses: true, ProxyName: "other",
					Type: "ClusterIP", Created: stamp("2026-11-01T00:00:00Z"),
					Ports: []*schemas.ServicePort{
						{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 80},
						{Name: "dns", Protocol: schemas.Protocol_PROTOCOL_UDP, Port: 53},
						{Name: "sigtran", Protocol: schemas.Protocol_PROTOCOL_SCTP, Port: 80},
					},
				}},
			},
		},
		"headless service without a namespace": {
			read[corev1.Service](t, `{metadata: {name: db}, spec: {type: ClusterIP, clusterIP: None}}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Service", Namespace: "default", Name: "db"},
				State:  &schemas.Fact_Service{Service: &schemas.Service{Type: "ClusterIP"}},
			},
		},
		"service with the old single address": {
			read[corev1.Service](t, `{metadata: {name: db, namespace: a}, spec: {type: NodePort, clusterIP: 10.0.0.9, ports: [{port: 1}]}}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Service", Namespace: "a", Name: "db"},
				State: &schemas.Fact_Service{Service: &schemas.Service{
					Type: "NodePort", ClusterIps: [][]byte{ip("10.0.0.9")},
					Ports: []*schemas.ServicePort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 1}},
				}},
			},
		},
		"external name": {
			read[corev1.Service](t, `{metadata: {name: db, namespace: a}, spec: {type: ExternalName, externalName: example.com}}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Service", Namespace: "a", Name: "db"},
				State:  &schemas.Fact_Service{Service: &schemas.Service{Type: "ExternalName"}},
			},
		},
		"slice whose conditions are left out, and said": {
			read[discoveryv1.EndpointSlice](t, `
metadata:
  {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart},
   annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2026-11-02T00:00:00.5Z"}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: any}]
endpoints:
- {addresses: [10.1.0.1, 10.1.0.99], nodeName: a.example, zone: z1}
- {addresses: [10.1.0.2], conditions: {ready: false}}
- {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}`),
			&schemas.Fact{
				Object:      &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-1"},
				TriggerTime: stamp("2026-11-02T00:00:00.5Z"),
				State: &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{
					Service: "cart", Family: schemas.IPFamily_IP_FAMILY_IPV4,
					Ports: []*schemas.EndpointPort{
						{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080},
						{Name: "any", Protocol: schemas.Protocol_PROTOCOL_TCP},
					},
					Endpoints: []*schemas.SliceEndpoint{
						{Address: ip("10.1.0.1"), Ready: true, Serving: true, Node: "a.example", Zone: "z1"},
						{Address: ip("10.1.0.2"), Serving: true},
						{Address: ip("10.1.0.3"), Serving: true, Terminating: true},
					},
				}},
			},
		},
		"slice of host names, which no proxy uses": {
			read[discoveryv1.EndpointSlice](t, `{metadata: {name: x, namespace: a}, addressType: FQDN, endpoints: [{addresses: [example.com]}]}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: "x"},
				State:  &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{}},
			},
		},
		"slice with a weight": {
			read[discoveryv1.EndpointSlice](t, `{metadata: {name: x, namespace: a, annotations: {deltaplane.io/weight: "50"}}, addressType: IPv4}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: "x"},
				State:  &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{Family: schemas.IPFamily_IP_FAMILY_IPV4, Weight: "50"}},
			},
		},
		"slice with a weight that is none, as much of it as says what it is": {
			read[discoveryv1.EndpointSlice](t, `{metadata: {name: x, namespace: a, annotations: {deltaplane.io/weight: "`+strings.Repeat("50 ", 50)+`"}}, addressType: IPv4}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: "x"},
				State: &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{
					Family: schemas.IPFamily_IP_FAMILY_IPV4, Weight: strings.Repeat("50 ", 50)[:64],
				}},
			},
		},
		"slice of a headless service": {
			read[discoveryv1.EndpointSlice](t, `{metadata: {name: x, namespace: a, labels: {kubernetes.io/service-name: db, service.kubernetes.io/headless: ""}},
			  addressType: IPv4, endpoints: [{addresses: [10.1.0.1]}]}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: "x"},
				State:  &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{Service: "db"}},
			},
		},
		"slice with a trigger time that is none": {
			read[discoveryv1.EndpointSlice](t, `
metadata: {name: x, namespace: a, annotations: {endpoints.kubernetes.io/last-change-trigger-time: yesterday}}
addressType: IPv6`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: "x"},
				State:  &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{Family: schemas.IPFamily_IP_FAMILY_IPV6}},
			},
		},
		"running pod with a sidecar": {
			read[corev1.Pod](t, `
metadata: {name: p, namespace: a, labels: {app: cart}}
spec:
  nodeName: n1
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
  initContainers:
  - {name: setup, ports: [{containerPort: 1}]}
  - {name: sidecar, restartPolicy: Always, ports: [{containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: "fd00::1"}]}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: "p"},
				State: &schemas.Fact_Pod{Pod: &schemas.Pod{
					Node: "n1", Addresses: [][]byte{ip("10.1.0.1"), ip("fd00::1")}, Labels: map[string]string{"app": "cart"},
					Ports: []*schemas.EndpointPort{
						{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080},
						{Protocol: schemas.Protocol_PROTOCOL_UDP, Port: 53},
					},
				}},
			},
		},
		"finished pod on the host's network": {
			read[corev1.Pod](t, `{metadata: {name: p, namespace: a}, spec: {nodeName: n1, hostNetwork: true}, status: {phase: Failed, podIP: 10.0.0.1}}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: "p"},
				State:  &schemas.Fact_Pod{Pod: &schemas.Pod{Node: "n1", Addresses: [][]byte{ip("10.0.0.1")}, HostNetwork: true, Finished: true}},
			},
		},
		"node with dots in its name": {
			read[corev1.Node](t, `
metadata: {name: n1.example.com, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.7/24, "fd00:1::/64"]}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 203.0.113.1}, {type: InternalIP, address: 192.0.2.9}]}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Node", Name: "n1.example.com"},
				State: &schemas.Fact_Node{Node: &schemas.Node{
					Addresses: [][]byte{ip("192.0.2.1"), ip("203.0.113.1"), ip("192.0.2.9")}, InternalIps: [][]byte{ip("192.0.2.1"), ip("192.0.2.9")}, PodCidrs: []string{"10.1.0.0/24", "fd00:1::/64"}, Zone: "z1",
					Labels: map[string]string{"topology.kubernetes.io/zone": "z1"},
				}},
			},
		},
		"namespace": {
			read[corev1.Namespace](t, `{metadata: {name: shop, labels: {team: a}}}`),
			&schemas.Fact{
				Object: &schemas.ObjectRef{Kind: "Namespace", Name: "shop"},
				State: &schemas.Fact_Namespace{Namespace: &schemas.Namespace{
					Labels: map[string]string{"team": "a", "kubernetes.io/metadata.name": "shop"},
				}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Fact(test.object)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("fact (-want +got):\n%s", diff)
			}
		})
	}
}

func TestASliceOfAThousandEndpointsIsTaken(t *testing.T) {
	fact, err := Fact(sliceOf(MaxSliceEndpoints))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(fact.GetEndpointSlice().GetEndpoints()); got != MaxSliceEndpoints {
		t.Errorf("%d endpoints, want %d", got, MaxSliceEndpoints)
	}
}

func sliceOf(endpoints int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name = "shop", "big"
	addr := netip.MustParseAddr("10.0.0.1")
	for range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr.String()}})
		addr = addr.Next()
	}
	return s
}

func TestRefusalsNameObjectAndField(t *testing.T) {
	service := func(spec string) runtime.Object {
		return read[corev1.Service](t, "{metadata: {name: cart, namespace: shop}, spec: "+spec+"}")
	}
	slice := func(rest string) runtime.Object {
		return read[discoveryv1.EndpointSlice](t, "{metadata: {name: s, namespace: shop}, addressType: IPv4, "+rest+"}")
	}
	huge := read[corev1.Pod](t, `{metadata: {name: huge, namespace: shop}}`)
	huge.Annotations = map[string]string{"a": strings.Repeat("x", 10<<20)}

	for _, test := range []struct {
		object runtime.Object
		want   string
	}{
		{&corev1.Secret{}, "*v1.Secret is no kind that deltaplane watches; it watches [Namespace Node Service EndpointSlice Pod NetworkPolicy ClusterNetworkPolicy]"},
		{&corev1.Service{}, "Service: metadata.name is missing"},
		{huge, "Pod shop/huge: the object has 10485853 bytes, more than the 3145728 that Kubernetes allows; make it smaller"},
		{service(`{type: Magic}`), `Service shop/cart: spec.type: "Magic" is not ClusterIP, NodePort, LoadBalancer or ExternalName`},
		{service(`{clusterIPs: [10.96.0.300]}`), `Service shop/cart: spec.clusterIPs[0]: "10.96.0.300" is no IP address`},
		{service(`{clusterIP: "fe80::1%eth0"}`), `Service shop/cart: spec.clusterIP[0]: "fe80::1%eth0" has a zone, which means something on one machine only`},
		{service(`{clusterIPs: ["::ffff:10.96.0.1"]}`), `Service shop/cart: spec.clusterIPs[0]: "::ffff:10.96.0.1" is an IPv4-mapped address; write 10.96.0.1`},
		{service(`{clusterIPs: [10.96.0.1, 10.96.0.2]}`), `Service shop/cart: spec.clusterIPs[1]: 10.96.0.2 is a second IPv4 address; a Service has one of each family`},
		{service(`{clusterIPs: [0.0.0.0]}`), `Service shop/cart: spec.clusterIPs[0]: 0.0.0.0 is the unspecified address`},
		{service(`{clusterIPs: [127.0.0.1]}`), `Service shop/cart: spec.clusterIPs[0]: 127.0.0.1 is a loopback address`},
		{service(`{clusterIPs: [224.0.0.1]}`), `Service shop/cart: spec.clusterIPs[0]: 224.0.0.1 is a multicast address`},
		{service(`{ports: [{port: 0}]}`), `Service shop/cart: spec.ports[0].port: 0 is not between 1 and 65535`},
		{service(`{ports: [{port: 65536}]}`), `Service shop/cart: spec.ports[0].port: 65536 is not between 1 and 65535`},
		{service(`{ports: [{port: 80, protocol: ICMP}]}`), `Service shop/cart: spec.ports[0].protocol: "ICMP" is not TCP, UDP or SCTP`},
		{service(`{ports: [{port: 80}, {port: 81}]}`), `Service shop/cart: spec.ports[1].name: "" is taken by an earlier port; with more than one port each needs a name of its own`},
		{service(`{ports: [{name: a, port: 80}, {name: b, port: 80}]}`), `Service shop/cart: spec.ports[1].port: 80 is taken by an earlier port of the same protocol`},

		{read[discoveryv1.EndpointSlice](t, `{metadata: {name: s, namespace: shop}, addressType: IPX}`), `EndpointSlice shop/s: addressType: "IPX" is not IPv4, IPv6 or FQDN`},
		{sliceOf(10_000), "EndpointSlice shop/big: endpoints: 10000 are more than 1000; spread them over several slices"},
		{slice(`endpoints: [{addresses: []}]`), "EndpointSlice shop/s: endpoints[0].addresses: is empty; an endpoint has at least one address"},
		{slice(`endpoints: [{addresses: [10.1.0.1]}, {addresses: [cart.example]}]`), `EndpointSlice shop/s: endpoints[1].addresses[0]: "cart.example" is no IP address`},
		{slice(`endpoints: [{addresses: ["fd00::1"]}]`), "EndpointSlice shop/s: endpoints[0].addresses[0]: fd00::1 is no IPv4 address, which addressType asks for"},
		{slice(`endpoints: [{addresses: [169.254.0.1]}]`), "EndpointSlice shop/s: endpoints[0].addresses[0]: 169.254.0.1 is a link-local address, which other nodes can't reach"},
		{slice(`endpoints: [], ports: [{port: 70000}]`), "EndpointSlice shop/s: ports[0].port: 70000 is not between 1 and 65535"},
		{slice(`endpoints: [], ports: [{port: 1, protocol: X}]`), `EndpointSlice shop/s: ports[0].protocol: "X" is not TCP, UDP or SCTP`},
		{slice(`endpoints: [], ports: [{name: a, port: 1}, {name: a, port: 2}]`), `EndpointSlice shop/s: ports[1].name: "a" is taken by an earlier port`},

		{read[corev1.Pod](t, `{metadata: {name: p, namespace: shop}, status: {podIPs: [{ip: x}]}}`), `Pod shop/p: status.podIPs[0].ip: "x" is no IP address`},
		{
			read[corev1.Pod](t, `{metadata: {name: p, namespace: shop}, spec: {containers: [{name: c, ports: [{containerPort: -1}]}]}}`),
			"Pod shop/p: spec.containers[0].ports[0].containerPort: -1 is not between 1 and 65535",
		},
		{
			read[corev1.Pod](t, `{metadata: {name: p, namespace: shop}, spec: {initContainers: [{name: c, restartPolicy: Always, ports: [{containerPort: 1, protocol: x}]}]}}`),
			`Pod shop/p: spec.initContainers[0].ports[0].protocol: "x" is not TCP, UDP or SCTP`,
		},
		{read[corev1.Node](t, `{metadata: {name: n.b}, status: {addresses: [{type: InternalIP, address: nope}]}}`), `Node n.b: status.addresses[0].address: "nope" is no IP address`},
		{read[corev1.Node](t, `{metadata: {name: n1}, spec: {podCIDRs: [10.0.0.0]}}`), `Node n1: spec.podCIDRs[0]: "10.0.0.0" is no prefix such as 10.0.0.0/16 or fd00::/64`},
		{read[corev1.Node](t, `{metadata: {name: n1}, spec: {podCIDR: "::ffff:10.0.0.0/104"}}`), `Node n1: spec.podCIDRs[0]: "::ffff:10.0.0.0/104" is an IPv4-mapped prefix; write it as IPv4`},
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

func TestARefusedObjectStillHasAName(t *testing.T) {
	ref, err := Ref(read[corev1.Service](t, `{metadata: {name: cart, namespace: shop}, spec: {type: Magic}}`))
	if err != nil || Name(ref) != "Service shop/cart" {
		t.Errorf("got %q, %v", Name(ref), err)
	}
	if got := Name(&schemas.ObjectRef{Kind: "Node", Name: "a.b"}); got != "Node a.b" {
		t.Errorf("got %q", got)
	}
}
