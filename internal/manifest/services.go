// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// services gives each Service the defaults and addresses that the API server would.
func (e *expansion) services() {
	pools := e.servicePools()
	for _, service := range slices.Clone(e.out.Services) {
		service = service.DeepCopy()
		e.out.Add(service)
		if service.Spec.Type == "" {
			service.Spec.Type = corev1.ServiceTypeClusterIP
		}
		for i := range service.Spec.Ports {
			defaultPort(&service.Spec.Ports[i])
		}
		if service.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		if err := e.familiesOf(service); err != nil {
			e.setAside(service, err)
			continue
		}
		if err := e.clusterIPs(service, pools); err != nil {
			e.setAside(service, err)
		}
	}
	e.nodePorts()
}

func defaultPort(port *corev1.ServicePort) {
	port.Protocol = protocolOf(port.Protocol)
	if port.TargetPort == (intstr.IntOrString{}) {
		port.TargetPort = intstr.FromInt32(port.Port)
	}
}

func protocolOf(protocol corev1.Protocol) corev1.Protocol {
	if protocol == "" {
		return corev1.ProtocolTCP
	}
	return protocol
}

// clusterIPs returns the addresses that a Service asks for, "None" among them.
func clusterIPs(service *corev1.Service) []string {
	if len(service.Spec.ClusterIPs) == 0 && service.Spec.ClusterIP != "" {
		return []string{service.Spec.ClusterIP}
	}
	return service.Spec.ClusterIPs
}

func headless(service *corev1.Service) bool {
	ips := clusterIPs(service)
	return len(ips) > 0 && ips[0] == corev1.ClusterIPNone
}

// familiesOf fills in ipFamilies and ipFamilyPolicy; see k8s pkg/registry/core/service/storage/alloc.go, initIPFamilyFields.
func (e *expansion) familiesOf(service *corev1.Service) error {
	spec := &service.Spec
	var asked []corev1.IPFamily
	for _, addr := range parse(clusterIPs(service)...) {
		asked = append(asked, familyName(familyOfAddr(addr)))
	}
	if len(asked) == 0 || len(spec.IPFamilies) > len(asked) {
		if len(asked) > 0 && len(spec.IPFamilies) > 0 && spec.IPFamilies[0] != asked[0] {
			return fmt.Errorf("spec.ipFamilies %v doesn't fit spec.clusterIPs %v", spec.IPFamilies, clusterIPs(service))
		}
		asked = slices.Clone(spec.IPFamilies)
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(asked) == 2 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if len(asked) == 0 {
		asked = []corev1.IPFamily{familyName(e.primary())}
	}
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(asked) == 1 {
		asked = append(asked, other(asked[0]))
	}
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack {
		first := asked[0]
		asked = slices.DeleteFunc(asked, func(f corev1.IPFamily) bool { return f != first && !e.clusterHas(familyNumber(f)) })
	}
	for _, family := range asked {
		if !e.clusterHas(familyNumber(family)) && len(parse(clusterIPs(service)...)) < len(asked) {
			return fmt.Errorf("spec.ipFamilies: the cluster has no %s: its Nodes have no pod CIDR of that family", family)
		}
	}
	spec.IPFamilies = asked
	return nil
}

// primary is the family that a Service has if it says nothing: that of the first Node's first pod CIDR.
func (e *expansion) primary() int {
	if cidrs := NodePodCIDRs(e.out.Nodes[0]); len(cidrs) > 0 {
		return familyOfAddr(cidrs[0].Addr())
	}
	return e.families[0]
}

func (e *expansion) clusterHas(family int) bool {
	return slices.ContainsFunc(e.out.Nodes, func(n *corev1.Node) bool {
		return slices.ContainsFunc(NodePodCIDRs(n), func(p netip.Prefix) bool { return familyOfAddr(p.Addr()) == family })
	})
}

// clusterIPs gives the addresses that are asked for, that were there before, or that are free, in this order.
func (e *expansion) clusterIPs(service *corev1.Service, pools map[int]*pool) error {
	spec := &service.Spec
	if headless(service) {
		spec.ClusterIP, spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		return nil
	}
	candidates := parse(clusterIPs(service)...)
	if before, ok := find(e.previous.Services, service.Namespace, service.Name); ok {
		candidates = append(candidates, parse(clusterIPs(before)...)...)
	}
	spec.ClusterIPs = nil
	for _, family := range spec.IPFamilies {
		number := familyNumber(family)
		i := slices.IndexFunc(candidates, func(a netip.Addr) bool { return familyOfAddr(a) == number })
		if i >= 0 {
			spec.ClusterIPs = append(spec.ClusterIPs, candidates[i].String())
			continue
		}
		if pools[number] == nil {
			return fmt.Errorf("spec.clusterIPs: no range of %s addresses for Services", family)
		}
		addr, err := pools[number].give()
		if err != nil {
			return fmt.Errorf("spec.clusterIPs: %w", err)
		}
		spec.ClusterIPs = append(spec.ClusterIPs, addr.String())
	}
	if len(spec.ClusterIPs) == 0 {
		return errors.New("spec.ipFamilies: no family is left")
	}
	spec.ClusterIP = spec.ClusterIPs[0]
	return nil
}

// servicePools know the addresses that are taken, also those of Services that are no longer there: a client may still
// use them. The first ten of a range stay free for those that people write down.
func (e *expansion) servicePools() map[int]*pool {
	pools := map[int]*pool{}
	for _, prefix := range slices.Backward(e.ranges) { // of several of a family the first counts
		pools[familyOfAddr(prefix.Addr())] = newPool(prefix, 11)
	}
	for _, list := range [][]*corev1.Service{e.previous.Services, e.out.Services} {
		for _, service := range list {
			for _, addr := range parse(clusterIPs(service)...) {
				if p := pools[familyOfAddr(addr)]; p != nil && p.prefix.Contains(addr) {
					p.used[addr] = true
				}
			}
		}
	}
	return pools
}

func familyName(family int) corev1.IPFamily {
	if family == 4 {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func familyNumber(family corev1.IPFamily) int {
	if family == corev1.IPv4Protocol {
		return 4
	}
	return 6
}

func other(family corev1.IPFamily) corev1.IPFamily {
	return familyName(10 - familyNumber(family))
}

// ServiceAddrs returns the Service's ClusterIPs; none for a headless one.
func ServiceAddrs(service *corev1.Service) []netip.Addr { return parse(clusterIPs(service)...) }
