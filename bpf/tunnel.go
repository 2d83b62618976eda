// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
)

// Tunnel is how nodes wrap packets for each other: VXLAN of a network and a UDP port of our own.
type Tunnel struct {
	VNI  uint32 // 24 bits
	Port uint16 // host byte order
}

// tunnelDevice is struct tunnel of include/node.h.
type tunnelDevice struct {
	Ifindex uint32
	_       uint32
	Strict  uint64
}

// AttachTunnel gives a device, by its index in the network namespace of the calling thread, the program that drops what no
// node has wrapped. The device must not be up before: it would take anyone's packets out of their wrapping.
func (d *Dataplane) AttachTunnel(ifindex int) error {
	if d.TakesOver() {
		return fmt.Errorf("attach from_tunnel to interface %d: the programs of another version are still in place, until all tables are filled", ifindex)
	}
	return d.attachPort(port{tunnel, ifindex})
}

// UseTunnel says by which device packets are wrapped for other nodes and come unwrapped from them, after AttachTunnel. 0 is
// none: then backends on other nodes see this node's address. Other devices lose the program.
func (d *Dataplane) UseTunnel(ifindex int) error {
	d.tunnelTo.Store(uint32(ifindex))
	failed := []error{d.tellTunnel()}
	for _, old := range d.attachedPorts(tunnel) {
		if old != ifindex {
			failed = append(failed, d.detachPort(port{tunnel, old}))
		}
	}
	return errors.Join(failed...)
}

// CheckSources says at which uplinks, by index, the kernel wants sources of IPv4 to be reached by the same interface
// (rp_filter): what goes on to another node from there doesn't pass it. Two whose indexes are 64 apart are one to the programs.
func (d *Dataplane) CheckSources(uplinks []int) error {
	var strict uint64
	for _, ifindex := range uplinks {
		strict |= 1 << (ifindex % 64)
	}
	if d.strict.Swap(strict) == strict {
		return nil
	}
	return d.tellTunnel()
}

// tellTunnel tells the programs the device, and what else is to be known before packets are wrapped.
func (d *Dataplane) tellTunnel() error {
	value := tunnelDevice{Ifindex: d.tunnelTo.Load(), Strict: d.strict.Load()}
	for _, c := range d.collections() {
		if v, ok := c.Variables["tunnel"]; ok {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("tell the programs how packets get to other nodes: %w", err)
			}
		}
	}
	return nil
}

// pinnedTunnel returns the device of an earlier run, 0 for none, so that a restart has no gap.
func pinnedTunnel(pinDir string) (ifindex uint32, err error) {
	if pinDir == "" {
		return 0, nil
	}
	entries, err := os.ReadDir(linksDir(pinDir))
	if err != nil {
		return 0, fmt.Errorf("list the pinned links: %w", err)
	}
	for _, e := range entries {
		if at, _, ok := parsePortPin(e.Name()); ok && at.kind == tunnel {
			ifindex = max(ifindex, uint32(at.ifindex))
		}
	}
	return ifindex, nil
}
