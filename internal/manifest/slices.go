// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// SliceEndpoints is how many endpoints the slices that are derived have at most, as in Kubernetes.
const SliceEndpoints = 100

// managedBy marks the slices that are derived, so that they are told from those that are given.
const managedBy = "deltaplane-lab"

// slices derives EndpointSlices for each Service with a selector and without slices of its own; see Kubernetes'
// endpointslice reconciler: pods whose named ports have different numbers are in different slices.
func (e *expansion) slices() {
	given := map[string]bool{}
	for _, slice := range e.out.EndpointSlices {
		given[slice.Namespace+"/"+slice.Labels[discoveryv1.LabelServiceName]] = true
	}
	for _, service := range e.out.Services {
		if len(service.Spec.Selector) == 0 || given[Name(service)] || service.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		for _, family := range service.Spec.IPFamilies {
			e.out.EndpointSlices = append(e.out.EndpointSlices, e.derive(service, familyNumber(family))...)
		}
	}
}

// group is the endpoints that serve a Service's ports under the same numbers.
type group struct {
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

func (e *expansion) derive(service *corev1.Service, family int) []*discoveryv1.EndpointSlice {
	groups := map[string]*group{}
	for _, pod := range e.out.Pods {
		addr, ok := e.serves(service, pod, family)
		if !ok {
			continue
		}
		ports := portsOf(service, pod)
		key := portsKey(ports)
		if groups[key] == nil {
			groups[key] = &group{ports: ports}
		}
		groups[key].endpoints = append(groups[key].endpoints, e.endpoint(service, pod, addr))
	}
	keys := make([]string, 0, len(groups))
	for key := range groups {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var made []*discoveryv1.EndpointSlice
	for _, key := range keys {
		made = append(made, e.sliceUp(service, family, key, groups[key])...)
	}
	return made
}

func (e *expansion) serves(service *corev1.Service, pod *corev1.Pod, family int) (netip.Addr, bool) {
	if pod.Namespace != service.Namespace || Finished(pod) || !labels.SelectorFromSet(service.Spec.Selector).Matches(labelSet(pod.Labels)) {
		return netip.Addr{}, false
	}
	addrs := PodAddrs(pod)
	i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return familyOfAddr(a) == family })
	if i < 0 {
		return netip.Addr{}, false
	}
	return addrs[i], true
}

func (e *expansion) endpoint(service *corev1.Service, pod *corev1.Pod, addr netip.Addr) discoveryv1.Endpoint {
	serving, terminating := Ready(pod), pod.DeletionTimestamp != nil
	readyNow := serving && !terminating || service.Spec.PublishNotReadyAddresses
	endpoint := discoveryv1.Endpoint{
		Addresses:  []string{addr.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &readyNow, Serving: &serving, Terminating: &terminating},
		NodeName:   &pod.Spec.NodeName,
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: uidOf(pod)},
	}
	if node, ok := find(e.out.Nodes, "", pod.Spec.NodeName); ok {
		if zone := node.Labels[corev1.LabelTopologyZone]; zone != "" {
			endpoint.Zone = &zone
		}
	}
	endpoint.Hints = hints(service, &endpoint)
	return endpoint
}

// portsOf resolves the Service's ports on one pod. A name that the pod doesn't have is left out.
func portsOf(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, port := range service.Spec.Ports {
		number, ok := target(port, pod)
		if !ok {
			continue
		}
		name, protocol := port.Name, protocolOf(port.Protocol)
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number, AppProtocol: port.AppProtocol})
	}
	return ports
}

func target(port corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		return cmp.Or(port.TargetPort.IntVal, port.Port), true
	}
	for container := range PortContainers(&pod.Spec) {
		for _, p := range container.Ports {
			if p.Name == port.TargetPort.StrVal && protocolOf(p.Protocol) == protocolOf(port.Protocol) {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	var text strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&text, "%s/%d/%s ", *p.Name, *p.Port, *p.Protocol)
	}
	sum := sha256.Sum256([]byte(text.String()))
	return fmt.Sprintf("%x", sum[:3])
}

// sliceUp spreads endpoints over slices of bounded size. An endpoint stays in the slice that it was in before, so
// that one pod's change touches one slice.
func (e *expansion) sliceUp(service *corev1.Service, family int, key string, g *group) []*discoveryv1.EndpointSlice {
	prefix := fmt.Sprintf("%s-ipv%d-%s-", service.Name, family, key)
	before := map[string]int{} // address → number of its slice
	for _, slice := range e.previous.EndpointSlices {
		number := -1
		if slice.Namespace != service.Namespace || !strings.HasPrefix(slice.Name, prefix) {
			continue
		}
		if _, err := fmt.Sscanf(slice.Name[len(prefix):], "%d", &number); err != nil || number < 0 {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			before[endpoint.Addresses[0]] = number
		}
	}
	numbered := map[int][]discoveryv1.Endpoint{}
	var fresh []discoveryv1.Endpoint
	for _, endpoint := range g.endpoints {
		if number, ok := before[endpoint.Addresses[0]]; ok && len(numbered[number]) < SliceEndpoints {
			numbered[number] = append(numbered[number], endpoint)
		} else {
			fresh = append(fresh, endpoint)
		}
	}
	for number := 0; len(fresh) > 0; number++ {
		n := min(len(fresh), SliceEndpoints-len(numbered[number]))
		numbered[number] = append(numbered[number], fresh[:n]...)
		fresh = fresh[n:]
	}
	var made []*discoveryv1.EndpointSlice
	for number := 0; len(numbered) > 0; number++ {
		if endpoints, ok := numbered[number]; ok {
			made = append(made, newSlice(service, family, fmt.Sprintf("%s%d", prefix, number), g.ports, endpoints))
			delete(numbered, number)
		}
	}
	return made
}

func newSlice(service *corev1.Service, family int, name string, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	controller := true
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: service.Namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: managedBy},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: service.Name, UID: uidOf(service), Controller: &controller,
			}},
		},
		AddressType: discoveryv1.AddressType(familyName(family)),
		Ports:       ports,
		Endpoints:   endpoints,
	}
}

func familyOf(addressType discoveryv1.AddressType) int {
	if addressType == discoveryv1.AddressTypeIPv4 {
		return 4
	}
	return 6
}
