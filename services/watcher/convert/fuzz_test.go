// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// FuzzFact holds Fact to what those who read facts rely on, for any object that JSON can say.
func FuzzFact(f *testing.F) {
	for kind, text := range []string{
		`{"metadata":{"name":"a"},"spec":{"clusterIPs":["10.0.0.1","fd00::1"],"ports":[{"port":80,"protocol":"UDP"}]}}`,
		`{"metadata":{"name":"a"},"addressType":"IPv6","ports":[{"port":1}],"endpoints":[{"addresses":["fd00::1"],"conditions":{"ready":false}}]}`,
		`{"metadata":{"name":"a"},"spec":{"containers":[{"ports":[{"containerPort":1,"hostPort":2,"hostIP":"10.0.0.2"}]}]},"status":{"podIPs":[{"ip":"10.0.0.1"}]}}`,
		`{"metadata":{"name":"a"},"spec":{"podCIDRs":["10.0.0.0/8"]},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`,
		`{"metadata":{"name":"a","labels":{"a":"b"}}}`,
		`{"metadata":{"name":"a"},"spec":{"podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"}}],"ports":[{"port":1,"endPort":2}]}]}}`,
		`{"metadata":{"name":"a"},"spec":{"type":"LoadBalancer","clusterIPs":["10.0.0.1"],"sessionAffinity":"ClientIP","ports":[{"port":80,"nodePort":30080}]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`,
		`{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy","metadata":{"name":"a"},"spec":{"tier":"Admin","priority":1,"subject":{"namespaces":{}},"egress":[{"action":"Deny","to":[{"networks":["10.0.0.0/8"]}],"protocols":[{"tcp":{"destinationPort":{"range":{"start":1,"end":2}}}}]}]}}`,
	} {
		f.Add(uint8(kind), text)
	}
	f.Fuzz(func(t *testing.T, kind uint8, text string) {
		object := []runtime.Object{
			&corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Pod{}, &corev1.Node{}, &corev1.Namespace{}, &networkingv1.NetworkPolicy{},
			&corev1.Service{}, &unstructured.Unstructured{},
		}[kind%8]
		if json.Unmarshal([]byte(text), object) != nil {
			return
		}
		fact, err := Fact(object)
		if err != nil {
			if ref, refErr := Ref(object); refErr == nil && !strings.HasPrefix(err.Error(), Name(ref)+": ") {
				t.Errorf("%q doesn't name %s", err, Name(ref))
			}
			return
		}
		if _, err := proto.Marshal(fact); err != nil {
			t.Error(err)
		}
		wellFormed(t, fact)
	})
}

func wellFormed(t *testing.T, fact *schemas.Fact) {
	t.Helper()
	var addresses [][]byte
	var ports []uint32
	addresses = append(addresses, fact.GetService().GetClusterIps()...)
	addresses = append(addresses, fact.GetService().GetExternalIps()...)
	addresses = append(addresses, fact.GetService().GetLoadBalancerIps()...)
	addresses = append(addresses, fact.GetPod().GetAddresses()...)
	addresses = append(addresses, fact.GetNode().GetAddresses()...)
	for _, e := range fact.GetEndpointSlice().GetEndpoints() {
		addresses = append(addresses, e.GetAddress())
	}
	for _, p := range fact.GetService().GetPorts() {
		ports = append(ports, p.GetPort())
	}
	for _, p := range fact.GetPod().GetPorts() {
		ports = append(ports, p.GetPort())
	}
	for _, p := range fact.GetPod().GetHostPorts() {
		ports = append(ports, p.GetHostPort(), p.GetContainerPort())
	}
	if s := fact.GetService().GetAffinitySeconds(); s > maxAffinitySeconds {
		t.Errorf("affinity of %d seconds", s)
	}
	for _, rules := range [][]*schemas.PolicyRule{
		fact.GetNetworkPolicy().GetIngress(), fact.GetNetworkPolicy().GetEgress(),
		fact.GetClusterNetworkPolicy().GetIngress(), fact.GetClusterNetworkPolicy().GetEgress(),
	} {
		wellFormedRules(t, rules, fact.GetClusterNetworkPolicy().GetRefused() != "")
	}
	for _, a := range addresses {
		if len(a) != 4 && len(a) != 16 {
			t.Errorf("an address of %d bytes", len(a))
		}
	}
	for _, p := range ports {
		if p < 1 || p > 65535 {
			t.Errorf("port %d", p)
		}
	}
}

func wellFormedRules(t *testing.T, rules []*schemas.PolicyRule, refused bool) {
	t.Helper()
	for _, r := range rules {
		if refused && proto.Equal(r, &schemas.PolicyRule{}) {
			continue
		}
		if r.GetAction() == 0 || r.GetAnyPeer() == (len(r.GetPeers()) > 0) || r.GetAnyPort() == (len(r.GetPorts()) > 0) || len(r.GetName()) > maxRuleName {
			t.Errorf("rule %v", r)
		}
		for _, p := range r.GetPorts() {
			if p.GetPort() > 65535 || p.GetEndPort() > 65535 || p.GetEndPort() > 0 && p.GetEndPort() < p.GetPort() {
				t.Errorf("ports %v", p)
			}
		}
		for _, p := range r.GetPeers() {
			if _, err := netip.ParsePrefix(p.GetBlock().GetCidr()); p.GetBlock() != nil && err != nil || p.GetPeer() == nil {
				t.Errorf("peer %v: %v", p, err)
			}
		}
	}
}
