// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// XDPMode says where frames meet the program from_wire, which forwards and drops some of what comes from outside before
// it is a packet. Whatever it says, the packet programs do the same with what they get.
type XDPMode string

const (
	// XDPOff leaves all to the packet programs; so does the zero value.
	XDPOff XDPMode = "off"
	// XDPAuto is XDPNative on uplinks that are hardware's and whose driver can, else XDPOff: in the kernel's own
	// receive path XDP copies what was received in one piece, which costs all packets more than it saves some.
	XDPAuto XDPMode = "auto"
	// XDPNative is in the driver.
	XDPNative XDPMode = "native"
	// XDPGeneric is in the kernel's receive path, for any driver.
	XDPGeneric XDPMode = "generic"
)

// Check says what is wrong with a mode.
func (m XDPMode) Check() error {
	switch m {
	case "", XDPOff, XDPAuto, XDPNative, XDPGeneric:
		return nil
	}
	return fmt.Errorf("XDP mode %q: want %s, %s, %s or %s", m, XDPOff, XDPAuto, XDPNative, XDPGeneric)
}

func (m XDPMode) wanted() bool { return m != "" && m != XDPOff }

// Wire is how an uplink stands with XDP.
type Wire struct {
	Ifindex int
	// Mode is XDPNative, XDPGeneric or XDPOff.
	Mode XDPMode
	// Reason says why it is off, though another mode was asked for.
	Reason string
}

// wires are uplinks as FitXDP left them.
type wires struct {
	mu sync.Mutex
	at map[int]wire
}

type wire struct {
	Wire
	address net.HardwareAddr
	link    link.Link // nil: off
}

func (w *wires) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.at {
		if at.link != nil {
			at.link.Close()
		}
	}
	w.at = nil
}

// hasBuffers says if programs may get frames of several buffers, and are told how long those are.
func hasBuffers() bool {
	return !errors.Is(features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen), ebpf.ErrNotSupported)
}

// fragsFlag is BPF_F_XDP_HAS_FRAGS, include/uapi/linux/bpf.h.
const fragsFlag = 1 << 5

// loadWire loads the program, unless it is switched off. A kernel that refuses it goes without.
func (d *Dataplane) loadWire(spec *ebpf.CollectionSpec, from adoption) *ebpf.Collection {
	if !d.options.XDP.wanted() {
		return nil
	}
	// For a program that takes several buffers the kernel's own receive path makes another packet of what it has to
	// copy, and forgets how long its Ethernet header is (seen with Linux 6.18): the packet programs read nonsense then.
	if !hasBuffers() || d.options.XDP == XDPGeneric {
		spec.Programs[wireProgram].Flags &^= fragsFlag
	}
	c, err := d.loadCollection(spec, from)
	if err != nil {
		d.log.Warn("XDP is off: the kernel refuses the program", "error", err)
	}
	return c
}

const wireProgram = "from_wire"

// FitXDP gives all uplinks their XDP program in the mode asked for, takes it off where it can't be (any more), and
// returns how each stands, by index. It is of the network namespace of the calling thread. Call it after AttachUplink,
// and when interfaces change.
func (d *Dataplane) FitXDP() ([]Wire, error) {
	if d.TakesOver() {
		return nil, nil
	}
	var failed []error
	var list []Wire
	above, err := interfacesAbove(d.options.XDP)
	failed = append(failed, err)
	for _, ifindex := range d.AttachedUplinks() {
		w, err := d.fitWire(ifindex, above)
		failed, list = append(failed, err), append(list, w)
	}
	if err := errors.Join(failed...); err != nil {
		return list, fmt.Errorf("give the uplinks their XDP program: %w", err)
	}
	return list, nil
}

// fitWire is FitXDP for one uplink.
func (d *Dataplane) fitWire(ifindex int, vlans map[int]string) (Wire, error) {
	want := d.wireWanted(ifindex, vlans)
	d.wires.mu.Lock()
	defer d.wires.mu.Unlock()
	had := d.wires.at[ifindex]
	if had.link != nil && had.Mode != want.Mode {
		had.link.Close()
		had.link = nil
	}
	err := d.endWirePins(ifindex, want.Mode)
	if want.Mode != XDPOff {
		want.link = had.link
		err = errors.Join(err, d.attachWire(&want))
	}
	if had.Wire != want.Wire {
		d.log.Info("XDP", "ifindex", ifindex, "mode", want.Mode, "reason", want.Reason)
	}
	if d.wires.at == nil {
		d.wires.at = map[int]wire{}
	}
	d.wires.at[ifindex] = want
	return want.Wire, err
}

// attachWire attaches the program where it isn't yet. What the kernel refuses is off.
func (d *Dataplane) attachWire(w *wire) error {
	if err := d.tellWire(w); err != nil {
		return err
	}
	if w.link != nil {
		return nil
	}
	flags := map[XDPMode]link.XDPAttachFlags{XDPNative: link.XDPDriverMode, XDPGeneric: link.XDPGenericMode}
	fits := func(info *link.Info) bool {
		xdp := info.XDP()
		return xdp != nil && int(xdp.Ifindex) == w.Ifindex
	}
	attach := func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: d.program(wireProgram), Interface: w.Ifindex, Flags: flags[w.Mode]})
	}
	l, err := keepLink(d.wirePin(w.Ifindex, w.Mode), d.program(wireProgram), fits, attach)
	if err != nil {
		w.Mode, w.Reason = XDPOff, refusalOf(err)
		return d.endWirePins(w.Ifindex, XDPOff)
	}
	w.link = l
	return nil
}

// refusalOf says in words why the kernel didn't attach the program.
func refusalOf(err error) string {
	switch {
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EEXIST):
		return "another XDP program is there"
	case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, ebpf.ErrNotSupported):
		return "its driver has no XDP"
	}
	return err.Error()
}

// wireWanted says what is to be at an uplink.
func (d *Dataplane) wireWanted(ifindex int, vlans map[int]string) wire {
	w := wire{Wire: Wire{Ifindex: ifindex, Mode: XDPOff}}
	mode := d.options.XDP
	if !mode.wanted() {
		return w
	}
	if d.wire == nil {
		w.Reason = "the kernel refuses the program"
		return w
	}
	at, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		w.Reason = err.Error()
		return w
	}
	w.address = at.Attrs().HardwareAddr
	if w.Reason = unfit(at, mode, vlans[ifindex]); w.Reason != "" {
		return w
	}
	if mode == XDPAuto {
		mode = XDPNative
	}
	w.Mode = mode
	return w
}

// unfit says why an uplink can't have the program; nothing if it can, as far as is known.
func unfit(at netlink.Link, mode XDPMode, vlan string) string {
	switch a := at.Attrs(); {
	case a.EncapType != "ether" || len(a.HardwareAddr) != 6:
		return "it has no Ethernet addresses"
	case vlan != "":
		// Devices take a frame's tag off before XDP sees it: it would be taken for one of no VLAN.
		return fmt.Sprintf("VLAN interfaces such as %s are on it", vlan)
	case mode == XDPNative && (at.Type() == "bond" || at.Type() == "team"):
		return "its frames come by its members"
	case mode == XDPAuto && at.Type() != "device":
		return fmt.Sprintf("it is no hardware's, but of type %s", at.Type())
	}
	return ""
}

// interfacesAbove returns, by the index of an interface, the name of a VLAN interface that is on it.
func interfacesAbove(mode XDPMode) (map[int]string, error) {
	if !mode.wanted() {
		return nil, nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the node's interfaces: %w", err)
	}
	above := map[int]string{}
	for _, l := range links {
		if l.Type() == "vlan" {
			above[l.Attrs().ParentIndex] = l.Attrs().Name
		}
	}
	return above, nil
}

// tellWires tells newly loaded programs what those before knew.
func (d *Dataplane) tellWires() error {
	d.wires.mu.Lock()
	defer d.wires.mu.Unlock()
	var failed []error
	for _, w := range d.wires.at {
		failed = append(failed, d.tellWire(&w))
	}
	return errors.Join(failed...)
}

// tellWire tells the program an interface's hardware address: what is sent to another is another host's.
func (d *Dataplane) tellWire(w *wire) error {
	if d.wire == nil || len(w.address) != 6 {
		return nil
	}
	if err := d.wire.Maps["wires"].Put(uint32(w.Ifindex), append(slices.Clone(w.address), 0, 0)); err != nil {
		return fmt.Errorf("tell the program the hardware address of interface %d: %w", w.Ifindex, err)
	}
	return nil
}

// endWire takes the program off an interface that is no uplink any more.
func (d *Dataplane) endWire(ifindex int) error {
	d.wires.mu.Lock()
	defer d.wires.mu.Unlock()
	var failed []error
	if had := d.wires.at[ifindex]; had.link != nil {
		failed = append(failed, ignoreGone(had.link.Detach()), had.link.Close())
	}
	delete(d.wires.at, ifindex)
	if d.wire != nil {
		failed = append(failed, ignoreMissing(d.wire.Maps["wires"].Delete(uint32(ifindex))))
	}
	failed = append(failed, d.endWirePins(ifindex, XDPOff))
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("take the XDP program off interface %d: %w", ifindex, err)
	}
	return nil
}

// endWirePins ends what is pinned of an interface in other modes than the one to keep.
func (d *Dataplane) endWirePins(ifindex int, keep XDPMode) error {
	var failed []error
	for _, mode := range []XDPMode{XDPNative, XDPGeneric} {
		if pin := d.wirePin(ifindex, mode); pin != "" && mode != keep {
			failed = append(failed, endLink(pin))
		}
	}
	return errors.Join(failed...)
}

// wirePin is where the link of an interface is pinned. Its mode can't be read from the link.
func (d *Dataplane) wirePin(ifindex int, mode XDPMode) string {
	if d.pinDir == "" {
		return ""
	}
	return filepath.Join(linksDir(d.pinDir), fmt.Sprintf("xdp-%d-%s", ifindex, mode))
}

func isWirePin(name string) bool {
	var ifindex int
	_, err := fmt.Sscanf(name, "xdp-%d-", &ifindex)
	return err == nil
}

// exchangeWire gives a pinned link the present program, or ends it if there is none.
func (d *Dataplane) exchangeWire(path string) error {
	if d.wire == nil {
		return endLink(path)
	}
	return exchangeLink(path, d.program(wireProgram))
}
