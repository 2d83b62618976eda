// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// What Kubernetes allows in one EndpointSlice (discovery.k8s.io/v1 validation).
const (
	maxSliceEndpoints = 1000
	maxSlicePorts     = 20000
)

// maxReplicas is more than any machine that expands a workload has room for.
const maxReplicas = 20000

// Validate refuses what the API server would refuse, as far as it decides about packets. The error names the field.
func Validate(object Object) error {
	if err := validName(object); err != nil {
		return err
	}
	switch x := object.(type) {
	case *corev1.Service:
		return validService(x)
	case *discoveryv1.EndpointSlice:
		return validSlice(x)
	case *corev1.Pod:
		return validPod(x)
	case *corev1.Node:
		return validNode(x)
	case *networkingv1.ServiceCIDR:
		return validServiceCIDR(x)
	}
	if template, selector, replicas, isWorkload := workload(object); isWorkload {
		if replicas < 0 && replicas != perNode || replicas > maxReplicas {
			return fmt.Errorf("spec.replicas: %d: want 0 to %d", replicas, maxReplicas)
		}
		return validTemplate(template, selector)
	}
	return nil
}

func validName(object metav1.Object) error {
	name := object.GetName()
	if name == "" {
		return errors.New("metadata.name is missing")
	}
	check := validation.IsDNS1123Subdomain
	switch object.(type) {
	case *corev1.Service, *corev1.Namespace:
		// Kubernetes 1.34 lets a Service's name start with a digit, as a label may.
		check = validation.IsDNS1123Label
	}
	if wrong := check(name); len(wrong) > 0 {
		return fmt.Errorf("metadata.name %q: %s", name, wrong[0])
	}
	if ns := object.GetNamespace(); ns != "" {
		if wrong := validation.IsDNS1123Label(ns); len(wrong) > 0 {
			return fmt.Errorf("metadata.namespace %q: %s", ns, wrong[0])
		}
	}
	return nil
}

func validSlice(s *discoveryv1.EndpointSlice) error {
	if err := oneOf("addressType", string(s.AddressType), "IPv4", "IPv6", "FQDN"); err != nil {
		return err
	}
	if n := len(s.Endpoints); n > maxSliceEndpoints {
		return fmt.Errorf("endpoints: %d of them, and Kubernetes takes at most %d in one EndpointSlice: make several of it", n, maxSliceEndpoints)
	}
	if n := len(s.Ports); n > maxSlicePorts {
		return fmt.Errorf("ports: %d of them, and Kubernetes takes at most %d in one EndpointSlice", n, maxSlicePorts)
	}
	for i, port := range s.Ports {
		if port.Port == nil {
			continue
		}
		if err := validPort(fmt.Sprintf("ports[%d].port", i), *port.Port); err != nil {
			return err
		}
		if port.Protocol != nil {
			if err := validProtocol(fmt.Sprintf("ports[%d].protocol", i), *port.Protocol); err != nil {
				return err
			}
		}
	}
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	for i, endpoint := range s.Endpoints {
		if len(endpoint.Addresses) == 0 {
			return fmt.Errorf("endpoints[%d].addresses is missing", i)
		}
		for j, address := range endpoint.Addresses {
			if err := validAddr(fmt.Sprintf("endpoints[%d].addresses[%d]", i, j), address, familyOf(s.AddressType)); err != nil {
				return err
			}
		}
	}
	return nil
}

func validPod(p *corev1.Pod) error {
	for i, ip := range p.Status.PodIPs {
		if err := validAddr(fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP, 0); err != nil {
			return err
		}
	}
	if p.Status.PodIP != "" {
		if err := validAddr("status.podIP", p.Status.PodIP, 0); err != nil {
			return err
		}
	}
	return validContainers("spec", &p.Spec)
}

func validContainers(field string, spec *corev1.PodSpec) error {
	if len(spec.Containers) == 0 {
		return fmt.Errorf("%s.containers is missing", field)
	}
	for _, list := range []struct {
		field      string
		containers []corev1.Container
	}{{field + ".containers", spec.Containers}, {field + ".initContainers", spec.InitContainers}} {
		for i, container := range list.containers {
			if container.Name == "" {
				return fmt.Errorf("%s[%d].name is missing", list.field, i)
			}
			for j, port := range container.Ports {
				if err := validContainerPort(fmt.Sprintf("%s[%d].ports[%d]", list.field, i, j), port, spec.HostNetwork); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func validContainerPort(field string, port corev1.ContainerPort, hostNetwork bool) error {
	err := errors.Join(validPort(field+".containerPort", port.ContainerPort), validProtocol(field+".protocol", port.Protocol))
	if err == nil && port.Name != "" {
		err = validPortName(field+".name", port.Name)
	}
	if err == nil && port.HostPort != 0 {
		err = validPort(field+".hostPort", port.HostPort)
	}
	if err == nil && port.HostIP != "" {
		err = validAddr(field+".hostIP", port.HostIP, 0)
	}
	if err == nil && hostNetwork && port.HostPort != 0 && port.HostPort != port.ContainerPort {
		err = fmt.Errorf("%s.hostPort: %d is not the containerPort %d, which on the host's network it is", field, port.HostPort, port.ContainerPort)
	}
	return err
}

func validTemplate(template *corev1.PodTemplateSpec, selector *metav1.LabelSelector) error {
	if selector == nil {
		return errors.New("spec.selector is missing")
	}
	matches, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return fmt.Errorf("spec.selector: %w", err)
	}
	if !matches.Matches(labelSet(template.Labels)) {
		return fmt.Errorf("spec.selector %q doesn't match the labels of spec.template", matches)
	}
	return validContainers("spec.template.spec", &template.Spec)
}

func validNode(n *corev1.Node) error {
	for i, cidr := range nodeCIDRs(n) {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return fmt.Errorf("spec.podCIDRs[%d]: %q is no CIDR such as 10.244.1.0/24", i, cidr)
		}
	}
	for i, address := range n.Status.Addresses {
		if address.Type != corev1.NodeInternalIP && address.Type != corev1.NodeExternalIP {
			continue
		}
		if err := validAddr(fmt.Sprintf("status.addresses[%d].address", i), address.Address, 0); err != nil {
			return err
		}
	}
	return nil
}

func validServiceCIDR(s *networkingv1.ServiceCIDR) error {
	if len(s.Spec.CIDRs) == 0 {
		return errors.New("spec.cidrs is missing")
	}
	for i, cidr := range s.Spec.CIDRs {
		if p, err := netip.ParsePrefix(cidr); err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("spec.cidrs[%d]: %q is no CIDR such as 10.96.0.0/16", i, cidr)
		}
	}
	return nil
}

func validPort(field string, port int32) error {
	if port < 1 || port > 65535 {
		return fmt.Errorf("%s: %d is no port: want 1 to 65535", field, port)
	}
	return nil
}

func validTarget(field string, target intstr.IntOrString) error {
	if target.Type == intstr.Int {
		if target.IntVal == 0 {
			return nil // the same as the port
		}
		return validPort(field, target.IntVal)
	}
	return validPortName(field, target.StrVal)
}

func validPortName(field, name string) error {
	if wrong := validation.IsValidPortName(name); len(wrong) > 0 {
		return fmt.Errorf("%s %q: %s", field, name, wrong[0])
	}
	return nil
}

func validProtocol(field string, protocol corev1.Protocol) error {
	return oneOf(field, string(protocol), "", "TCP", "UDP", "SCTP")
}

func validAddr(field, text string, family int) error {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil || addr.Zone() != "":
		return fmt.Errorf("%s: %q is no IP address", field, text)
	case addr.Is4In6():
		return fmt.Errorf("%s: %q is an IPv4-mapped address: write %s", field, text, addr.Unmap())
	case family == 4 && !addr.Is4(), family == 6 && !addr.Is6():
		return fmt.Errorf("%s: %s is no IPv%d address, as addressType says", field, text, family)
	}
	return nil
}

func oneOf(field, got string, want ...string) error {
	if slices.Contains(want, got) {
		return nil
	}
	return fmt.Errorf("%s %q: want %s", field, got, strings.Trim(strings.Join(want, ", "), ", "))
}
