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
	// First and Later say that it is a fragment, of the datagram ID: the first has the ports and all else, a later one
	// only addresses.
	First, Later bool
	ID           uint32
	// Mute says that nothing may be answered to it: an SCTP ABORT or SHUTDOWN COMPLETE (RFC 9260 8.4), an INIT without
	// a tag to answer with.
	Mute bool
	// Hops are those that it may still take: IPv4's time to live, IPv6's hop limit.
	Hops byte
	// Fault is why the packet can't be translated, or ReasonNone. It matters only if the packet is a Service's.
	Fault model.DropReason
	// LengthsLie says that the IP header promises more than there is, or less than the headers take. Whoever begins a
	// flow looks at it; receivers look again in any case.
	LengthsLie bool
	// VNI is the network of UDP's data if that is VXLAN (RFC 7348 5), else 0. Cut says that a first fragment ends before
	// that can be told.
	VNI uint32
	Cut bool

	transport int // where the TCP, UDP or SCTP header begins in the frame
}

const (
	ethernetBytes = 14 // without VLAN tags, which are metadata by the time a packet is at a pod's interface
	ipv4Bytes     = 20 // without options
	ipv6Bytes     = 40
	tcpBytes      = 20 // without options
	sctpBytes     = 12 // without chunks
	vxlanBytes    = 8
	shortBytes    = 8 // UDP; and what must be there of SCTP, which is longer
)

// Parse reads a frame: Ethernet, then IP. It reports false for what can't be a Service's packet whatever the tables
// say: no IP, no TCP, UDP or SCTP, no ports that could be found.
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
	p := Packet{Protocol: model.Protocol(ip[9]), Hops: ip[8], transport: ethernetBytes + 4*int(ip[0]&15)}
	fragment := binary.BigEndian.Uint16(ip[6:])
	p.Later = fragment&0x1fff != 0
	p.First = !p.Later && fragment&0x2000 != 0
	if p.First || p.Later {
		p.ID = uint32(binary.BigEndian.Uint16(ip[4:]))
	}
	if !carriesServices(p.Protocol) {
		return Packet{}, false
	}
	p.LengthsLie = lengthsLie(frame, p, int(binary.BigEndian.Uint16(ip[2:])), 0)
	return p.ports(frame, address4(ip[12:]), address4(ip[16:]))
}

// parseIPv6 follows RFC 8200 3.
func parseIPv6(frame []byte) (Packet, bool) {
	ip := frame[ethernetBytes:]
	if len(ip) < ipv6Bytes || ip[0]>>4 != 6 {
		return Packet{}, false
	}
	p := Packet{Protocol: model.Protocol(ip[6]), Hops: ip[7], transport: ethernetBytes + ipv6Bytes}
	p.skipExtensions(frame)
	if !carriesServices(p.Protocol) && !(p.Later && isExtension(p.Protocol)) {
		return Packet{}, false
	}
	p.LengthsLie = lengthsLie(frame, p, int(binary.BigEndian.Uint16(ip[4:])), ipv6Bytes)
	return p.ports(frame, address16(ip[8:]), address16(ip[24:]))
}

// Extension headers by their numbers, RFC 8200 4.
const (
	hopByHop           = 0
	routing            = 43
	fragmentHeader     = 44
	encrypted          = 50
	authentication     = 51
	destinationOptions = 60
)

func isExtension(p model.Protocol) bool {
	switch p {
	case hopByHop, routing, fragmentHeader, authentication, destinationOptions:
		return true
	}
	return false
}

const (
	// maxExtensions is how many extension headers are looked behind: RFC 8200 4.1 lists each kind once, destination
	// options twice.
	maxExtensions = 6
	// farthestTransport is how far into the frame a transport header may begin.
	farthestTransport = 214
)

// skipExtensions finds what is behind extension headers (RFC 8200 4.1 to 4.6, RFC 4302 2.2), from p.transport and
// p.Protocol on: the transport header, or a later fragment's data. What follows the address of the IP header to
// someone else, what signs it, what is too long, and what hides the ports, can't be translated.
func (p *Packet) skipExtensions(frame []byte) {
	for n := 0; n < maxExtensions && !p.Later && isExtension(p.Protocol) && len(frame) >= p.transport+8; n++ {
		if p.First && p.Protocol == fragmentHeader {
			break // a fragment of a fragment, which no router makes (RFC 8200 4.5)
		}
		h := frame[p.transport:]
		switch p.Protocol {
		case fragmentHeader:
			p.readFragment(h)
			p.transport += 8
		case authentication: // in units of 4 bytes, two not counted
			p.Fault = model.ReasonUnsupported
			p.transport += 4 * (int(h[1]) + 2)
		default: // in units of 8 bytes, the first not counted
			if p.Protocol == routing && h[3] != 0 { // segments left
				p.Fault = model.ReasonUnsupported
			}
			p.transport += 8 * (int(h[1]) + 1)
		}
		p.Protocol = model.Protocol(h[0])
	}
	if isExtension(p.Protocol) || p.Protocol == encrypted || p.transport > farthestTransport {
		p.Fault = model.ReasonUnsupported
	}
	if p.Later {
		p.Fault = model.ReasonNone
	}
}

// readFragment reads a fragment header, RFC 8200 4.5. One without offset and more to come is of a whole packet (RFC
// 6946).
func (p *Packet) readFragment(h []byte) {
	fragment := binary.BigEndian.Uint16(h[2:])
	p.Later = fragment&0xfff8 != 0
	p.First = !p.Later && fragment&1 != 0
	p.ID = binary.BigEndian.Uint32(h[4:])
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
	if p.Later {
		p.Source, p.Destination = netip.AddrPortFrom(source, 0), netip.AddrPortFrom(destination, 0)
		return p, true
	}
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
	if p.Protocol == model.SCTP && p.Fault == model.ReasonNone && len(h) < sctpBytes {
		p.Fault = model.ReasonMalformed
	}
	p.Mute = p.Protocol == model.SCTP && mute(h)
	if p.Protocol == model.UDP {
		p.VNI = vni(h)
		p.Cut = p.First && len(h) < shortBytes+vxlanBytes
	}
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

// vni reads a VXLAN header behind UDP's, RFC 7348 5.
func vni(h []byte) uint32 {
	const has = 0x08
	if len(h) < shortBytes+vxlanBytes || h[shortBytes]&has == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(h[shortBytes+4:]) >> 8
}

// mute looks at an SCTP packet's first chunk, RFC 9260 3.2 and 3.3.
func mute(h []byte) bool {
	const initiation, abort, shutdownComplete = 1, 6, 14
	switch {
	case len(h) < sctpBytes+4:
		return false
	case h[sctpBytes] == initiation:
		return len(h) < sctpBytes+8 || binary.BigEndian.Uint32(h[sctpBytes+4:]) == 0
	}
	return h[sctpBytes] == abort || h[sctpBytes] == shutdownComplete
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
