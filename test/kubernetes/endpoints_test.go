// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// Row 4: a pod that is deleted gets no new connection while another is ready, and the last ones do while they serve.
// Row 5: a Service whose pods are all unready or gone refuses.
// Row 10: trafficDistribution, by the hints of Kubernetes' own controller, keeps connections in the zone or on the node.
// Row 12: publishNotReadyAddresses, several slices and Services without selector count as the API server has them.
// Trap 42: an endpoint in two slices counts at its best, and slices that come before their Service wait for it.
// Trap 43: a named port that is another number on another pod leads to each pod's own.
func TestEndpointsAsTheirControllerHasThem(t *testing.T) {
	m := NewMarket(t)
	t.Run("named ports", m.namedPorts)
	t.Run("hints", m.hints)
	t.Run("slices before their Service", m.slicesFirst)
	t.Run("several slices", m.severalSlices)
	t.Run("unready and ready", m.readiness)
	t.Run("terminating", m.terminating) // pods that it deletes don't come back
}

func (m *Market) namedPorts(t *testing.T) {
	service := m.create(t, "food", "", func(s *corev1.ServiceSpec) { s.Selector = map[string]string{"sells": "food"} })
	address := service.Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, address, "baker-1", "baker-2", "dairy")
	m.agrees(t, address)
	m.remove(t, "food")
}

func (m *Market) hints(t *testing.T) {
	address := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	for _, distribution := range []string{corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode} {
		m.change(t, "bread", func(s *corev1.ServiceSpec) { s.TrafficDistribution = &distribution })
		m.stays(t, buyer, address, "baker-1")
		m.stays(t, "node/node-2", address, "baker-2")
		m.agrees(t, address)
	}
	m.ready(t, "baker-1", false)
	m.stays(t, buyer, address, "baker-2")
	m.agrees(t, address)
	m.ready(t, "baker-1", true)
	m.stays(t, buyer, address, "baker-1")
	m.change(t, "bread", func(s *corev1.ServiceSpec) { s.TrafficDistribution = nil })
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.agrees(t, address)
	m.remove(t, "bread")
}

// stays waits until connections reach one pod a dozen times in a row.
func (m *Market) stays(t *testing.T, from, to, pod string) {
	t.Helper()
	for inRow, tries := 0, 0; inRow < 12; tries++ {
		if m.dial(t, from, to, briefly).Reached == "market/"+pod {
			inRow++
			continue
		}
		inRow = 0
		if tries > 500 {
			t.Fatalf("from %s to %s: not only %s is reached", from, to, pod)
		}
	}
}

func (m *Market) slicesFirst(t *testing.T) {
	dairy := m.podOf(t, "dairy")
	m.PutSlice(t, sliceOf("late", "late-1", 9090, true, dairy))
	const address = "10.96.8.8:80"
	m.becomes(t, buyer, address, agent.Timeout)
	m.create(t, "late", "", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.8.8" })
	m.becomes(t, buyer, address, agent.OK, "dairy")
	m.agrees(t, address)
	fatal(t, m.Client.DiscoveryV1().EndpointSlices("market").Delete(t.Context(), "late-1", metav1.DeleteOptions{}))
	m.becomes(t, buyer, address, agent.Refused)
	m.agrees(t, address)
	m.remove(t, "late")
}

func (m *Market) severalSlices(t *testing.T) {
	baker := m.podOf(t, "baker-1")
	address := m.create(t, "bread", "", nil).Spec.ClusterIP + ":80"
	m.PutSlice(t, sliceOf("bread", "bread-1", 8080, false, baker))
	m.becomes(t, buyer, address, agent.Refused)
	m.PutSlice(t, sliceOf("bread", "bread-2", 8080, true, baker))
	m.becomes(t, buyer, address, agent.OK, "baker-1")
	m.agrees(t, address)
	m.PutSlice(t, sliceOf("bread", "bread-1", 8080, true, baker))
	m.PutSlice(t, sliceOf("bread", "bread-2", 8080, false, baker))
	m.becomes(t, buyer, address, agent.OK, "baker-1")
	m.agrees(t, address)
	m.remove(t, "bread")
	m.becomes(t, buyer, address, agent.Timeout)
}

func sliceOf(service, name string, port int32, ready bool, pod *corev1.Pod) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "market", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: &port, Protocol: new(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{pod.Status.PodIP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: &pod.Spec.NodeName,
		}},
	}
}

func (m *Market) readiness(t *testing.T) {
	address := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.ready(t, "baker-1", false)
	m.stays(t, buyer, address, "baker-2")
	m.agrees(t, address)
	m.ready(t, "baker-2", false)
	m.becomes(t, buyer, address, agent.Refused)
	m.agrees(t, address)
	m.change(t, "bread", func(s *corev1.ServiceSpec) { s.PublishNotReadyAddresses = true })
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.agrees(t, address)
	m.change(t, "bread", func(s *corev1.ServiceSpec) { s.PublishNotReadyAddresses = false })
	m.becomes(t, buyer, address, agent.Refused)
	m.ready(t, "baker-1", true)
	m.ready(t, "baker-2", true)
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.agrees(t, address)
	m.remove(t, "bread")
}

// A pod that is deleted stays as long as its grace, and here nobody ends it: the lab's server goes on to answer.
func (m *Market) terminating(t *testing.T) {
	address := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.end(t, "baker-1", 300)
	m.stays(t, buyer, address, "baker-2")
	m.agrees(t, address)
	m.end(t, "baker-2", 300)
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.agrees(t, address)
	m.ready(t, "baker-1", false) // it has stopped serving
	m.stays(t, buyer, address, "baker-2")
	m.agrees(t, address)
	m.end(t, "baker-1", 0)
	m.end(t, "baker-2", 0)
	m.becomes(t, buyer, address, agent.Refused)
	m.agrees(t, address)
	m.remove(t, "bread")
}

func (m *Market) end(t *testing.T, pod string, grace int64) {
	t.Helper()
	fatal(t, m.Client.CoreV1().Pods("market").Delete(t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &grace}))
}
