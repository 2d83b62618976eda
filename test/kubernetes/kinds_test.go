// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Row 7: ports that the API server allocates are served on each node's address, and no longer when they are given up.
// Row 8: addresses in status.loadBalancer and allowed externalIPs lead to the Service; ipMode Proxy is left alone.
// Row 9: the API server's healthCheckNodePort comes with externalTrafficPolicy Local and goes with it.
// Row 11: affinity that is switched on holds for clients that come again, and ends when it is switched off.
// Row 22: a Service's families are given, taken and turned round as the API server has them.
// Trap 41: a Service that becomes another kind, swaps its NodePort with another or comes again with the same address
// is served as it is now.
func TestServicesAsTheAPIServerHasThem(t *testing.T) {
	m := NewMarket(t)
	t.Run("headless and back", m.headless)
	t.Run("ExternalName and back", m.externalName)
	t.Run("ClusterIP, NodePort, LoadBalancer and back", m.upAndDown)
	t.Run("NodePorts are swapped in one batch", m.swap)
	t.Run("the same address comes again in one batch", m.again)
	t.Run("families", m.families)
	t.Run("externalIPs", m.externalIPs)
	t.Run("sessionAffinity", m.affinity)
	t.Run("traffic policies", m.policies)
	t.Run("a range of addresses is added", m.addRange)
}

// A Service can't change between headless and not: it is made again.
func (m *Market) headless(t *testing.T) {
	before := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, before, "baker-1", "baker-2")
	m.agrees(t, before)
	m.remove(t, "bread")
	m.create(t, "bread", "baker", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	m.becomes(t, buyer, before, agent.Timeout)
	m.agrees(t, before)
	m.remove(t, "bread")
	after := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, after, "baker-1", "baker-2")
	m.agrees(t, after)
	m.remove(t, "bread")
}

func (m *Market) externalName(t *testing.T) {
	before := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.becomes(t, buyer, before, agent.OK)
	m.change(t, "bread", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName, s.ClusterIP, s.ClusterIPs = corev1.ServiceTypeExternalName, "bread.example.com", "", nil
		s.IPFamilies, s.IPFamilyPolicy = nil, nil
	})
	m.becomes(t, buyer, before, agent.Timeout)
	m.agrees(t, before)
	after := m.change(t, "bread", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName = corev1.ServiceTypeClusterIP, ""
	}).Spec.ClusterIP + ":80"
	m.becomes(t, buyer, after, agent.OK)
	m.agrees(t, after)
	m.remove(t, "bread")
}

func (m *Market) upAndDown(t *testing.T) {
	address := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.becomes(t, buyer, address, agent.OK)
	nodePort := m.change(t, "bread", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }).Spec.Ports[0].NodePort
	onNode := fmt.Sprintf("%s:%d", m.nodeAddress(t, "node-1"), nodePort)
	m.becomes(t, outside, onNode, agent.OK)
	m.agrees(t, address, onNode)

	ranges := []string{outsider + "/32"}
	m.change(t, "bread", func(s *corev1.ServiceSpec) {
		s.Type, s.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, ranges
	})
	m.balance(t, "bread", corev1.LoadBalancerIngress{IP: "198.51.100.7", IPMode: new(corev1.LoadBalancerIPModeProxy)})
	m.becomes(t, outside, onNode, agent.OK)
	if got := m.dial(t, outside, "198.51.100.7:80", briefly); got.Outcome == agent.OK {
		t.Errorf("ipMode Proxy: %+v, want that nobody answers", got)
	}
	m.balance(t, "bread", corev1.LoadBalancerIngress{IP: "198.51.100.7", IPMode: new(corev1.LoadBalancerIPModeVIP)})
	m.becomes(t, outside, "198.51.100.7:80", agent.OK)
	m.agrees(t, address, onNode, "198.51.100.7:80")
	if got := m.dial(t, buyer, "198.51.100.7:80", briefly); got.Outcome != agent.Timeout {
		t.Errorf("a pod that is in no source range: %+v, want a timeout", got)
	}

	m.change(t, "bread", func(s *corev1.ServiceSpec) { s.Type, s.LoadBalancerSourceRanges = corev1.ServiceTypeNodePort, nil })
	m.balance(t, "bread")
	testkit.Eventually(t, soon, func() bool { return m.dial(t, outside, "198.51.100.7:80", briefly).Outcome != agent.OK })
	m.becomes(t, outside, onNode, agent.OK)
	m.agrees(t, address, onNode)
	m.change(t, "bread", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0 })
	m.becomes(t, outside, onNode, agent.Refused)
	m.agrees(t, address)
	m.remove(t, "bread")
}

// The API server gives a port to one Service at a time; a compiler that was busy sees only how it ends.
func (m *Market) swap(t *testing.T) {
	onNodes := func(port int32) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, port }
	}
	m.create(t, "bread", "baker", onNodes(30001))
	m.create(t, "milk", "dairy", onNodes(30002))
	node := m.nodeAddress(t, "node-1")
	first, second := node+":30001", node+":30002"
	m.becomes(t, outside, first, agent.OK, "baker-1", "baker-2")
	m.becomes(t, outside, second, agent.OK, "dairy")

	thaw := m.Freeze(t, "compiler")
	m.change(t, "bread", onNodes(30003))
	m.change(t, "milk", onNodes(30001))
	m.change(t, "bread", onNodes(30002))
	thaw()
	m.becomes(t, outside, first, agent.OK, "dairy")
	m.becomes(t, outside, second, agent.OK, "baker-1", "baker-2")
	m.agrees(t, first, second)
	m.remove(t, "bread", "milk")
	m.becomes(t, outside, first, agent.Refused)
}

func (m *Market) again(t *testing.T) {
	const address = "10.96.7.7"
	fixed := func(s *corev1.ServiceSpec) { s.ClusterIP = address }
	m.create(t, "bread", "baker", fixed)
	m.becomes(t, buyer, address+":80", agent.OK, "baker-1", "baker-2")

	thaw := m.Freeze(t, "compiler")
	m.remove(t, "bread")
	m.create(t, "bread", "dairy", fixed)
	thaw()
	m.becomes(t, buyer, address+":80", agent.OK, "dairy")
	m.agrees(t, address+":80", address+":81")

	thaw = m.Freeze(t, "compiler") // now under another name
	m.remove(t, "bread")
	m.create(t, "milk", "baker", fixed)
	thaw()
	m.becomes(t, buyer, address+":80", agent.OK, "baker-1", "baker-2")
	m.agrees(t, address+":80")
	m.remove(t, "milk")
	m.becomes(t, buyer, address+":80", agent.Timeout)
}

// A Service keeps its first family for life; the second comes and goes.
func (m *Market) families(t *testing.T) {
	both := func(first, second corev1.IPFamily) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) {
			s.IPFamilyPolicy, s.IPFamilies = new(corev1.IPFamilyPolicyRequireDualStack), []corev1.IPFamily{first, second}
		}
	}
	ips := m.create(t, "bread", "baker", both(corev1.IPv4Protocol, corev1.IPv6Protocol)).Spec.ClusterIPs
	v4, v6 := ips[0]+":80", "["+ips[1]+"]:80"
	m.becomes(t, buyer, v6, agent.OK)
	m.agrees(t, v4, v6)
	m.change(t, "bread", func(s *corev1.ServiceSpec) {
		s.IPFamilyPolicy, s.IPFamilies, s.ClusterIPs = new(corev1.IPFamilyPolicySingleStack), s.IPFamilies[:1], s.ClusterIPs[:1]
	})
	m.becomes(t, buyer, v6, agent.Timeout)
	m.agrees(t, v4, v6)
	m.remove(t, "bread")
	m.create(t, "bread", "baker", func(s *corev1.ServiceSpec) {
		both(corev1.IPv6Protocol, corev1.IPv4Protocol)(s)
		s.ClusterIPs = []string{ips[1], ips[0]}
		s.ClusterIP = ips[1]
	})
	m.becomes(t, buyer, v6, agent.OK)
	m.becomes(t, buyer, v4, agent.OK)
	m.agrees(t, v4, v6)
	m.remove(t, "bread")
}

func (m *Market) externalIPs(t *testing.T) {
	m.create(t, "bread", "baker", func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"203.0.113.9", "192.0.2.9"} })
	m.becomes(t, outside, "203.0.113.9:80", agent.OK)
	m.agrees(t, "203.0.113.9:80")
	for _, line := range told(m.bus.Actual(t, "node-1")) {
		if strings.Contains(line, "192.0.2.9") {
			t.Errorf("an address that isn't allowed is served: %s", line)
		}
	}
	m.remove(t, "bread")
}

func (m *Market) affinity(t *testing.T) {
	address := m.create(t, "bread", "baker", nil).Spec.ClusterIP + ":80"
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.change(t, "bread", func(s *corev1.ServiceSpec) {
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(77))}}
	})
	m.tells(t, "affinity 77 s")
	first := m.dial(t, buyer, address, soon).Reached
	for range 12 {
		if got := m.dial(t, buyer, address, soon).Reached; got != first {
			t.Errorf("%s after %s, want the same again", got, first)
		}
	}
	m.agrees(t, address)
	m.change(t, "bread", func(s *corev1.ServiceSpec) {
		s.SessionAffinity, s.SessionAffinityConfig = corev1.ServiceAffinityNone, nil
	})
	m.reachesAll(t, buyer, address, "baker-1", "baker-2")
	m.agrees(t, address)
	m.remove(t, "bread")
}

func (m *Market) policies(t *testing.T) {
	service := m.create(t, "milk", "dairy", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer })
	address := service.Spec.ClusterIP + ":80"
	onNode := fmt.Sprintf("%s:%d", m.nodeAddress(t, "node-1"), service.Spec.Ports[0].NodePort)
	m.becomes(t, outside, onNode, agent.OK)

	service = m.change(t, "milk", func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	m.becomes(t, outside, onNode, agent.Timeout) // the dairy is on node-2
	m.becomes(t, buyer, onNode, agent.OK)
	m.tells(t, fmt.Sprintf("health check %d: market/milk", service.Spec.HealthCheckNodePort))
	m.agrees(t, address, onNode)

	m.change(t, "milk", func(s *corev1.ServiceSpec) { s.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal) })
	m.becomes(t, buyer, address, agent.Timeout)
	m.becomes(t, "node/node-2", address, agent.OK)
	m.agrees(t, address, onNode)

	m.change(t, "milk", func(s *corev1.ServiceSpec) {
		s.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	})
	m.becomes(t, buyer, address, agent.OK)
	m.becomes(t, outside, onNode, agent.OK)
	m.agrees(t, address, onNode)
	if rows := m.bus.Actual(t, "node-1"); len(rows.HealthChecks) > 0 {
		t.Errorf("health checks %v, want none: the policy is Cluster again", rows.HealthChecks)
	}
	m.remove(t, "milk")
}

// A Service out of a new range says that there is one, and from then on its other addresses lead nowhere.
func (m *Market) addRange(t *testing.T) {
	ranges := m.Client.NetworkingV1().ServiceCIDRs()
	_, err := ranges.Create(t.Context(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/24"}},
	}, metav1.CreateOptions{})
	fatal(t, err)
	testkit.Eventually(t, soon, func() bool { // until the API server's allocator has heard of it
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "market", Name: "bread"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.97.0.7", Selector: map[string]string{"app": "baker"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: named("http")}}},
		}
		_, err := m.Client.CoreV1().Services("market").Create(t.Context(), service, metav1.CreateOptions{})
		return err == nil
	})
	m.becomes(t, buyer, "10.97.0.7:80", agent.OK)
	m.tells(t, fmt.Sprintf("network 10.97.0.0/24: kind %d", model.NetworkServices))
	m.agrees(t, "10.97.0.7:80", "10.97.0.8:80")
	m.remove(t, "bread")
}

// tells waits until the kernel of node-1 holds a row.
func (m *Market) tells(t *testing.T, row string) {
	t.Helper()
	testkit.Eventually(t, soon, func() bool { return strings.Contains(strings.Join(told(m.bus.Actual(t, "node-1")), "\n"), row) })
}

func (m *Market) nodeAddress(t *testing.T, name string) string {
	t.Helper()
	node, err := m.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	return node.Status.Addresses[0].Address
}

func named(port string) intstr.IntOrString { return intstr.FromString(port) }
