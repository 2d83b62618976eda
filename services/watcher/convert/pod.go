// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

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
	var err error
	out.Ports, err = podPorts(p)
	return out, err
}

// podPorts returns the ports of containers and of init containers that go on running
// (k8s.io/kubernetes pkg/api/v1/pod, FindPort).
func podPorts(p *corev1.Pod) ([]*schemas.EndpointPort, error) {
	var out []*schemas.EndpointPort
	add := func(field string, ports []corev1.ContainerPort) error {
		for i, port := range ports {
			protocol, err := protocolOf(port.Protocol)
			if err != nil {
				return fmt.Errorf("%s.ports[%d].protocol: %w", field, i, err)
			}
			number, err := portOf(port.ContainerPort)
			if err != nil {
				return fmt.Errorf("%s.ports[%d].containerPort: %w", field, i, err)
			}
			out = append(out, &schemas.EndpointPort{Name: port.Name, Protocol: protocol, Port: number})
		}
		return nil
	}
	for i, c := range p.Spec.Containers {
		if err := add(fmt.Sprintf("spec.containers[%d]", i), c.Ports); err != nil {
			return nil, err
		}
	}
	for i, c := range p.Spec.InitContainers {
		if value(c.RestartPolicy) != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := add(fmt.Sprintf("spec.initContainers[%d]", i), c.Ports); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func node(n *corev1.Node) (*schemas.Node, error) {
	out := &schemas.Node{Zone: n.Labels[corev1.LabelTopologyZone]}
	for i, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		addr, err := unicast(a.Address)
		if err != nil {
			return nil, fmt.Errorf("status.addresses[%d].address: %w", i, err)
		}
		out.Addresses = append(out.Addresses, addr.AsSlice())
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
