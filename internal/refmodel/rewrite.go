// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Rewrite returns what a frame that Parse gave p for looks like with other addresses and ports: those, and the
// checksums that depend on them, worked out afresh over the whole packet. It is meant for frames whose checksums are
// right, and for UDP without one, which stays so (RFC 768; RFC 6936 for IPv6). A first fragment's checksum counts the
// whole datagram, so it is changed by what changes; of a later one only the addresses are exchanged.
func (p Packet) Rewrite(frame []byte, source, destination netip.AddrPort) []byte {
	if source == p.Source && destination == p.Destination {
		return frame
	}
	out := slices.Clone(frame)
	ip := out[ethernetBytes:]
	if source.Addr().Is4() {
		putAddress(ip[12:], source.Addr())
		putAddress(ip[16:], destination.Addr())
		header := ip[:4*int(ip[0]&15)]
		binary.BigEndian.PutUint16(header[10:], 0)
		binary.BigEndian.PutUint16(header[10:], Checksum(header))
	} else {
		putAddress(ip[8:], source.Addr())
		putAddress(ip[24:], destination.Addr())
	}
	if p.Later {
		return out
	}
	h := out[p.transport:p.end(out)]
	before := slices.Clone(h)
	binary.BigEndian.PutUint16(h, source.Port())
	binary.BigEndian.PutUint16(h[2:], destination.Port())
	switch {
	case p.Protocol == model.SCTP: // what was wrong stays wrong: receivers must see it
		sum := binary.LittleEndian.Uint32(h[8:]) ^ crc32c(before) ^ crc32c(h)
		binary.LittleEndian.PutUint32(h[8:], sum)
	case p.First:
		adjustTransportChecksum(p.Protocol, h, pseudoEnds(p.Source, p.Destination), pseudoEnds(source, destination))
	default:
		putTransportChecksum(p.Protocol, h, source.Addr(), destination.Addr())
	}
	return out
}

// adjustTransportChecksum changes the checksum of a header that may be cut short, or whose packet is not all there, by
// what changed (RFC 1624).
func adjustTransportChecksum(protocol model.Protocol, h, before, after []byte) {
	at := map[model.Protocol]int{model.TCP: 16, model.UDP: 6}[protocol]
	if at == 0 || len(h) < at+2 || protocol == model.UDP && binary.BigEndian.Uint16(h[at:]) == 0 {
		return
	}
	sum := adjusted(binary.BigEndian.Uint16(h[at:]), before, after)
	if sum == 0 && protocol == model.UDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[at:], sum)
}

// crc32c is SCTP's checksum (RFC 9260 6.8): of all of the packet, with zero in its own place.
func crc32c(packet []byte) uint32 {
	b := slices.Clone(packet)
	clear(b[8:sctpBytes])
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

// end is where the packet ends within the frame, which may be padded (IEEE 802.3: at least 60 bytes). A length of zero
// is one that the field is too small for.
func (p Packet) end(frame []byte) int {
	ip := frame[ethernetBytes:]
	length, header := int(binary.BigEndian.Uint16(ip[2:])), 0
	if ip[0]>>4 == 6 {
		length, header = int(binary.BigEndian.Uint16(ip[4:])), ipv6Bytes
	}
	if length == 0 {
		return len(frame)
	}
	return ethernetBytes + header + length
}

func putTransportChecksum(protocol model.Protocol, h []byte, source, destination netip.Addr) {
	at := 16 // TCP
	switch protocol {
	case model.UDP:
		if at = 6; binary.BigEndian.Uint16(h[at:]) == 0 {
			return
		}
	case model.SCTP: // a CRC, over ports but not addresses, lowest byte first
		binary.LittleEndian.PutUint32(h[8:], crc32c(h))
		return
	}
	binary.BigEndian.PutUint16(h[at:], 0)
	sum := Checksum(pseudoHeader(uint8(protocol), len(h), source, destination), h)
	if sum == 0 && protocol == model.UDP {
		sum = 0xffff // RFC 768: zero would mean none
	}
	binary.BigEndian.PutUint16(h[at:], sum)
}

// pseudoHeader is summed with the packet: RFC 9293 3.1 for IPv4, RFC 8200 8.1 for IPv6, whose longer fields only add
// zeros.
func pseudoHeader(protocol uint8, length int, source, destination netip.Addr) []byte {
	b := append(source.AsSlice(), destination.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, protocol)
}

// Checksum is the Internet checksum (RFC 1071) of parts put together, each but the last of an even length.
func Checksum(parts ...[]byte) uint16 {
	var sum uint64
	for _, part := range parts {
		for i := 0; i < len(part); i += 2 {
			sum += uint64(part[i]) << 8
			if i+1 < len(part) {
				sum += uint64(part[i+1])
			}
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func putAddress(b []byte, a netip.Addr) { copy(b, a.AsSlice()) }
