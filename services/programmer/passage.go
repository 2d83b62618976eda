// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// passage is the way between nodes: the device, and the programs that use it. The device is up only with its program,
// since without it takes anyone's packets out of their wrapping.
type passage struct {
	plane dataplane
	log   *slog.Logger
	keep  func() (ifindex int, err error) // the device as it should be, but for being up
	up    func(ifindex int) error
	down  func(ifindex int) error

	attached int  // the device that this process has given its program
	through  int  // the device that the programs were told; tunnel.Unknown is what a process before this one told them
	mortal   bool // programs end with this process
}

func newPassage(plane dataplane, device tunnel.Device, log *slog.Logger) *passage {
	return &passage{plane: plane, log: log, keep: device.Keep, up: device.PutUp, down: device.PutDown, through: tunnel.Unknown}
}

// use has the programs send and take packets by a device, 0 for none. An error that says nothing of the device itself
// leaves all as it is.
func (p *passage) use(device int) error {
	if device == tunnel.Unknown {
		return nil
	}
	if device > 0 && device != p.attached {
		if err := p.plane.attachTunnel(device); err != nil {
			return errors.Join(fmt.Errorf("interface %s: %w", tunnel.Name, err), p.close(device))
		}
		p.attached = device
	}
	if device > 0 {
		err := p.up(device)
		if errors.Is(err, tunnel.ErrPortTaken) {
			return errors.Join(err, p.tell(0))
		}
		if err != nil {
			return err
		}
	}
	return p.tell(device)
}

// close has nothing go by a device that has no program.
func (p *passage) close(device int) error {
	if err := p.down(device); err != nil {
		return err
	}
	return p.tell(0)
}

// tell tells the programs.
func (p *passage) tell(device int) error {
	if device == p.through {
		return nil
	}
	if err := p.plane.useTunnel(device); err != nil {
		return fmt.Errorf("interface %s: %w", tunnel.Name, err)
	}
	p.through, p.attached = device, device
	p.log.Info("packets of outside clients go to other nodes", "by", tunnel.Name, "ifindex", device)
	return nil
}

// end puts the device down if its program ends with this process.
func (p *passage) end() {
	if !p.mortal || p.through <= 0 {
		return
	}
	if err := p.down(p.through); err != nil {
		p.log.Error("leaving the device between nodes up without its program", "error", err)
	}
}
