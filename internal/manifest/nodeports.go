// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// The ports that Nodes give to Services that name none: Kubernetes' range without its first part, which it leaves to
// people who write ports down (KEP-3668).
const (
	firstNodePort = 30_086
	lastNodePort  = 32_767
)

// nodePorts gives each Service that nodes serve the ports that it asks for, that it had before, or that are free, in
// this order. A free one is looked for from a place that the Service's name says, so that it doesn't depend on the
// other Services unless they meet.
func (e *expansion) nodePorts() {
	taken := map[int32]string{} // port → the Service that has it
	for _, service := range slices.Clone(e.out.Services) {
		if err := claimNodePorts(taken, service); err != nil {
			e.setAside(service, err)
		}
	}
	for _, service := range e.out.Services {
		if before, ok := find(e.previous.Services, service.Namespace, service.Name); ok {
			keepNodePorts(taken, service, before)
		}
	}
	for _, service := range slices.Clone(e.out.Services) {
		if err := giveNodePorts(taken, service); err != nil {
			e.setAside(service, err)
		}
	}
}

// onNodes says whether each of the Service's ports has a nodePort.
func onNodes(service *corev1.Service) bool {
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return service.Spec.AllocateLoadBalancerNodePorts == nil || *service.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

// needsHealthCheck says whether load balancers must know which nodes have backends of the Service.
func needsHealthCheck(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// claimNodePorts marks the ports that a Service names. One port may stand for several protocols of one Service.
func claimNodePorts(taken map[int32]string, service *corev1.Service) error {
	claim := func(field string, port int32) error {
		if owner := taken[port]; port != 0 && owner != "" && owner != Name(service) {
			return fmt.Errorf("%s: %d is taken by Service %s", field, port, owner)
		}
		return nil
	}
	for i, port := range service.Spec.Ports {
		if err := claim(fmt.Sprintf("spec.ports[%d].nodePort", i), port.NodePort); err != nil {
			return err
		}
	}
	if err := claim("spec.healthCheckNodePort", service.Spec.HealthCheckNodePort); err != nil {
		return err
	}
	for _, port := range append(portsOnNodes(service), service.Spec.HealthCheckNodePort) {
		if port != 0 {
			taken[port] = Name(service)
		}
	}
	return nil
}

func portsOnNodes(service *corev1.Service) (ports []int32) {
	for _, port := range service.Spec.Ports {
		ports = append(ports, port.NodePort)
	}
	return ports
}

// keepNodePorts carries over what a Service had for the same port and protocol.
func keepNodePorts(taken map[int32]string, service, before *corev1.Service) {
	keep := func(port *int32, had int32) {
		if owner := taken[had]; *port == 0 && had != 0 && owner == "" {
			*port, taken[had] = had, Name(service)
		}
	}
	if onNodes(service) {
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			for _, old := range before.Spec.Ports {
				if old.Port == port.Port && protocolOf(old.Protocol) == protocolOf(port.Protocol) {
					keep(&port.NodePort, old.NodePort)
				}
			}
		}
	}
	if needsHealthCheck(service) {
		keep(&service.Spec.HealthCheckNodePort, before.Spec.HealthCheckNodePort)
	}
}

func giveNodePorts(taken map[int32]string, service *corev1.Service) (err error) {
	give := func(port *int32, purpose string) {
		if *port == 0 && err == nil {
			*port, err = freeNodePort(taken, Name(service)+" "+purpose)
			taken[*port] = Name(service)
		}
	}
	if onNodes(service) {
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			give(&port.NodePort, fmt.Sprintf("%d/%s", port.Port, protocolOf(port.Protocol)))
		}
	}
	if needsHealthCheck(service) {
		give(&service.Spec.HealthCheckNodePort, "health check")
	}
	return err
}

// freeNodePort returns the first free port from the one that a hash of purpose says.
func freeNodePort(taken map[int32]string, purpose string) (int32, error) {
	const count = lastNodePort - firstNodePort + 1
	hash := sha256.Sum256([]byte(purpose))
	start := binary.BigEndian.Uint32(hash[:]) % count
	for i := range uint32(count) {
		if port := firstNodePort + int32((start+i)%count); taken[port] == "" {
			return port, nil
		}
	}
	return 0, fmt.Errorf("spec.ports: no nodePort is left between %d and %d", firstNodePort, lastNodePort)
}
