// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// hostPort is what a container wants of its node.
type hostPort struct {
	field    string
	addr     netip.Addr // not valid: each of the node's addresses
	port     int32
	protocol corev1.Protocol
}

func (h hostPort) meets(o hostPort) bool {
	return h.port == o.port && h.protocol == o.protocol && (h.addr == o.addr || !h.addr.IsValid() || !o.addr.IsValid())
}

// hostPorts returns what a Pod wants of its node. On the host's network each containerPort is the host's.
func hostPorts(spec *corev1.PodSpec) (all []hostPort) {
	for container, field := range PortContainers(spec) {
		for i, port := range container.Ports {
			number := port.HostPort
			if spec.HostNetwork {
				number = cmp.Or(number, port.ContainerPort)
			}
			if number == 0 {
				continue
			}
			wanted := hostPort{field: fmt.Sprintf("%s.ports[%d].hostPort", field, i), port: number, protocol: protocolOf(port.Protocol)}
			if addr, err := netip.ParseAddr(port.HostIP); err == nil && !addr.IsUnspecified() {
				wanted.addr = addr
			}
			all = append(all, wanted)
		}
	}
	return all
}

// PortContainers goes through the containers whose ports a Pod serves, each with its field: all, and init containers
// that go on running.
func PortContainers(spec *corev1.PodSpec) iter.Seq2[*corev1.Container, string] {
	return func(yield func(*corev1.Container, string) bool) {
		for i := range spec.Containers {
			if !yield(&spec.Containers[i], fmt.Sprintf("spec.containers[%d]", i)) {
				return
			}
		}
		for i := range spec.InitContainers {
			c := &spec.InitContainers[i]
			goesOn := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if goesOn && !yield(c, fmt.Sprintf("spec.initContainers[%d]", i)) {
				return
			}
		}
	}
}

// takenPorts knows which Pod has which port of which node.
type takenPorts map[string][]takenPort

type takenPort struct {
	hostPort
	pod string
}

// refuse says which of a Pod's hostPorts another Pod has on a node; nil if it may run there.
func (t takenPorts) refuse(spec *corev1.PodSpec, node string) error {
	for _, wanted := range hostPorts(spec) {
		for _, have := range t[node] {
			if have.meets(wanted) {
				return fmt.Errorf("%s: %d/%s of Node %s is taken by Pod %s", wanted.field, wanted.port, wanted.protocol, node, have.pod)
			}
		}
	}
	return nil
}

func (t takenPorts) take(pod *corev1.Pod) {
	for _, wanted := range hostPorts(&pod.Spec) {
		t[pod.Spec.NodeName] = append(t[pod.Spec.NodeName], takenPort{wanted, Name(pod)})
	}
}
