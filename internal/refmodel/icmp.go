// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// icmpError is an ICMP error message: who says it, and the start of the packet that it is about.
type icmpError struct {
	sayer  netip.Addr
	about  tuple
	ip     int // where the quoted packet begins in the frame
	quoted int // where its transport header begins
	end    int // where the message ends
}

// parseError reads an ICMP error: destination unreachable, time exceeded, parameter problem (RFC 792), and packet too
// big (RFC 4443 3). Messages in fragments, and about packets with options, are left alone; so are those that quote
// less than the eight bytes of transport header that RFC 792 asks for, or a fragment without ports.
func parseError(frame []byte) (icmpError, bool) {
	if len(frame) < ethernetBytes+ipv4Bytes {
		return icmpError{}, false
	}
	ip := frame[ethernetBytes:]
	e := icmpError{}
	header := ipv4Bytes
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == 0x0800 && ip[0] == 0x45 && ip[9] == 1 && binary.BigEndian.Uint16(ip[6:])&^0x4000 == 0:
		e.sayer = address4(ip[12:])
	case etherType == 0x86dd && len(ip) >= ipv6Bytes && ip[0]>>4 == 6 && ip[6] == 58:
		e.sayer, header = address16(ip[8:]), ipv6Bytes
	default:
		return icmpError{}, false
	}
	e.end = Packet{}.end(frame)
	e.ip = ethernetBytes + header + 8
	e.quoted = e.ip + header
	if e.end > len(frame) || e.end < e.quoted+shortBytes || !isError(frame[e.ip-8], header == ipv6Bytes) {
		return icmpError{}, false
	}
	return e, e.readQuoted(frame)
}

func isError(kind byte, v6 bool) bool {
	if v6 {
		return kind >= 1 && kind <= 4
	}
	return kind == 3 || kind == 11 || kind == 12
}

func (e *icmpError) readQuoted(frame []byte) bool {
	ip, h := frame[e.ip:], frame[e.quoted:]
	var source, destination netip.Addr
	if e.sayer.Is4() {
		if ip[0] != 0x45 || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
			return false
		}
		e.about.protocol = model.Protocol(ip[9])
		source, destination = address4(ip[12:]), address4(ip[16:])
	} else {
		if ip[0]>>4 != 6 {
			return false
		}
		e.about.protocol = model.Protocol(ip[6])
		source, destination = address16(ip[8:]), address16(ip[24:])
	}
	e.about.source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(h))
	e.about.destination = netip.AddrPortFrom(destination, binary.BigEndian.Uint16(h[2:]))
	return carriesServices(e.about.protocol)
}

// ErrorToPod returns what must become of a frame that isn't a Service's packet and goes to a pod: an ICMP error about
// what the pod's packet was translated to is given back as one about what the pod sent, or the pod could not tell whose
// it is (RFC 5508 REQ-4 and REQ-5: the quoted packet is translated, and the sayer's address if that is the quoted
// packet's own destination; Linux's nf_nat_icmp_reply_translation). All else stays as it is.
func (f *Flows) ErrorToPod(frame []byte) []byte {
	e, ok := parseError(frame)
	if !ok {
		return frame
	}
	becomes, known := f.exchange(tuple{e.about.protocol, e.about.destination, e.about.source}, true)
	if !known {
		return frame
	}
	// The flow says what the backend's packets become; the quoted packet is the other way round.
	return e.rewrite(frame, becomes.destination, becomes.source)
}

// rewrite gives the quoted packet other ends. The quoted transport checksum can't be worked out afresh, since the
// packet is cut off: it is changed by what changed (RFC 1624).
func (e icmpError) rewrite(frame []byte, source, destination netip.AddrPort) []byte {
	out := slices.Clone(frame)
	ip, h := out[e.ip:], out[e.quoted:e.end]
	before := pseudoEnds(e.about.source, e.about.destination)
	after := pseudoEnds(source, destination)
	binary.BigEndian.PutUint16(h, source.Port())
	binary.BigEndian.PutUint16(h[2:], destination.Port())
	switch at := map[model.Protocol]int{model.TCP: 16, model.UDP: 6}[e.about.protocol]; {
	case at == 0 || len(h) < at+2:
	case e.about.protocol == model.UDP && binary.BigEndian.Uint16(h[at:]) == 0:
	default:
		sum := adjusted(binary.BigEndian.Uint16(h[at:]), before, after)
		if sum == 0 && e.about.protocol == model.UDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(h[at:], sum)
	}
	outer := out[ethernetBytes:]
	fromDestination := e.sayer == e.about.destination.Addr()
	if e.sayer.Is4() {
		e.rewriteIPv4(outer, ip, source.Addr(), destination.Addr(), fromDestination)
	} else {
		e.rewriteIPv6(outer, ip, source.Addr(), destination.Addr(), fromDestination)
	}
	return out
}

func (e icmpError) rewriteIPv4(outer, ip []byte, source, destination netip.Addr, fromDestination bool) {
	old := slices.Concat(ip[12:20])
	putAddress(ip[12:], source)
	putAddress(ip[16:], destination)
	// As it was quoted, right or wrong.
	binary.BigEndian.PutUint16(ip[10:], adjusted(binary.BigEndian.Uint16(ip[10:]), old, ip[12:20]))
	if fromDestination {
		putAddress(outer[12:], destination)
		binary.BigEndian.PutUint16(outer[10:], 0)
		binary.BigEndian.PutUint16(outer[10:], Checksum(outer[:ipv4Bytes]))
	}
	message := outer[ipv4Bytes : e.end-ethernetBytes]
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint16(message[2:], Checksum(message))
}

func (e icmpError) rewriteIPv6(outer, ip []byte, source, destination netip.Addr, fromDestination bool) {
	putAddress(ip[8:], source)
	putAddress(ip[24:], destination)
	if fromDestination {
		putAddress(outer[8:], destination)
	}
	message := outer[ipv6Bytes : e.end-ethernetBytes]
	binary.BigEndian.PutUint16(message[2:], 0)
	sum := Checksum(pseudoHeader(58, len(message), address16(outer[8:]), address16(outer[24:])), message)
	binary.BigEndian.PutUint16(message[2:], sum)
}

// pseudoEnds is what of the pseudo header and the transport header depends on the packet's ends.
func pseudoEnds(source, destination netip.AddrPort) []byte {
	b := append(source.Addr().AsSlice(), destination.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, source.Port())
	return binary.BigEndian.AppendUint16(b, destination.Port())
}

// adjusted is RFC 1624's equation 3: HC' = ~(~HC + ~m + m'), over words of even length.
func adjusted(checksum uint16, before, after []byte) uint16 {
	sum := uint64(^checksum)
	for i := 0; i < len(before); i += 2 {
		sum += uint64(^binary.BigEndian.Uint16(before[i:])) + uint64(binary.BigEndian.Uint16(after[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
