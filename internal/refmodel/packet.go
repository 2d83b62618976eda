// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Packet is what the rules look at of a packet.
type Packet struct {
	Protocol    model.Protocol
	Source      netip.AddrPort
	Destination netip.AddrPort
	SYN         bool // TCP: the first of a connection, SYN without ACK
	FIN, RST    bool
	Sequence    uint32 // TCP
	// Acknowledged is TCP's acknowledgment number, 0 without one.
	Acknowledged uint32
	// Fault is why the packet can't be translated, or ReasonNone. It matters only if the packet is a Service's.
	Fault model.DropReason
	// LengthsLie says that the IP header promises more than there is, or less than the headers take. Whoever begins a
	// flow looks at it; receivers look again in any case.
	LengthsLie bool

	transport int // where the TCP, UDP or SCTP header begins in the frame
}

const (
	ethernetBytes = 14 // without VLAN tags, which are metadata by the time a packet is at a pod's interface
	ipv4Bytes     = 20 // without options
	ipv6Bytes     = 40
	tcpBytes      = 20 // without options
	shortBytes    = 8  // UDP; and what must be there of SCTP, which is longer
)

// Parse reads a frame: Ethernet, then IP. It reports false for what can't be a Service's packet whatever the tables
// say: no IP, no TCP, UDP or SCTP, or a fragment but the first (RFC 791 3.2: only the first has the ports).
func Parse(frame []byte) (Packet, bool) {
	if len(frame) < ethernetBytes {
		return Packet{}, false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		return parseIPv4(frame)
	case 0x86dd:
		return parseIPv6(frame)
	}
	return Packet{}, false
}

// parseIPv4 follows RFC 791 3.1.
func parseIPv4(frame []byte) (Packet, bool) {
	ip := frame[ethernetBytes:]
	if len(ip) < ipv4Bytes || ip[0]>>4 != 4 || ip[0]&15 < 5 {
		return Packet{}, false
	}
	p := Packet{Protocol: model.Protocol(ip[9]), transport: ethernetBytes + 4*int(ip[0]&15)}
	fragment := binary.BigEndian.Uint16(ip[6:])
	if fragment&0x1fff != 0 || !carriesServices(p.Protocol) {
		return Packet{}, false
	}
	if fragment&0x2000 != 0 { // more fragments follow, and they would miss the translation
		p.Fault = model.ReasonUnsupported
	}
	p.LengthsLie = lengthsLie(frame, p, int(binary.BigEndian.Uint16(ip[2:])), 0)
	return p.ports(frame, address4(ip[12:]), address4(ip[16:]))
}

// parseIPv6 follows RFC 8200 3; a packet with extension headers isn't translated yet.
func parseIPv6(frame []byte) (Packet, bool) {
	ip := frame[ethernetBytes:]
	if len(ip) < ipv6Bytes || ip[0]>>4 != 6 {
		return Packet{}, false
	}
	p := Packet{Protocol: model.Protocol(ip[6]), transport: ethernetBytes + ipv6Bytes}
	if !carriesServices(p.Protocol) {
		if p.Protocol, p.transport = skipExtensions(frame, ip[6]); p.transport == 0 {
			return Packet{}, false
		}
		p.Fault = model.ReasonUnsupported
	}
	p.LengthsLie = lengthsLie(frame, p, int(binary.BigEndian.Uint16(ip[4:])), ipv6Bytes)
	return p.ports(frame, address16(ip[8:]), address16(ip[24:]))
}

// maxExtensions is how many extension headers are looked behind: RFC 8200 4.1 lists each kind once.
const maxExtensions = 5

// skipExtensions finds the transport header behind extension headers (RFC 8200 4.1 to 4.6, RFC 4302 2.2).
func skipExtensions(frame []byte, next byte) (model.Protocol, int) {
	at := ethernetBytes + ipv6Bytes
	for range maxExtensions {
		if len(frame) < at+4 {
			return 0, 0
		}
		h := frame[at:]
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination: in units of 8 bytes, the first not counted
			at += 8 * (int(h[1]) + 1)
		case 51: // authentication: in units of 4 bytes, two not counted
			at += 4 * (int(h[1]) + 2)
		case 44: // fragment: only the first has the ports
			if binary.BigEndian.Uint16(h[2:])&0xfff8 != 0 {
				return 0, 0
			}
			at += 8
		default:
			return 0, 0
		}
		if next = h[0]; carriesServices(model.Protocol(next)) {
			return model.Protocol(next), at
		}
	}
	return 0, 0
}

func carriesServices(p model.Protocol) bool {
	return p == model.TCP || p == model.UDP || p == model.SCTP
}

// lengthsLie looks at an IP header's length field, which counts from uncounted bytes behind the IP header's start.
// Zero is a packet of more than 64 KiB (RFC 2675; BIG TCP for IPv4).
func lengthsLie(frame []byte, p Packet, field, uncounted int) bool {
	end := ethernetBytes + uncounted + field
	header := shortBytes
	if p.Protocol == model.TCP {
		header = tcpBytes
	}
	return field != 0 && (end > len(frame) || end < p.transport+header)
}

// ports reads what TCP (RFC 9293 3.1), UDP (RFC 768) and SCTP (RFC 9260 3.1) have in the same place, and TCP's flags.
func (p Packet) ports(frame []byte, source, destination netip.Addr) (Packet, bool) {
	need := shortBytes
	if p.Fault != model.ReasonNone {
		need = 4 // it won't be translated: ports are enough to say whose it is
	}
	if len(frame) < p.transport+need {
		return Packet{}, false
	}
	h := frame[p.transport:]
	p.Source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(h))
	p.Destination = netip.AddrPortFrom(destination, binary.BigEndian.Uint16(h[2:]))
	if p.Protocol != model.TCP || p.Fault != model.ReasonNone {
		return p, true
	}
	if len(h) < tcpBytes || h[12]>>4 < 5 {
		p.Fault = model.ReasonMalformed
		return p, true
	}
	p.Sequence = binary.BigEndian.Uint32(h[4:])
	flags := h[13]
	if flags&flagACK != 0 {
		p.Acknowledged = binary.BigEndian.Uint32(h[8:])
	}
	p.FIN, p.RST, p.SYN = flags&flagFIN != 0, flags&flagRST != 0, flags&(flagSYN|flagACK) == flagSYN
	return p, true
}

// TCP's flags, RFC 9293 3.1.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

func address4(b []byte) netip.Addr  { return netip.AddrFrom4([4]byte(b)) }
func address16(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }
