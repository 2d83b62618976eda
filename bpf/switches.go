// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"maps"
	"os"
)

// PortRange is ports from First to Last, both included, in host byte order.
type PortRange struct{ First, Last uint16 }

// DefaultNodePorts is what the API server gives Services of type NodePort unless told otherwise.
var DefaultNodePorts = PortRange{30000, 32767}

// setSwitches fits the programs to this kernel and the configuration: it sets each constant in each file that has it.
func setSwitches(files specs, options Options) error {
	switches, err := switchesFor(options)
	if err != nil {
		return err
	}
	for name, value := range switches {
		for _, spec := range files.all() {
			if v, ok := spec.Variables[name]; ok {
				if err := v.Set(value); err != nil {
					return fmt.Errorf("set the switch %s of the programs: %w", name, err)
				}
			}
		}
	}
	return nil
}

func switchesFor(options Options) (map[string]any, error) {
	ephemeral, err := ephemeralPorts()
	if err != nil {
		return nil, err
	}
	nodePorts, refusals := options.NodePorts, options.RefusalsPerSecond
	if nodePorts == (PortRange{}) {
		nodePorts = DefaultNodePorts
	}
	if refusals == 0 {
		refusals = DefaultRefusals
	}
	switches := map[string]any{
		"refusals_per_second": refusals,
		"masquerade_all":      options.MasqueradeAll,
		"node_port_first":     nodePorts.First,
		"node_port_last":      nodePorts.Last,
		"ephemeral_first":     ephemeral.First,
		"ephemeral_last":      ephemeral.Last,
	}
	maps.Copy(switches, options.forTests)
	return switches, nil
}

// ephemeralPorts returns the ports that the node's own sockets get unless they ask for one. Nothing is masqueraded to
// them. It is of the network namespace of the calling thread.
func ephemeralPorts() (PortRange, error) {
	const path = "/proc/sys/net/ipv4/ip_local_port_range"
	text, err := os.ReadFile(path)
	if err != nil {
		return PortRange{}, fmt.Errorf("find the ports that the node's sockets get: %w", err)
	}
	var r PortRange
	if _, err := fmt.Sscan(string(text), &r.First, &r.Last); err != nil {
		return PortRange{}, fmt.Errorf("%s holds %q, not two ports: %w", path, text, err)
	}
	return r, nil
}
