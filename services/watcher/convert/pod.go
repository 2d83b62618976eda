// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/deltaplane/deltaplane/schemas"
)

func pod(p *corev1.Pod) (*schemas.Pod, error) {
	out := &schemas.Pod{
		Node:        p.Spec.NodeName,
		HostNetwork: p.Spec.HostNetwork,
		Finished:    p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		Labels:      p.Labels,
	}
	ips := p.Status.PodIPs
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for i, ip := range ips {
		addr, err := unicast(ip.IP)
		if err != nil {
			return nil, fmt.Errorf("status.podIPs[%d].ip: %w", i, err)
		}
		out.Addresses = append(out.Addresses, addr.AsSlice())
	}
	return out, podPorts(p, out)
}

// podPorts adds the ports of containers and of init containers that go on running
// (k8s.io/kubernetes pkg/api/v1/pod, FindPort).
func podPorts(p *corev1.Pod, out *schemas.Pod) error {
	for i, c := range p.Spec.Containers {
		if err := containerPorts(fmt.Sprintf("spec.containers[%d]", i), c.Ports, out); err != nil {
			return err
		}
	}
	for i, c := range p.Spec.InitContainers {
		if value(c.RestartPolicy) != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := containerPorts(fmt.Sprintf("spec.initContainers[%d]", i), c.Ports, out); err != nil {
			return err
		}
	}
	return nil
}

func containerPorts(container string, ports []corev1.ContainerPort, out *schemas.Pod) error {
	for i, port := range ports {
		field := fmt.Sprintf("%s.ports[%d]", container, i)
		protocol, err := protocolOf(port.Protocol)
		if err != nil {
			return fmt.Errorf("%s.protocol: %w", field, err)
		}
		number, err := portOf(port.ContainerPort)
		if err != nil {
			return fmt.Errorf("%s.containerPort: %w", field, err)
		}
		out.Ports = append(out.Ports, &schemas.EndpointPort{Name: port.Name, Protocol: protocol, Port: number})
		if port.HostPort == 0 || out.GetHostNetwork() { // on the host's network the port is the host's already
			continue
		}
		host, err := hostPort(field, port)
		if err != nil {
			return err
		}
		host.Protocol, host.ContainerPort = protocol, number
		out.HostPorts = append(out.HostPorts, host)
	}
	return nil
}

func hostPort(field string, port corev1.ContainerPort) (*schemas.HostPort, error) {
	number, err := portOf(port.HostPort)
	if err != nil {
		return nil, fmt.Errorf("%s.hostPort: %w", field, err)
	}
	out := &schemas.HostPort{HostPort: number}
	if port.HostIP == "" {
		return out, nil
	}
	addr, err := address(port.HostIP)
	if err == nil && addr.IsMulticast() {
		err = fmt.Errorf("%s is a multicast address", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s.hostIP: %w", field, err)
	}
	out.HostIp = addr.AsSlice()
	return out, nil
}

func node(n *corev1.Node) (*schemas.Node, error) {
	out := &schemas.Node{Zone: n.Labels[corev1.LabelTopologyZone], Draining: draining(n), Labels: n.Labels}
	if len(out.GetZone()) > validation.LabelValueMaxLength {
		return nil, fmt.Errorf("metadata.labels[%s]: has %d bytes, more than the %d that Kubernetes allows",
			corev1.LabelTopologyZone, len(out.GetZone()), validation.LabelValueMaxLength)
	}
	for i, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		addr, err := unicast(a.Address)
		if err != nil {
			return nil, fmt.Errorf("status.addresses[%d].address: %w", i, err)
		}
		out.Addresses = append(out.Addresses, addr.AsSlice())
		if a.Type == corev1.NodeInternalIP {
			out.InternalIps = append(out.InternalIps, addr.AsSlice())
		}
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for i, text := range cidrs {
		prefix, err := prefixOf(text)
		if err != nil {
			return nil, fmt.Errorf("spec.podCIDRs[%d]: %w", i, err)
		}
		out.PodCidrs = append(out.PodCidrs, prefix.String())
	}
	return out, nil
}

// namespace keeps the labels, with the one that API servers give to each Namespace: files may lack it.
func namespace(n *corev1.Namespace) *schemas.Namespace {
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelMetadataName] = n.Name
	return &schemas.Namespace{Labels: labels}
}

// taintToBeDeleted is what the cluster autoscaler puts on a Node before it drains it (k8s.io/kubernetes
// pkg/proxy/node.go, ToBeDeletedTaint).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// draining says that load balancers should send nothing new to a Node (KEP-3836).
func draining(n *corev1.Node) bool {
	return !n.DeletionTimestamp.IsZero() ||
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintToBeDeleted })
}

// prefixOf reads a prefix in CIDR notation and clears the bits below it.
func prefixOf(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix such as 10.0.0.0/16 or fd00::/64", text)
	}
	if prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4-mapped prefix; write it as IPv4", text)
	}
	return prefix.Masked(), nil
}
