// SPDX-License-Identifier: Apache-2.0

package directory

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

// derive makes the EndpointSlices that Kubernetes' endpointslice controller would make: of Pods that have a node and
// an address, for Services that have a selector, an address and no slices of their own. An endpoint stays in the
// slice that it was in among before, so that one Pod's change touches one slice.
func derive(objects, before []manifest.Object) []manifest.Object {
	view, given := viewOf(objects), map[string]bool{}
	for _, slice := range view.EndpointSlices {
		given[manifest.Name(slice)] = true
	}
	previous := &manifest.Objects{}
	for _, slice := range before {
		previous.EndpointSlices = append(previous.EndpointSlices, slice.(*discoveryv1.EndpointSlice))
	}
	expanded, err := manifest.Expand(view, manifest.Options{Previous: previous})
	if err != nil {
		return before // Only for want of addresses to give, and nothing in the view needs one.
	}
	var out []manifest.Object
	for _, slice := range expanded.EndpointSlices {
		if !given[manifest.Name(slice)] {
			out = append(out, slice)
		}
	}
	return out
}

// viewOf keeps what slices are made of, and nothing that would be given an address or a node.
func viewOf(objects []manifest.Object) *manifest.Objects {
	view, nodes := &manifest.Objects{}, map[string]bool{}
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.Node:
			nodes[o.Name] = true
			view.Nodes = append(view.Nodes, stub(o.Name, o.Labels))
		case *corev1.Pod:
			if o.Spec.NodeName != "" && len(manifest.PodAddrs(o)) > 0 {
				view.Pods = append(view.Pods, o)
			}
		case *corev1.Service:
			if len(o.Spec.Selector) > 0 && hasAddress(o) {
				view.Services = append(view.Services, o)
			}
		case *discoveryv1.EndpointSlice:
			view.EndpointSlices = append(view.EndpointSlices, o)
		}
	}
	for _, pod := range view.Pods {
		if name := pod.Spec.NodeName; !nodes[name] {
			nodes[name] = true
			view.Nodes = append(view.Nodes, stub(name, nil))
		}
	}
	return view
}

// stub is a Node that lacks nothing which manifest would make up. Its labels are what counts: they name the zone.
func stub(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"192.0.2.0/24"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	}
}

func hasAddress(s *corev1.Service) bool {
	address := s.Spec.ClusterIP
	if len(s.Spec.ClusterIPs) > 0 {
		address = s.Spec.ClusterIPs[0]
	}
	return address != "" && address != corev1.ClusterIPNone
}
