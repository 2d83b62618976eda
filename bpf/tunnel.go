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

// tunnelDevice is struct tunnel of include/tunnel.h.
type tunnelDevice struct {
	Ifindex uint32
	_       [3]uint32
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

// tellTunnel tells the programs the device.
func (d *Dataplane) tellTunnel() error {
	value := tunnelDevice{Ifindex: d.tunnelTo.Load()}
	for _, c := range d.collections() {
		if v, ok := c.Variables["tunnel"]; ok {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("tell the programs the device that wraps packets for other nodes: %w", err)
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
