// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Sight is what policies look at of a packet of any protocol.
type Sight struct {
	tuple           // ports are an ICMP echo's identifier, or 0
	begins    bool  // the first of a connection, beyond doubt: a TCP SYN, an echo request; also TCP whose flags are out of sight
	continues bool  // TCP that can't be the first
	fin, rst  bool  // TCP
	ofLink    bool  // ICMPv6 without which there is no link, and not forwarded
	about     tuple // what an ICMP error quotes; no protocol if it is none

	hidden model.DropReason // why its receiver may find ports where none are seen

	network  Packet // where the headers are
	hasPorts bool
}

// The protocols that are more than their addresses, besides those with ports.
const (
	icmp4 = model.Protocol(1)
	icmp6 = model.Protocol(58)
)

// See reads a frame, whatever it carries. It reports false for what is no IP packet: no policy is asked about it.
func See(frame []byte) (Sight, bool) {
	if p, ok := Parse(frame); ok {
		return sightOf(p), true
	}
	if len(frame) < ethernetBytes {
		return Sight{}, false
	}
	etherType := binary.BigEndian.Uint16(frame[12:])
	p, ok := parseNetwork(frame, ethernetBytes, etherType == 0x86dd)
	if !ok || etherType != 0x86dd && etherType != 0x0800 {
		return Sight{}, false
	}
	if etherType == 0x86dd {
		p.LengthsLie = lengthsLie(frame, p, int(binary.BigEndian.Uint16(frame[ethernetBytes+4:])), ipv6Bytes)
	} else {
		p.LengthsLie = lengthsLie(frame, p, int(binary.BigEndian.Uint16(frame[ethernetBytes+2:])), 0)
	}
	s := Sight{tuple: tuple{p.Protocol, p.Source, p.Destination}, begins: p.Protocol == model.TCP, network: p}
	switch {
	case etherType == 0x86dd && isExtension(p.Protocol):
		s.hidden = model.ReasonUnsupported
	case p.First && carriesServices(p.Protocol):
		s.hidden = model.ReasonMalformed
	}
	if isICMP(p) && !p.Later {
		s.readMessage(frame)
	}
	return s, true
}

// sightOf is that of a packet with ports.
func sightOf(p Packet) Sight {
	s := Sight{tuple: tupleOf(p), fin: p.FIN, rst: p.RST, network: p, hasPorts: true}
	s.begins = p.Protocol == model.TCP && (p.SYN || p.Fault != model.ReasonNone)
	s.continues = p.Protocol == model.TCP && !s.begins
	return s
}

// Fragment is what can be read of the packet at least: its addresses, and what part of a datagram it is.
func (s *Sight) Fragment() Packet { return s.network }

func isICMP(p Packet) bool {
	return p.Protocol == icmp4 && p.Source.Addr().Is4() || p.Protocol == icmp6 && p.Source.Addr().Is6()
}

// ICMP's types that are not errors: RFC 792, RFC 4443 4, RFC 4861 4, RFC 2710 3, RFC 3810 5.
const (
	echoReply4, echoRequest4      = 0, 8
	echoRequest6, echoReply6      = 128, 129
	listenerQuery, solicitRouters = 130, 133
	redirect6, listenerReport2    = 137, 143
)

// hopsOnLink is how many hops a message has left that no one has forwarded, if it is one that no one may forward: RFC
// 4861 3.1, RFC 2710 3, RFC 3810 5.
func hopsOnLink(kind byte) (hops byte, ofLink bool) {
	switch {
	case kind >= solicitRouters && kind <= redirect6:
		return 255, true
	case kind >= listenerQuery && kind < solicitRouters, kind == listenerReport2:
		return 1, true
	}
	return 0, false
}

// readMessage reads an ICMP message. An echo is known by its identifier (RFC 5508 REQ-1), an error by what it quotes.
func (s *Sight) readMessage(frame []byte) {
	at, v6 := s.network.transport, s.source.Addr().Is6()
	if len(frame) < at+8 {
		return
	}
	kind := frame[at]
	hops, ofLink := hopsOnLink(kind)
	s.ofLink = v6 && ofLink && frame[ethernetBytes+7] == hops
	s.begins = !v6 && kind == echoRequest4 || v6 && kind == echoRequest6
	if id := binary.BigEndian.Uint16(frame[at+4:]); isEcho(kind, v6) {
		s.source, s.destination = netip.AddrPortFrom(s.source.Addr(), id), netip.AddrPortFrom(s.destination.Addr(), id)
	}
	if isError(kind, v6) {
		s.readQuoted(frame, at+8, v6)
	}
}

func isEcho(kind byte, v6 bool) bool {
	if v6 {
		return kind == echoRequest6 || kind == echoReply6
	}
	return kind == echoRequest4 || kind == echoReply4
}

// readQuoted reads the packet that an ICMP error is about, of any protocol.
func (s *Sight) readQuoted(frame []byte, at int, v6 bool) {
	p, ok := parseNetwork(frame, at, v6)
	if !ok || p.Later || len(frame) < p.transport+8 {
		return
	}
	h := frame[p.transport:]
	switch {
	case carriesServices(p.Protocol):
		p.Source = netip.AddrPortFrom(p.Source.Addr(), binary.BigEndian.Uint16(h))
		p.Destination = netip.AddrPortFrom(p.Destination.Addr(), binary.BigEndian.Uint16(h[2:]))
	case isICMP(p) && isEcho(h[0], v6):
		id := binary.BigEndian.Uint16(h[4:])
		p.Source, p.Destination = netip.AddrPortFrom(p.Source.Addr(), id), netip.AddrPortFrom(p.Destination.Addr(), id)
	}
	s.about = tuple{p.Protocol, p.Source, p.Destination}
}

// end is the pod's view of it.
func (t tuple) end(fromPod bool) End {
	if fromPod {
		return End{t.protocol, t.source, t.destination}
	}
	return End{t.protocol, t.destination, t.source}
}

func (t tuple) turned() tuple { return tuple{t.protocol, t.destination, t.source} }
