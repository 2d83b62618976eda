// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// hints returns for whose clients an endpoint is meant, as the EndpointSlice controller works it out of
// spec.trafficDistribution: those of its own zone, and with PreferSameNode those of its own node too
// (k8s.io/endpointslice/trafficdist). Nil is everyone.
func hints(service *corev1.Service, endpoint *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	distribution := service.Spec.TrafficDistribution
	if distribution == nil || !*endpoint.Conditions.Ready {
		return nil
	}
	var h discoveryv1.EndpointHints
	if endpoint.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *endpoint.Zone}}
	}
	if *distribution == corev1.ServiceTrafficDistributionPreferSameNode && endpoint.NodeName != nil {
		h.ForNodes = []discoveryv1.ForNode{{Name: *endpoint.NodeName}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}
