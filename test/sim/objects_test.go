// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// How many of each there are at most. Few, so that what happens happens to the same ones.
const (
	services  = 6
	pods      = 14
	policies  = 4
	podsPerIP = 2 // so many pods take turns with one address
)

var namespaces = []string{"shop", "bank"}

// people change objects at random, as users and controllers do.
type people struct {
	*world
	api   *apiServer
	nodes []string
}

// settle fills an empty cluster.
func (p *people) settle() {
	for _, name := range namespaces {
		p.namespace(name)
	}
	for _, name := range p.nodes {
		p.node(name)
	}
	for i := range pods {
		if i%podsPerIP == 0 {
			p.pod(i)
		}
	}
	for i := range services - 2 {
		p.service(i)
		p.slice(i)
	}
	p.policy(0)
}

// change makes one random change.
func (p *people) change() {
	switch n := p.random.IntN(100); {
	case n < 40:
		p.slice(p.random.IntN(services))
	case n < 58:
		p.podChange(p.random.IntN(pods))
	case n < 72:
		p.service(p.random.IntN(services))
	case n < 77:
		p.api.remove(core.Key{Kind: convert.KindService, Namespace: p.home(0), Name: serviceName(p.random.IntN(services))})
	case n < 82:
		i := p.random.IntN(services)
		p.api.remove(core.Key{Kind: convert.KindEndpointSlice, Namespace: p.home(0), Name: sliceName(i)})
	case n < 92:
		p.policy(p.random.IntN(policies))
	case n < 95:
		p.api.remove(core.Key{Kind: convert.KindNetworkPolicy, Namespace: p.home(0), Name: policyName(p.random.IntN(policies))})
	case n < 98:
		p.namespace(pick(p.world, namespaces))
	default:
		p.node(pick(p.world, p.nodes))
	}
}

// burst makes many changes in one moment, such as a rollout does.
func (p *people) burst() {
	for range 5 + p.random.IntN(20) {
		p.change()
	}
}

func (p *people) home(i int) string { return namespaces[i%len(namespaces)] }

func serviceName(i int) string { return fmt.Sprintf("svc-%d", i) }
func sliceName(i int) string   { return fmt.Sprintf("svc-%d-abcde", i) }
func policyName(i int) string  { return fmt.Sprintf("policy-%d", i) }
func podName(i int) string     { return fmt.Sprintf("pod-%d", i) }

func (p *people) namespace(name string) {
	p.api.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name, "team": fmt.Sprint("team-", p.random.IntN(2))},
	}})
}

func (p *people) node(name string) {
	i := 0
	for at, other := range p.nodes {
		if other == name {
			i = at
		}
	}
	p.api.put(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"topology.kubernetes.io/zone": fmt.Sprint("z", p.random.IntN(2))}},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.200.%d.0/24", i)}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", 10+i)}}},
	})
}

// place returns the node and address of a pod. Pods of one address follow each other.
func (p *people) place(i int) (node, addr string) {
	at := i / podsPerIP
	return p.nodes[at%len(p.nodes)], fmt.Sprintf("10.200.%d.%d", at%len(p.nodes), 1+at)
}

func (p *people) pod(i int) {
	node, addr := p.place(i)
	p.api.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.home(i), Name: podName(i),
			Labels: map[string]string{"app": fmt.Sprint("app-", p.random.IntN(3)), "track": fmt.Sprint("track-", i%2)},
		},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "main", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}},
	})
}

// podChange has a pod come, go or change its labels; one that comes may take over another's address.
func (p *people) podChange(i int) {
	key := core.Key{Kind: convert.KindPod, Namespace: p.home(i), Name: podName(i)}
	if _, exists := p.api.objects[key]; exists && p.random.IntN(3) > 0 {
		p.api.remove(key)
		return
	}
	p.pod(i)
}

func (p *people) service(i int) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.home(0), Name: serviceName(i)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: fmt.Sprintf("10.96.0.%d", 10+i), ClusterIPs: []string{fmt.Sprintf("10.96.0.%d", 10+i)},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	spec := &s.Spec
	if p.chance(0.3) {
		spec.Ports[0].Name = "web"
		spec.Ports = append(spec.Ports, corev1.ServicePort{Name: "admin", Protocol: corev1.ProtocolTCP, Port: 8081})
	}
	if p.chance(0.3) {
		spec.Type = corev1.ServiceTypeNodePort
		spec.Ports[0].NodePort = 30000 + int32(p.random.IntN(services)) // two Services may want the same
		if p.chance(0.5) {
			spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	}
	if p.chance(0.2) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		spec.InternalTrafficPolicy = &local
	}
	if p.chance(0.2) {
		spec.Type = corev1.ServiceTypeLoadBalancer
		spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", 1+p.random.IntN(services))}}
	}
	p.api.put(s)
}

func (p *people) slice(i int) {
	tcp, port, name := corev1.ProtocolTCP, int32(8080), ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.home(0), Name: sliceName(i), Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	key := core.Key{Kind: convert.KindService, Namespace: p.home(0), Name: serviceName(i)}
	if svc, exists := p.api.objects[key]; exists {
		name = svc.(*corev1.Service).Spec.Ports[0].Name
	}
	s.Ports = []discoveryv1.EndpointPort{{Name: &name, Protocol: &tcp, Port: &port}}
	for at := range pods / podsPerIP {
		if !p.chance(0.4) {
			continue
		}
		node, addr := p.place(at * podsPerIP)
		ready, terminating := p.chance(0.8), p.chance(0.1)
		e := discoveryv1.Endpoint{
			Addresses: []string{addr}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: &terminating},
		}
		if p.chance(0.2) {
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z0"}}}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	p.api.put(s)
}

func (p *people) policy(i int) {
	tcp, port := corev1.ProtocolTCP, intstr.FromInt32(8080)
	from := []networkingv1.NetworkPolicyPeer{{PodSelector: labelled("app", fmt.Sprint("app-", p.random.IntN(3)))}}
	if p.chance(0.4) {
		from = append(from, networkingv1.NetworkPolicyPeer{NamespaceSelector: labelled("team", "team-1")})
	}
	if p.chance(0.3) {
		from = append(from, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.200.0.0/16", Except: []string{"10.200.1.0/24"}}})
	}
	rule := networkingv1.NetworkPolicyIngressRule{From: from}
	if p.chance(0.5) {
		rule.Ports = []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &port}}
	}
	o := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.home(0), Name: policyName(i)},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: *labelled("app", fmt.Sprint("app-", p.random.IntN(3))),
			Ingress:     []networkingv1.NetworkPolicyIngressRule{rule}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	if p.chance(0.3) {
		o.Spec.PolicyTypes = append(o.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	p.api.put(o)
}

func labelled(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}
