// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// Outer is what the device that unwraps tells of a packet's wrapping.
type Outer struct {
	Source netip.Addr // of the outer IP header
	VNI    uint32
}

// Unwrapping runs packets through the program of what comes unwrapped from other nodes (BPF_PROG_TEST_RUN). The kernel runs
// packets without a wrapping, so a program in front gives each its own. Close it after use.
type Unwrapping struct {
	front, next *ebpf.Map // what the program in front gives; whom it calls then
	program     *ebpf.Program
}

// Of struct bpf_tunnel_key in include/uapi/linux/bpf.h: its size, and where things are.
const (
	tunnelKeyBytes = 44
	tunnelKeyTTL   = 21
	tunnelKeyLocal = 28
)

const (
	tunnelIsIPv6   = 1                  // BPF_F_TUNINFO_IPV6
	frontBytes     = 4 + tunnelKeyBytes // flags come first
	frontUnreached = 99                 // returned if there is nobody to call
)

// Unwrapping returns a way to run packets that other nodes have wrapped.
func (d *Dataplane) Unwrapping() (*Unwrapping, error) {
	return unwrapping(d.tunnel.Programs["from_tunnel"])
}

// unwrapping puts a program that gives packets a wrapping in front of another.
func unwrapping(before *ebpf.Program) (_ *Unwrapping, err error) {
	u := &Unwrapping{}
	defer func() {
		if err != nil {
			u.Close()
			err = fmt.Errorf("make the program that gives packets a wrapping: %w", err)
		}
	}()
	if u.front, err = ebpf.NewMap(&ebpf.MapSpec{Name: "front", Type: ebpf.Array, KeySize: 4, ValueSize: frontBytes, MaxEntries: 1}); err != nil {
		return nil, err
	}
	if u.next, err = ebpf.NewMap(&ebpf.MapSpec{Name: "next", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return nil, err
	}
	if err = u.next.Put(uint32(0), before); err != nil {
		return nil, err
	}
	u.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "wrapping", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, u.front.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "unreached"),
		asm.LoadMem(asm.R4, asm.R0, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.Add.Imm(asm.R2, 4),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R3, tunnelKeyBytes),
		asm.FnSkbSetTunnelKey.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, u.next.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, frontUnreached).WithSymbol("unreached"),
		asm.Return(),
	}})
	return u, err
}

// Run gives a frame to the program, as if a node with that address had wrapped it. See RunFromPod.
func (u *Unwrapping) Run(packet []byte, outer Outer, ifindex int) (Verdict, []byte, error) {
	if err := u.as(outer); err != nil {
		return 0, nil, err
	}
	return run(u.program, packet, ifindex)
}

// as says what the next packets are wrapped with.
func (u *Unwrapping) as(outer Outer) error {
	// What a packet is wrapped with has its destination as remote end, what was unwrapped its source.
	front := make([]byte, frontBytes)
	key := front[4:]
	binary.NativeEndian.PutUint32(key, outer.VNI)
	key[tunnelKeyTTL] = 64
	if source := outer.Source; source.Is6() {
		binary.NativeEndian.PutUint32(front, tunnelIsIPv6)
		copy(key[tunnelKeyLocal:], source.AsSlice())
	} else {
		a := source.As4()
		binary.NativeEndian.PutUint32(key[tunnelKeyLocal:], binary.BigEndian.Uint32(a[:]))
	}
	if err := u.front.Put(uint32(0), front); err != nil {
		return fmt.Errorf("give a packet its wrapping: %w", err)
	}
	return nil
}

// Close ends the program.
func (u *Unwrapping) Close() {
	u.program.Close()
	u.next.Close()
	u.front.Close()
}

// TellTunnel says by which device packets are wrapped, and attaches nothing to it: for packets that are run.
func (d *Dataplane) TellTunnel(ifindex int) error {
	d.tunnelTo.Store(uint32(ifindex))
	return d.tellTunnel()
}

// Flow returns the entry of packets with these ends at a hook, if there is one.
func (d *Dataplane) Flow(t abi.Tuple) (flow abi.Flow, found bool, err error) {
	raw, err := d.maps[flowsMap].LookupBytes(abi.Encode(t))
	if err != nil || raw == nil {
		return flow, false, err
	}
	return flow, true, abi.Decode(raw, &flow)
}
