// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// validService follows ValidateService of k8s.io/kubernetes pkg/apis/core/validation.
func validService(s *corev1.Service) error {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		if s.Spec.ExternalName == "" {
			return errors.New("spec.externalName is missing")
		}
		return nil
	}
	if err := oneOf("spec.type", string(s.Spec.Type), "", "ClusterIP", "NodePort", "LoadBalancer"); err != nil {
		return err
	}
	for i, ip := range clusterIPs(s) {
		if ip == corev1.ClusterIPNone && i == 0 {
			continue
		}
		if err := validAddr(fmt.Sprintf("spec.clusterIPs[%d]", i), ip, 0); err != nil {
			return err
		}
	}
	if len(s.Spec.Ports) == 0 && s.Spec.ClusterIP != corev1.ClusterIPNone {
		return errors.New("spec.ports is missing: a Service without ports reaches nothing")
	}
	if policy := s.Spec.IPFamilyPolicy; policy != nil {
		if err := oneOf("spec.ipFamilyPolicy", string(*policy), "SingleStack", "PreferDualStack", "RequireDualStack"); err != nil {
			return err
		}
	}
	for i, family := range s.Spec.IPFamilies {
		if err := oneOf(fmt.Sprintf("spec.ipFamilies[%d]", i), string(family), "IPv4", "IPv6"); err != nil {
			return err
		}
	}
	return first(func() error { return validServicePorts(s.Spec.Ports) }, func() error { return validNodePorts(s) },
		func() error { return validOutside(s) }, func() error { return validAffinity(&s.Spec) })
}

// first returns the first error that one of the checks gives.
func first(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// validNodePorts refuses ports of nodes where nodes have none, and one that stands there twice for a protocol.
func validNodePorts(s *corev1.Service) error {
	served := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
	numbers := map[string]bool{}
	for i, port := range s.Spec.Ports {
		if port.NodePort == 0 {
			continue
		}
		field := fmt.Sprintf("spec.ports[%d].nodePort", i)
		number := fmt.Sprintf("%d/%s", port.NodePort, protocolOf(port.Protocol))
		switch err := validPort(field, port.NodePort); {
		case err != nil:
			return err
		case !served:
			return fmt.Errorf("%s: %d is for type NodePort or LoadBalancer only", field, port.NodePort)
		case numbers[number]:
			return fmt.Errorf("%s: %s is here twice", field, number)
		}
		numbers[number] = true
	}
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		if !needsHealthCheck(s) {
			return fmt.Errorf("spec.healthCheckNodePort: %d is for type LoadBalancer with externalTrafficPolicy Local only", port)
		}
		return validPort("spec.healthCheckNodePort", port)
	}
	return nil
}

// validOutside checks how a Service is reached from outside, and by whom.
func validOutside(s *corev1.Service) error {
	for i, ip := range s.Spec.ExternalIPs {
		if err := validAddr(fmt.Sprintf("spec.externalIPs[%d]", i), ip, 0); err != nil {
			return err
		}
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		field := fmt.Sprintf("status.loadBalancer.ingress[%d]", i)
		if in.IP == "" && in.Hostname == "" {
			return fmt.Errorf("%s: has no ip and no hostname", field)
		}
		if in.IP != "" {
			if err := validAddr(field+".ip", in.IP, 0); err != nil {
				return err
			}
		}
		if in.IPMode != nil {
			if err := oneOf(field+".ipMode", string(*in.IPMode), "VIP", "Proxy"); err != nil {
				return err
			}
		}
	}
	for i, text := range s.Spec.LoadBalancerSourceRanges {
		if _, err := netip.ParsePrefix(strings.TrimSpace(text)); err != nil {
			return fmt.Errorf("spec.loadBalancerSourceRanges[%d]: %q is no CIDR such as 203.0.113.0/24", i, text)
		}
	}
	if len(s.Spec.LoadBalancerSourceRanges) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return errors.New("spec.loadBalancerSourceRanges: is for type LoadBalancer only")
	}
	return validPolicies(&s.Spec)
}

func validPolicies(spec *corev1.ServiceSpec) error {
	if p := spec.InternalTrafficPolicy; p != nil {
		if err := oneOf("spec.internalTrafficPolicy", string(*p), "Cluster", "Local"); err != nil {
			return err
		}
	}
	outside := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || len(spec.ExternalIPs) > 0
	if p := spec.ExternalTrafficPolicy; p != "" {
		if err := oneOf("spec.externalTrafficPolicy", string(p), "Cluster", "Local"); err != nil {
			return err
		}
		if !outside {
			return errors.New("spec.externalTrafficPolicy: is for type NodePort or LoadBalancer, or with externalIPs, only")
		}
	}
	if d := spec.TrafficDistribution; d != nil {
		return oneOf("spec.trafficDistribution", *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
	return nil
}

func validAffinity(spec *corev1.ServiceSpec) error {
	if err := oneOf("spec.sessionAffinity", string(spec.SessionAffinity), "", "None", "ClientIP"); err != nil {
		return err
	}
	config := spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return nil
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errors.New("spec.sessionAffinityConfig: is for sessionAffinity ClientIP only")
	}
	if seconds := *config.ClientIP.TimeoutSeconds; seconds < 1 || seconds > 86_400 {
		return fmt.Errorf("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d: want 1 to 86400", seconds)
	}
	return nil
}

func validServicePorts(ports []corev1.ServicePort) error {
	names, numbers := map[string]bool{}, map[string]bool{}
	for i, port := range ports {
		field := fmt.Sprintf("spec.ports[%d]", i)
		err := errors.Join(validPort(field+".port", port.Port), validProtocol(field+".protocol", port.Protocol),
			validTarget(field+".targetPort", port.TargetPort))
		if err != nil {
			return err
		}
		if port.Name == "" && len(ports) > 1 {
			return fmt.Errorf("%s.name is missing: with several ports each needs a name", field)
		}
		number := fmt.Sprintf("%d/%s", port.Port, protocolOf(port.Protocol))
		if names[port.Name] || numbers[number] {
			return fmt.Errorf("%s: name %q or port %s is here twice", field, port.Name, number)
		}
		names[port.Name], numbers[number] = true, true
	}
	return nil
}
