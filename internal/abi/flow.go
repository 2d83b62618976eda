// SPDX-License-Identifier: Apache-2.0

package abi

// Tuple is struct tuple: a packet as it arrives, the key of a flow.
type Tuple struct {
	Source          [16]byte
	Destination     [16]byte
	SourcePort      [2]byte
	DestinationPort [2]byte
	Protocol        uint8
	Reverse         uint8
	_               uint16
}

// Flow is struct flow: what to put into the packet.
type Flow struct {
	Addr       [16]byte
	Backend    uint32
	Sequence   uint32
	Port       [2]byte
	ClientPort [2]byte
	Closing    uint8
	_          [3]uint8
}

// Choice is struct choice: what a socket dialled and what it got.
type Choice struct {
	Service     [16]byte
	Addr        [16]byte
	Backend     uint32
	ServicePort [2]byte
	Port        [2]byte
}
