// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Verdict is what a packet program decided.
type Verdict uint8

const (
	// Pass lets the packet go on, translated or not.
	Pass Verdict = iota + 1
	// Drop ends it.
	Drop
	// Refuse sends a TCP RST or an ICMP port unreachable back, which is then the packet that comes out.
	Refuse
	// Wrap sends it to another node, wrapped: that comes out. Of the XDP program only.
	Wrap
)

// String returns "pass", "drop", "refuse" or "wrap".
func (v Verdict) String() string {
	switch v {
	case Pass:
		return "pass"
	case Drop:
		return "drop"
	case Refuse:
		return "refuse"
	case Wrap:
		return "wrap"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// What the programs return, include/uapi/linux/pkt_cls.h.
const (
	actUnspecified = 0xffffffff // TC_ACT_UNSPEC and TCX_NEXT
	actShot        = 2          // TC_ACT_SHOT
	actRedirect    = 7          // TC_ACT_REDIRECT
)

// RunFromPod gives a packet, Ethernet header first, to the program of what pods send, with the maps as they are
// (BPF_PROG_TEST_RUN): a new flow is begun, a drop counted. Nothing is sent. ifindex is the interface that it
// seems to come by, in the calling thread's network namespace; 0 is the loopback's.
func (d *Dataplane) RunFromPod(packet []byte, ifindex int) (Verdict, []byte, error) {
	return run(d.pods.Programs["from_pod"], packet, ifindex)
}

// RunToPod does the same with the program of what pods get.
func (d *Dataplane) RunToPod(packet []byte, ifindex int) (Verdict, []byte, error) {
	return run(d.pods.Programs["to_pod"], packet, ifindex)
}

// RunFromUplink does the same with the program of what comes to the node.
func (d *Dataplane) RunFromUplink(packet []byte, ifindex int) (Verdict, []byte, error) {
	return run(d.uplinks.Programs["from_uplink"], packet, ifindex)
}

// RunToUplink does the same with the program of what leaves the node.
func (d *Dataplane) RunToUplink(packet []byte, ifindex int) (Verdict, []byte, error) {
	return run(d.uplinks.Programs["to_uplink"], packet, ifindex)
}

// RunFromWire does the same with the program of frames that come to the node before they are packets; Load must have been
// told to have it, and an interface other than the loopback's has its program. What goes on to another node is sent: that frame comes out. Nothing else changes a frame.
func (d *Dataplane) RunFromWire(frame []byte, ifindex int) (Verdict, []byte, error) {
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+wrapping)}
	if ifindex != 0 {
		options.Context = xdpFrame{DataEnd: uint32(len(frame)), Ifindex: uint32(ifindex)}
	}
	code, err := d.wire.Programs[wireProgram].Run(&options)
	if err != nil {
		return 0, nil, fmt.Errorf("run a frame of %d bytes through the kernel: %w", len(frame), err)
	}
	switch code {
	case xdpPass:
		return Pass, options.DataOut, nil
	case xdpDrop:
		return Drop, nil, nil
	case xdpSend:
		return Wrap, options.DataOut, nil
	}
	return 0, nil, fmt.Errorf("the XDP program returned %d, which is no verdict", code)
}

// What the XDP program returns, include/uapi/linux/bpf.h.
const (
	xdpDrop = 1 // XDP_DROP
	xdpPass = 2 // XDP_PASS
	xdpSend = 3 // XDP_TX
)

// wrapping is how much longer than a frame what wraps it may be.
const wrapping = 128

// growth is how much longer than its packet a refusal may be: an IPv6 and an ICMPv6 header.
const growth = 64

func run(program *ebpf.Program, packet []byte, ifindex int) (Verdict, []byte, error) {
	out := make([]byte, len(packet)+growth)
	options := ebpf.RunOptions{Data: packet, DataOut: out}
	if ifindex != 0 {
		options.Context = skBuff{Ifindex: uint32(ifindex)}
	}
	code, err := program.Run(&options)
	if err != nil {
		return 0, nil, fmt.Errorf("run a packet of %d bytes through the kernel: %w", len(packet), err)
	}
	verdict, err := verdictOf(code)
	return verdict, options.DataOut, err
}

func verdictOf(code uint32) (Verdict, error) {
	switch code {
	case actUnspecified:
		return Pass, nil
	case actShot:
		return Drop, nil
	case actRedirect:
		return Refuse, nil
	}
	return 0, fmt.Errorf("the program returned %d, which is no verdict", int32(code))
}

// xdpFrame is struct xdp_md, include/uapi/linux/bpf.h.
type xdpFrame struct {
	_, DataEnd, _, Ifindex, _, _ uint32
}

// skBuff is struct __sk_buff up to what BPF_PROG_TEST_RUN lets callers set, include/uapi/linux/bpf.h.
type skBuff struct {
	_       [10]uint32 // len to ingress_ifindex
	Ifindex uint32
}
