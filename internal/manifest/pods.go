// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// pods makes the workloads' Pods and gives every Pod a node and addresses.
func (e *expansion) pods() {
	given := indexOf(e.out.Pods)
	for object := range e.out.All() {
		for _, pod := range podsOf(object, e.out.Nodes) {
			if given[Name(pod)] == nil {
				e.out.Pods = append(e.out.Pods, pod)
			}
		}
	}
	e.keep()
	e.schedule()
	e.label()
	e.address()
}

// keep carries over what a Pod had in the previous expansion, unless the Pod says otherwise.
func (e *expansion) keep() {
	previous := indexOf(e.previous.Pods)
	for i, pod := range e.out.Pods {
		pod = pod.DeepCopy()
		e.out.Pods[i] = pod
		before := previous[Name(pod)]
		if before == nil || pod.Labels[LabelTemplate] != before.Labels[LabelTemplate] {
			continue
		}
		if pod.Spec.NodeName == "" && e.hasNode(before.Spec.NodeName) {
			pod.Spec.NodeName = before.Spec.NodeName
		}
		if len(PodAddrs(pod)) == 0 && pod.Spec.NodeName == before.Spec.NodeName {
			setAddrs(pod, PodAddrs(before))
		}
	}
}

// label gives each Pod its node's place, as the API server does (k8s.io/kubernetes plugin/pkg/admission/podtopologylabels).
func (e *expansion) label() {
	for _, pod := range e.out.Pods {
		node, ok := find(e.out.Nodes, "", pod.Spec.NodeName)
		if !ok {
			continue
		}
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			if value, has := node.Labels[key]; has {
				if pod.Labels == nil {
					pod.Labels = map[string]string{}
				}
				pod.Labels[key] = value
			}
		}
	}
}

func (e *expansion) hasNode(name string) bool {
	_, ok := find(e.out.Nodes, "", name)
	return ok
}

// schedule gives each Pod without a node the one with the fewest Pods of the same owner, then of all, then the first.
func (e *expansion) schedule() {
	s := scheduler{total: map[string]int{}, owned: map[string]int{}, ports: takenPorts{}}
	var waiting []*corev1.Pod
	for _, pod := range slices.Clone(e.out.Pods) {
		node := pod.Spec.NodeName
		switch err := s.ports.refuse(&pod.Spec, node); {
		case Finished(pod) && e.hasNode(node): // takes no room
		case node == "":
			waiting = append(waiting, pod)
		case !e.hasNode(node):
			e.setAside(pod, fmt.Errorf("spec.nodeName: there is no Node %q", node))
		case err != nil:
			e.setAside(pod, err)
		default:
			s.place(pod)
		}
	}
	for _, pod := range waiting {
		best, err := s.best(pod, e.out.Nodes)
		if err != nil {
			e.setAside(pod, err)
			continue
		}
		pod.Spec.NodeName = best
		s.place(pod)
	}
}

// scheduler knows what is on each node.
type scheduler struct {
	total, owned map[string]int // Pods by node, and by node and owner
	ports        takenPorts
}

func (s *scheduler) place(pod *corev1.Pod) {
	s.total[pod.Spec.NodeName]++
	s.owned[pod.Spec.NodeName+" "+OwnerOf(pod)]++
	s.ports.take(pod)
}

func (s *scheduler) best(pod *corev1.Pod, nodes []*corev1.Node) (string, error) {
	fitting := slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool { return !fits(&pod.Spec, n) })
	if len(fitting) == 0 {
		return "", errors.New("spec.nodeSelector: no Node has these labels")
	}
	last := s.ports.refuse(&pod.Spec, fitting[len(fitting)-1].Name)
	fitting = slices.DeleteFunc(fitting, func(n *corev1.Node) bool { return s.ports.refuse(&pod.Spec, n.Name) != nil })
	if len(fitting) == 0 {
		return "", fmt.Errorf("no Node has its hostPorts free: %w", last)
	}
	return slices.MinFunc(fitting, func(a, b *corev1.Node) int {
		return cmp.Or(s.owned[a.Name+" "+OwnerOf(pod)]-s.owned[b.Name+" "+OwnerOf(pod)], s.total[a.Name]-s.total[b.Name])
	}).Name, nil
}

func fits(spec *corev1.PodSpec, node *corev1.Node) bool {
	return labels.SelectorFromSet(spec.NodeSelector).Matches(labels.Set(node.Labels))
}

// address gives each Pod an address of each family that its node has a pod CIDR of.
func (e *expansion) address() {
	pools := e.podPools()
	for _, pod := range slices.Clone(e.out.Pods) {
		node, _ := find(e.out.Nodes, "", pod.Spec.NodeName)
		addrs := PodAddrs(pod)
		switch {
		case pod.Spec.HostNetwork && len(addrs) == 0:
			addrs = NodeAddrs(node)
		case !pod.Spec.HostNetwork && len(addrs) == 0:
			var err error
			if addrs, err = giveAll(pools[node.Name]); err != nil {
				e.setAside(pod, fmt.Errorf("an address on Node %s: %w", node.Name, err))
				continue
			}
		}
		setAddrs(pod, addrs)
		pod.Status.HostIP, pod.Status.HostIPs = "", nil
		for _, addr := range NodeAddrs(node) {
			pod.Status.HostIPs = append(pod.Status.HostIPs, corev1.HostIP{IP: addr.String()})
		}
		if len(pod.Status.HostIPs) > 0 {
			pod.Status.HostIP = pod.Status.HostIPs[0].IP
		}
		running(&pod.Status)
	}
}

func giveAll(pools []*pool) (addrs []netip.Addr, err error) {
	for _, p := range pools {
		addr, err := p.give()
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func (e *expansion) podPools() map[string][]*pool {
	pools := map[string][]*pool{}
	for _, node := range e.out.Nodes {
		for _, cidr := range NodePodCIDRs(node) {
			p := newPool(cidr, 2) // the network's own address and the node's end of it
			for _, list := range [][]*corev1.Pod{e.out.Pods, e.previous.Pods} {
				for _, pod := range list {
					for _, addr := range PodAddrs(pod) {
						p.take(addr)
					}
				}
			}
			pools[node.Name] = append(pools[node.Name], p)
		}
	}
	return pools
}

// running fills in the status of a Pod that says nothing about itself: it runs and is ready.
func running(status *corev1.PodStatus) {
	if status.Phase == "" {
		status.Phase = corev1.PodRunning
	}
	if len(status.Conditions) == 0 && status.Phase == corev1.PodRunning {
		status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
}

func setAddrs(pod *corev1.Pod, addrs []netip.Addr) {
	pod.Status.PodIP, pod.Status.PodIPs = "", nil
	for _, addr := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if len(addrs) > 0 {
		pod.Status.PodIP = addrs[0].String()
	}
}

// PodAddrs returns the Pod's addresses.
func PodAddrs(pod *corev1.Pod) []netip.Addr {
	if len(pod.Status.PodIPs) == 0 {
		return parse(pod.Status.PodIP)
	}
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		addrs = append(addrs, parse(ip.IP)...)
	}
	return addrs
}

// Ready says whether the Pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Finished says whether the Pod has come to its end: its addresses are no longer its own.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
