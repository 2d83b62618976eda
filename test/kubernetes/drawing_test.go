// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Drawing draws objects that often meet: few labels, few ports, few addresses.
type Drawing struct{ *rand.Rand }

// oneOf draws one of several.
func oneOf[E any](d Drawing, choices ...E) E { return choices[d.IntN(len(choices))] }

// often draws true in so many of ten.
func (d Drawing) often(tenths int) bool { return d.IntN(10) < tenths }

var (
	districts = []string{"east", "north", "west"}
	blocks    = []string{
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.244.0.0/16", "10.244.7.0/28", "10.244.7.8/29", "10.244.7.3/32", "172.30.0.0/16", "192.0.2.0/24",
		"192.0.2.128/25", "fd00::/16", "fd00:10:244:7::/64", "fd00:10:244:7::8/125", "2001:db8::/32", "128.0.0.0/1", "::/1",
	}
)

func (d Drawing) labels() map[string]string {
	all := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if d.often(7) {
			all[key] = oneOf(d, "a", "b", "")
		}
	}
	return all
}

// pod draws a pod; which addresses it has is not in its specification.
func (d Drawing) pod(name, node string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: oneOf(d, districts...), Name: name, Labels: d.labels()},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: d.IntN(12) == 0, TerminationGracePeriodSeconds: new(int64(300)),
			Containers: []corev1.Container{{Name: "main", Image: "none", Ports: d.containerPorts()}},
		},
	}
	if d.often(2) {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "second", Image: "none", Ports: d.containerPorts()})
	}
	if d.often(2) {
		initial := corev1.Container{Name: "sidecar", Image: "none", Ports: d.containerPorts()}
		if d.often(7) {
			initial.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		pod.Spec.InitContainers = []corev1.Container{initial}
	}
	return pod
}

func (d Drawing) containerPorts() (ports []corev1.ContainerPort) {
	for _, name := range []string{"http", "dns"} {
		if d.often(5) {
			ports = append(ports, corev1.ContainerPort{
				Name: name, ContainerPort: oneOf[int32](d, 53, 80, 81, 8080), Protocol: oneOf(d, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP),
			})
		}
	}
	return ports
}

// addresses draws of few, so that pods get those of others that went.
func (d Drawing) addresses() (ips []corev1.PodIP) {
	last, families := 1+d.IntN(14), oneOf(d, 4, 6, 46, 46)
	if families != 6 {
		ips = append(ips, corev1.PodIP{IP: fmt.Sprint("10.244.7.", last)})
	}
	if families != 4 {
		ips = append(ips, corev1.PodIP{IP: fmt.Sprintf("fd00:10:244:7::%x", last)})
	}
	return ips
}

func (d Drawing) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if d.often(4) {
		s.MatchLabels = map[string]string{oneOf(d, "app", "tier"): oneOf(d, "a", "b", "")}
	}
	for d.often(4) {
		e := metav1.LabelSelectorRequirement{
			Key:      oneOf(d, "app", "tier"),
			Operator: oneOf(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist),
		}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = []string{oneOf(d, "a", "b", "")}
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

// namespaces draws a selector of namespaces, now and then one by name.
func (d Drawing) namespaces() *metav1.LabelSelector {
	if d.often(3) {
		return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: oneOf(d, districts...)}}
	}
	return d.selector()
}

// policy draws a NetworkPolicy that an API server takes, with all the defaults left to it.
func (d Drawing) policy(name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: oneOf(d, districts...), Name: name}}
	p.Spec.PodSelector = *d.selector()
	for range d.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()})
	}
	for range d.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()})
	}
	p.Spec.PolicyTypes = oneOf(d, nil, nil, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		[]networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress})
	return p
}

func (d Drawing) peers() (peers []networkingv1.NetworkPolicyPeer) {
	for range d.IntN(3) {
		var p networkingv1.NetworkPolicyPeer
		switch d.IntN(4) {
		case 0:
			p.PodSelector = d.selector()
		case 1:
			p.NamespaceSelector = d.namespaces()
		case 2:
			p.NamespaceSelector, p.PodSelector = d.namespaces(), d.selector()
		default:
			p.IPBlock = &networkingv1.IPBlock{CIDR: oneOf(d, blocks...)}
			for range d.IntN(3) {
				if except := oneOf(d, blocks...); inside(except, p.IPBlock.CIDR) {
					p.IPBlock.Except = append(p.IPBlock.Except, except)
				}
			}
		}
		peers = append(peers, p)
	}
	return peers
}

// inside says whether a prefix is a part of another, and not all of it.
func inside(prefix, of string) bool {
	p, o := netip.MustParsePrefix(prefix), netip.MustParsePrefix(of)
	return o.Overlaps(p) && p.Bits() > o.Bits()
}

func (d Drawing) ports() (ports []networkingv1.NetworkPolicyPort) {
	for range d.IntN(3) {
		var p networkingv1.NetworkPolicyPort
		if d.often(6) {
			p.Protocol = new(oneOf(d, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP))
		}
		switch d.IntN(5) {
		case 0:
		case 1:
			p.Port = new(intstr.FromString(oneOf(d, "http", "dns", "none")))
		case 2:
			first := oneOf[int32](d, 1, 52, 80, 443)
			p.Port, p.EndPort = new(intstr.FromInt32(first)), new(oneOf(d, first, first+1, 8080, 65535))
		default:
			p.Port = new(intstr.FromInt32(oneOf[int32](d, 53, 80, 8080)))
		}
		ports = append(ports, p)
	}
	return ports
}
