// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// CheckRefusal checks the answer to a packet that was rejected: a TCP RST (RFC 9293 3.10.7.1), an SCTP ABORT (RFC 9260
// 8.4), else an ICMP port unreachable (RFC 792, RFC 4443 3.1), from the Service's address, back the way the packet came.
// What a policy has refused is prohibited (RFC 1812 5.2.7.1, RFC 4443 3.1), not unreachable; and whatever has no hop left is
// told that (RFC 1812 5.3.1, RFC 4443 3.3).
func (p Packet) CheckRefusal(frame, answer []byte, reason model.DropReason) error {
	if len(answer) < ethernetBytes || !bytes.Equal(answer[:6], frame[6:12]) || !bytes.Equal(answer[6:12], frame[:6]) {
		return errors.New("the Ethernet addresses aren't exchanged")
	}
	payload, protocol, sayer, err := p.checkAnswerIP(answer)
	switch {
	case err != nil:
		return err
	case sayer != p.Destination.Addr() && reason != model.ReasonNoWay: // which a router says
		return errors.New("it isn't from the Service")
	case p.Protocol == model.TCP && reason != model.ReasonNoWay:
		return p.checkReset(frame, payload, protocol)
	case p.Protocol == model.SCTP && reason != model.ReasonNoWay:
		return p.checkAbort(frame, payload, protocol)
	}
	return p.checkMessage(frame, payload, protocol, sayer, reason)
}

// checkAnswerIP checks the IP header and returns what is behind it, and whom it is from.
func (p Packet) checkAnswerIP(answer []byte) (payload []byte, protocol uint8, sayer netip.Addr, err error) {
	ip := answer[ethernetBytes:]
	if p.Source.Addr().Is4() {
		if len(ip) < ipv4Bytes || ip[0] != 0x45 || binary.BigEndian.Uint16(answer[12:]) != 0x0800 {
			return nil, 0, sayer, errors.New("no plain IPv4 header")
		}
		end := int(binary.BigEndian.Uint16(ip[2:]))
		switch {
		case end < ipv4Bytes || end > len(ip):
			return nil, 0, sayer, fmt.Errorf("IPv4 total length %d of %d bytes", end, len(ip))
		case Checksum(ip[:ipv4Bytes]) != 0:
			return nil, 0, sayer, errors.New("the IPv4 header's checksum is wrong")
		case ip[8] == 0:
			return nil, 0, sayer, errors.New("the time to live is 0")
		case address4(ip[16:]) != p.Source.Addr():
			return nil, 0, sayer, errors.New("it isn't to the client")
		}
		return ip[ipv4Bytes:end], ip[9], address4(ip[12:]), nil
	}
	if len(ip) < ipv6Bytes || ip[0]>>4 != 6 || binary.BigEndian.Uint16(answer[12:]) != 0x86dd {
		return nil, 0, sayer, errors.New("no IPv6 header")
	}
	end := ipv6Bytes + int(binary.BigEndian.Uint16(ip[4:]))
	switch {
	case end > len(ip):
		return nil, 0, sayer, fmt.Errorf("IPv6 payload ends at %d of %d bytes", end, len(ip))
	case ip[7] == 0:
		return nil, 0, sayer, errors.New("the hop limit is 0")
	case address16(ip[24:]) != p.Source.Addr():
		return nil, 0, sayer, errors.New("it isn't to the client")
	}
	return ip[ipv6Bytes:end], ip[6], address16(ip[8:]), nil
}

// checkReset follows RFC 9293 3.10.7.1: to a segment with an acknowledgment the RST has that sequence number, to
// others it acknowledges all that the segment takes up.
func (p Packet) checkReset(frame, reset []byte, protocol uint8) error {
	if protocol != uint8(model.TCP) || len(reset) != tcpBytes || reset[12]>>4 != 5 {
		return errors.New("no TCP header without options and data")
	}
	if sum := Checksum(pseudoHeader(protocol, len(reset), p.Destination.Addr(), p.Source.Addr()), reset); sum != 0 {
		return errors.New("the RST's checksum is wrong")
	}
	if binary.BigEndian.Uint16(reset) != p.Destination.Port() || binary.BigEndian.Uint16(reset[2:]) != p.Source.Port() {
		return errors.New("the RST's ports aren't exchanged")
	}
	segment := frame[p.transport:p.end(frame)]
	flags, wantFlags := reset[13], byte(flagRST)
	sequence, acknowledged := binary.BigEndian.Uint32(reset[4:]), binary.BigEndian.Uint32(reset[8:])
	var wantSequence, wantAcknowledged uint32
	if segment[13]&flagACK != 0 {
		wantSequence = binary.BigEndian.Uint32(segment[8:])
	} else {
		wantFlags |= flagACK
		wantAcknowledged = p.Sequence + uint32(len(segment)-4*int(segment[12]>>4))
		for _, flag := range []byte{flagSYN, flagFIN} {
			if segment[13]&flag != 0 {
				wantAcknowledged++
			}
		}
	}
	if flags != wantFlags || sequence != wantSequence || acknowledged != wantAcknowledged {
		return fmt.Errorf("RST with flags %#x, sequence %d, acknowledgment %d: want %#x, %d, %d",
			flags, sequence, acknowledged, wantFlags, wantSequence, wantAcknowledged)
	}
	return nil
}

// checkAbort follows RFC 9260 8.4: an INIT is answered with its own tag, all else with the tag it has, reflected.
func (p Packet) checkAbort(frame, abort []byte, protocol uint8) error {
	h := frame[p.transport:p.end(frame)]
	want := binary.BigEndian.AppendUint16(nil, p.Destination.Port())
	want = binary.BigEndian.AppendUint16(want, p.Source.Port())
	if len(h) >= sctpBytes+8 && h[sctpBytes] == 1 {
		want = append(append(want, h[sctpBytes+4:sctpBytes+8]...), 0, 0, 0, 0, 6, 0, 0, 4)
	} else {
		want = append(append(want, h[4:8]...), 0, 0, 0, 0, 6, 1, 0, 4)
	}
	binary.LittleEndian.PutUint32(want[8:], crc32c(want))
	if protocol != uint8(model.SCTP) || !bytes.Equal(abort, want) {
		return fmt.Errorf("protocol %d with %x: want SCTP with %x", protocol, abort, want)
	}
	return nil
}

func (p Packet) checkMessage(frame, message []byte, protocol uint8, sayer netip.Addr, reason model.DropReason) error {
	wantProtocol, kind, code := uint8(1), uint8(3), uint8(3)
	sum := Checksum(message)
	if p.Source.Addr().Is6() {
		wantProtocol, kind, code = 58, 1, 4
		sum = Checksum(pseudoHeader(58, len(message), sayer, p.Source.Addr()), message)
	}
	switch v6 := p.Source.Addr().Is6(); {
	case reason == model.ReasonIsolated && v6:
		code = 1
	case reason == model.ReasonIsolated:
		code = 13
	case reason == model.ReasonNoWay && v6:
		kind, code = 3, 0
	case reason == model.ReasonNoWay:
		kind, code = 11, 0
	}
	quoted := frame[ethernetBytes : p.transport+shortBytes] // options and extension headers are quoted too
	switch {
	case protocol != wantProtocol || len(message) < shortBytes+len(quoted):
		return fmt.Errorf("protocol %d with %d bytes: want ICMP with the header and the first %d bytes of the packet", protocol, len(message), shortBytes)
	case message[0] != kind || message[1] != code:
		return fmt.Errorf("ICMP type %d code %d: want %d, %d", message[0], message[1], kind, code)
	case sum != 0:
		return errors.New("the ICMP checksum is wrong")
	case !bytes.Equal(message[shortBytes:shortBytes+len(quoted)], quoted):
		return errors.New("what is quoted isn't the client's packet")
	}
	return nil
}
