// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/deltaplane/deltaplane/schemas"
)

// maxAffinitySeconds is a day: the longest that Kubernetes lets a client keep its backend.
const maxAffinitySeconds = 86_400

// expose adds what a Service with an address has beside that address. The rules are those by which kube-proxy reads a
// Service (k8s.io/kubernetes pkg/proxy/serviceport.go, pkg/api/v1/service/util.go).
func expose(s *corev1.Service, out *schemas.Service) error {
	var err error
	if out.ExternalIps, err = externalIPs(s.Spec.ExternalIPs); err != nil {
		return err
	}
	if out.LoadBalancerIps, err = loadBalancerIPs(s.Status.LoadBalancer.Ingress); err != nil {
		return err
	}
	if out.SourceRanges, err = sourceRanges(s); err != nil {
		return err
	}
	if out.AffinitySeconds, err = affinity(&s.Spec); err != nil {
		return err
	}
	if err := nodePorts(s, out.Ports); err != nil {
		return err
	}
	return policies(&s.Spec, out)
}

// externalIPs takes what the API takes: no address that means something on one machine or link only.
func externalIPs(texts []string) ([][]byte, error) {
	var out [][]byte
	for i, text := range texts {
		addr, err := unicast(text)
		if err == nil && addr.IsLinkLocalUnicast() {
			err = fmt.Errorf("%s is a link-local address, which other nodes can't reach", addr)
		}
		if err != nil {
			return nil, fmt.Errorf("spec.externalIPs[%d]: %w", i, err)
		}
		out = appendOnce(out, addr)
	}
	return out, nil
}

// loadBalancerIPs leaves out balancers that are known by a name, and those that deliver to nodes or pods under another
// address (ipMode Proxy, KEP-1860): connections to these must pass the balancer.
func loadBalancerIPs(ingress []corev1.LoadBalancerIngress) ([][]byte, error) {
	var out [][]byte
	for i, in := range ingress {
		field := fmt.Sprintf("status.loadBalancer.ingress[%d]", i)
		switch mode := value(in.IPMode); mode {
		case corev1.LoadBalancerIPModeVIP, "":
		case corev1.LoadBalancerIPModeProxy:
			continue
		default:
			return nil, fmt.Errorf("%s.ipMode: %q is not VIP or Proxy", field, mode)
		}
		if in.IP == "" {
			continue
		}
		addr, err := unicast(in.IP)
		if err != nil {
			return nil, fmt.Errorf("%s.ip: %w", field, err)
		}
		out = appendOnce(out, addr)
	}
	return out, nil
}

func appendOnce(to [][]byte, addr netip.Addr) [][]byte {
	raw := addr.AsSlice()
	if slices.ContainsFunc(to, func(have []byte) bool { return slices.Equal(have, raw) }) {
		return to
	}
	return append(to, raw)
}

// sourceRanges returns spec.loadBalancerSourceRanges. The annotation that was there before it is for clouds' balancers:
// kube-proxy doesn't read it.
func sourceRanges(s *corev1.Service) ([]string, error) {
	var out []string
	for i, text := range s.Spec.LoadBalancerSourceRanges {
		prefix, err := prefixOf(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("spec.loadBalancerSourceRanges[%d]: %w", i, err)
		}
		if !slices.Contains(out, prefix.String()) {
			out = append(out, prefix.String())
		}
	}
	return out, nil
}

func affinity(spec *corev1.ServiceSpec) (seconds uint32, err error) {
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone, "":
		return 0, nil
	case corev1.ServiceAffinityClientIP:
	default:
		return 0, fmt.Errorf("spec.sessionAffinity: %q is not None or ClientIP", spec.SessionAffinity)
	}
	timeout := corev1.DefaultClientIPServiceAffinitySeconds
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		timeout = *c.ClientIP.TimeoutSeconds
	}
	if timeout < 1 || timeout > maxAffinitySeconds {
		return 0, fmt.Errorf("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not between 1 and %d", timeout, maxAffinitySeconds)
	}
	return uint32(timeout), nil
}

// nodePorts adds each port's nodePort, also where none would be allocated (allocateLoadBalancerNodePorts): then it was
// asked for.
func nodePorts(s *corev1.Service, to []*schemas.ServicePort) error {
	taken := map[string]bool{}
	for i, p := range s.Spec.Ports {
		if p.NodePort == 0 {
			continue
		}
		field := fmt.Sprintf("spec.ports[%d].nodePort", i)
		port, err := portOf(p.NodePort)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			return fmt.Errorf("%s: %d is for type NodePort or LoadBalancer only", field, port)
		}
		key := fmt.Sprint(to[i].GetProtocol(), port)
		if taken[key] {
			return fmt.Errorf("%s: %d is taken by an earlier port of the same protocol", field, port)
		}
		taken[key] = true
		to[i].NodePort = port
	}
	return nil
}

// policies adds the traffic policies; the one for outside says nothing where nothing is reached from outside.
func policies(spec *corev1.ServiceSpec, out *schemas.Service) error {
	internal := cmp.Or(value(spec.InternalTrafficPolicy), corev1.ServiceInternalTrafficPolicyCluster)
	if internal != corev1.ServiceInternalTrafficPolicyCluster && internal != corev1.ServiceInternalTrafficPolicyLocal {
		return fmt.Errorf("spec.internalTrafficPolicy: %q is not Cluster or Local", internal)
	}
	external := cmp.Or(spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	if external != corev1.ServiceExternalTrafficPolicyCluster && external != corev1.ServiceExternalTrafficPolicyLocal {
		return fmt.Errorf("spec.externalTrafficPolicy: %q is not Cluster or Local", external)
	}
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	outside := balanced || spec.Type == corev1.ServiceTypeNodePort || len(spec.ExternalIPs) > 0
	out.InternalLocal = internal == corev1.ServiceInternalTrafficPolicyLocal
	out.ExternalLocal = outside && external == corev1.ServiceExternalTrafficPolicyLocal
	if !balanced || !out.ExternalLocal || spec.HealthCheckNodePort == 0 {
		return nil
	}
	var err error
	if out.HealthCheckNodePort, err = portOf(spec.HealthCheckNodePort); err != nil {
		return fmt.Errorf("spec.healthCheckNodePort: %w", err)
	}
	return nil
}
