// SPDX-License-Identifier: Apache-2.0

package abi

// Tuple is struct tuple: a packet as a hook sees it, the key of a flow.
type Tuple struct {
	Source          [16]byte
	Destination     [16]byte
	SourcePort      [2]byte
	DestinationPort [2]byte
	Protocol        uint8
	Leaving         uint8
	_               uint16
}

// Flow is struct flow: what to put into the packet.
type Flow struct {
	Addr         [16]byte
	Backend      uint32
	Set          uint32
	Sequence     uint32
	Acknowledged uint32
	Seen         uint32 // seconds of CLOCK_MONOTONIC
	Port         [2]byte
	OtherPort    [2]byte
	State        uint8
	Way          uint8
	HalfOpen     uint16 // its place in half_open_v1, counted from 1; 0: it is not half open
	Node         uint32
}

// The ways of a Flow: how the packets of its direction go on.
const (
	WayHere   uint8 = iota // to an end that this node reaches itself
	WayWrap                // wrapped, to the Flow's Node
	WayVia                 // the Flow's Node wraps them, and gets the answers back
	WayDirect              // the Flow's Node wraps them; the answers leave from here
)

// The bits of a Flow's State.
const (
	FlowAnswered   uint8 = 1 << iota // something came in the other direction
	FlowFIN                          // this direction has ended
	FlowReset                        // a valid RST was seen in this direction and nothing since
	FlowMasquerade                   // masquerade it if it leaves by an uplink, or to where it came from
	FlowForward                      // the client's direction; else the backend's
	FlowMoved                        // the key's destination is a backend that went: of a connected UDP socket
	FlowEnded                        // the same of a TCP socket: answer with a RST
	FlowLocal                        // with FlowMoved: only backends of this node may take its place
)

// AffinityKey is struct affinity_key.
type AffinityKey struct {
	Client [16]byte
	Cookie uint64
	Set    uint32
	Scope  uint32
}

// Affinity is struct affinity.
type Affinity struct {
	Backend uint32
	Seen    uint32 // seconds of CLOCK_MONOTONIC
}

// Choice is struct choice: what a socket dialled and what it got.
type Choice struct {
	Service     [16]byte
	Addr        [16]byte
	Backend     uint32
	Set         uint32
	ServicePort [2]byte
	Port        [2]byte
}

// Peer is struct peer: the Service that a connected socket has.
type Peer struct {
	Choice Choice
	Moved  uint32 // 1: a flow leads its datagrams to another backend
	Cookie uint64
}
