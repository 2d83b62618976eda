// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// FirstPacket makes the frame that opens a connection: a TCP SYN, an empty datagram, an SCTP packet without chunks.
// The Ethernet addresses are made up.
func FirstPacket(protocol model.Protocol, source, destination netip.AddrPort) []byte {
	h := binary.BigEndian.AppendUint16(nil, source.Port())
	h = binary.BigEndian.AppendUint16(h, destination.Port())
	switch protocol {
	case model.TCP:
		h = append(h, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flagSYN, 0xff, 0xff, 0, 0, 0, 0)
	case model.UDP:
		h = append(h, 0, shortBytes, 0xff, 0xff) // the checksum is put in below
	default:
		h = append(h, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	putTransportChecksum(protocol, h, source.Addr(), destination.Addr())
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	if source.Addr().Is4() {
		return append(append(frame, 0x08, 0x00), append(headerIPv4(protocol, len(h), source.Addr(), destination.Addr()), h...)...)
	}
	return append(append(frame, 0x86, 0xdd), append(headerIPv6(protocol, len(h), source.Addr(), destination.Addr()), h...)...)
}

func headerIPv4(protocol model.Protocol, payload int, source, destination netip.Addr) []byte {
	ip := make([]byte, ipv4Bytes)
	ip[0], ip[8], ip[9] = 0x45, 64, byte(protocol)
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Bytes+payload))
	putAddress(ip[12:], source)
	putAddress(ip[16:], destination)
	binary.BigEndian.PutUint16(ip[10:], Checksum(ip))
	return ip
}

func headerIPv6(protocol model.Protocol, payload int, source, destination netip.Addr) []byte {
	ip := make([]byte, ipv6Bytes)
	ip[0], ip[6], ip[7] = 0x60, byte(protocol), 64
	binary.BigEndian.PutUint16(ip[4:], uint16(payload))
	putAddress(ip[8:], source)
	putAddress(ip[24:], destination)
	return ip
}
