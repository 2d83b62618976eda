// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"os"

	"github.com/deltaplane/deltaplane/internal/maglev"
)

// PortRange is ports from First to Last, both included, in host byte order.
type PortRange struct{ First, Last uint16 }

// DefaultNodePorts is what the API server gives Services of type NodePort unless told otherwise.
var DefaultNodePorts = PortRange{30000, 32767}

// set sets each constant in each program file that has it.
func (f files) set(switches map[string]any) error {
	for name, value := range switches {
		for _, spec := range f.all() {
			if v, ok := spec.Variables[name]; ok {
				if err := v.Set(value); err != nil {
					return fmt.Errorf("set the switch %s of the programs: %w", name, err)
				}
			}
		}
	}
	return nil
}

// switchesFor returns the constants that fit the programs to this kernel, the calling thread's network namespace and
// the configuration.
func switchesFor(options Options, log *slog.Logger) (map[string]any, error) {
	switches, err := socketSwitches(log)
	if err != nil {
		return nil, err
	}
	ephemeral, err := ephemeralPorts()
	if err != nil {
		return nil, err
	}
	nodePorts := cmp.Or(options.NodePorts, DefaultNodePorts)
	maps.Copy(switches, map[string]any{
		"refusals_per_second": cmp.Or(options.RefusalsPerSecond, DefaultRefusals),
		"masquerade_all":      options.MasqueradeAll,
		"half_open_places":    halfOpenPlaces(options),
		"maglev_size":         cmp.Or(options.MaglevSize, maglev.DefaultSize),
		"node_port_first":     nodePorts.First,
		"node_port_last":      nodePorts.Last,
		"ephemeral_first":     ephemeral.First,
		"ephemeral_last":      ephemeral.Last,
		"policy_reject":       options.PolicyReject,
		"keep_established":    options.KeepEstablished,
		"check_sources":       options.CheckSources,
		"sees_buffers":        hasBuffers(),
		"own_node":            uint32(options.Node),
		"tunnel_vni":          options.Tunnel.VNI,
		"tunnel_port":         options.Tunnel.Port,
		"connection_timeouts": cmp.Or(options.Timeouts, DefaultTimeouts).inSeconds(),
	})
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
