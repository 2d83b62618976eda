// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ranges that Nodes get addresses and pod CIDRs from if they have none.
var (
	nodeRanges = map[int]netip.Prefix{4: netip.MustParsePrefix("172.30.0.0/16"), 6: netip.MustParsePrefix("fd00:172:30::/64")}
	podRanges  = map[int]netip.Prefix{4: netip.MustParsePrefix("10.244.0.0/16"), 6: netip.MustParsePrefix("fd00:10:244::/48")}
	podBits    = map[int]int{4: 24, 6: 64}
)

// nodes makes Nodes if there are none and gives all of them addresses and pod CIDRs.
func (e *expansion) nodes() error {
	if len(e.out.Nodes) == 0 {
		for i := range e.count {
			e.out.Nodes = append(e.out.Nodes, &corev1.Node{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i+1)},
			})
		}
	}
	addresses := e.nodePools()
	cidrs := e.usedCIDRs()
	for i, node := range e.out.Nodes {
		node = node.DeepCopy()
		families := e.nodeFamilies(node)
		if err := giveAddresses(node, families, addresses); err != nil {
			return fmt.Errorf("addresses for Nodes: %w", err)
		}
		if err := giveCIDRs(node, families, cidrs); err != nil {
			return fmt.Errorf("pod CIDRs for Nodes: %w", err)
		}
		metav1.SetMetaDataLabel(&node.ObjectMeta, corev1.LabelHostname, node.Name)
		ready(&node.Status)
		e.out.Nodes[i] = node
	}
	return nil
}

// nodeFamilies are those of what the Node says, else of the cluster.
func (e *expansion) nodeFamilies(node *corev1.Node) []int {
	if previous, ok := find(e.previous.Nodes, "", node.Name); ok {
		if len(node.Status.Addresses) == 0 {
			node.Status.Addresses = previous.Status.Addresses
		}
		if len(nodeCIDRs(node)) == 0 {
			node.Spec.PodCIDR, node.Spec.PodCIDRs = previous.Spec.PodCIDR, previous.Spec.PodCIDRs
		}
	}
	addrs := NodeAddrs(node)
	for _, cidr := range NodePodCIDRs(node) {
		addrs = append(addrs, cidr.Addr())
	}
	if len(addrs) == 0 {
		return e.families
	}
	return slices.DeleteFunc([]int{4, 6}, func(family int) bool { return !has(addrs, family) })
}

func (e *expansion) nodePools() map[int]*pool {
	pools := map[int]*pool{4: newPool(nodeRanges[4], 1), 6: newPool(nodeRanges[6], 1)}
	for _, list := range [][]*corev1.Node{e.out.Nodes, e.previous.Nodes} {
		for _, node := range list {
			for _, addr := range NodeAddrs(node) {
				pools[familyOfAddr(addr)].take(addr)
			}
		}
	}
	return pools
}

func giveAddresses(node *corev1.Node, families []int, pools map[int]*pool) error {
	for _, family := range families {
		if has(NodeAddrs(node), family) {
			continue
		}
		addr, err := pools[family].give()
		if err != nil {
			return err
		}
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	if !slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeHostName }) {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: node.Name})
	}
	return nil
}

func (e *expansion) usedCIDRs() map[netip.Prefix]bool {
	used := map[netip.Prefix]bool{}
	for _, list := range [][]*corev1.Node{e.out.Nodes, e.previous.Nodes} {
		for _, node := range list {
			for _, cidr := range NodePodCIDRs(node) {
				used[cidr] = true
			}
		}
	}
	return used
}

func giveCIDRs(node *corev1.Node, families []int, used map[netip.Prefix]bool) error {
	held := NodePodCIDRs(node)
	for _, family := range families {
		if slices.ContainsFunc(held, func(p netip.Prefix) bool { return familyOfAddr(p.Addr()) == family }) {
			continue
		}
		cidr, err := freeCIDR(family, used)
		if err != nil {
			return err
		}
		used[cidr] = true
		held = append(held, cidr)
	}
	node.Spec.PodCIDRs = nil
	for _, cidr := range held {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, cidr.String())
	}
	if len(held) > 0 {
		node.Spec.PodCIDR = held[0].String()
	}
	return nil
}

// freeCIDR returns the first unused part of the pods' range, counted from 1 so that numbers match the nodes'.
func freeCIDR(family int, used map[netip.Prefix]bool) (netip.Prefix, error) {
	overlaps := func(p netip.Prefix) bool {
		for u := range used {
			if u.Overlaps(p) {
				return true
			}
		}
		return false
	}
	for i := 1; i < 256; i++ {
		b := podRanges[family].Addr().AsSlice()
		if family == 4 {
			b[2] = byte(i)
		} else {
			b[7] = byte(i)
		}
		addr, _ := netip.AddrFromSlice(b)
		if p := netip.PrefixFrom(addr, podBits[family]); !overlaps(p) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%s is used up: give the Nodes spec.podCIDRs of their own", podRanges[family])
}

func ready(status *corev1.NodeStatus) {
	if !slices.ContainsFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady }) {
		status.Conditions = append(status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue})
	}
}

// NodeAddrs returns the Node's InternalIPs and ExternalIPs.
func NodeAddrs(node *corev1.Node) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			addrs = append(addrs, parse(a.Address)...)
		}
	}
	return addrs
}

// NodePodCIDRs returns the prefixes that the Node's pods have addresses of.
func NodePodCIDRs(node *corev1.Node) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range nodeCIDRs(node) {
		if p, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, p.Masked())
		}
	}
	return prefixes
}

func nodeCIDRs(node *corev1.Node) []string {
	if len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "" {
		return []string{node.Spec.PodCIDR}
	}
	return node.Spec.PodCIDRs
}
