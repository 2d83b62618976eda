// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// frame makes the bytes, now and then odd ones.
func (w *world) frame(s sent, flags byte) []byte {
	f := frameOf(s, one(w, [][]byte{nil, []byte("x"), []byte("hello, Service")}))
	f.flags = flags
	f.withoutChecksum = s.protocol == model.UDP && w.choose(6) == 0
	switch w.choose(24) {
	case 0:
		f.options = bytesOf(1, 4*(1+w.choose(10)))
	case 1:
		if s.protocol != model.SCTP { // one that gets other ports is dropped, having chosen a backend that no one can tell
			w.fragment(&f, 1)
		}
	case 2:
		f.extensions = one(w, [][]byte{{60}, {0, 43}, {44}, {51}, {0, 60, 43, 44, 51}, {60, 60, 60, 60, 60, 60}, {59}})
	case 3:
		f.lengthOff = one(w, []int{-20, 1, 200})
	case 4:
		f.padding = 1 + w.choose(20)
	case 5:
		f.dataOffset = byte(w.choose(16))
	case 6:
		f.tcpOptions = bytesOf(1, 4*(1+w.choose(10)))
	}
	frame := f.bytes()
	if w.choose(40) == 0 {
		least := 14 + 20 // the kernel runs nothing shorter than an IP header
		if s.source.Addr().Is6() {
			least = 14 + 40
		}
		frame = frame[:max(least, w.choose(len(frame)))] // cut short
	}
	return frame
}

func bytesOf(b byte, n int) []byte { return slices.Repeat([]byte{b}, n) }

// frameSpec is a frame to be made.
type frameSpec struct {
	sent
	flags           byte
	payload         []byte
	options         []byte // IPv4
	tcpOptions      []byte
	extensions      []byte // IPv6: kinds of headers
	fragment        uint16 // flags and offset as of IPv4
	lengthOff       int    // added to the length that the IP header says
	dataOffset      byte   // TCP: instead of the right one, if not 0
	padding         int
	withoutChecksum bool
	icmp            byte   // a message of this kind instead of protocol's packet, if not 0
	id              uint16 // of an echo
}

func frameOf(s sent, payload []byte) frameSpec { return frameSpec{sent: s, payload: payload} }

func (f frameSpec) bytes() []byte {
	transport := f.transport()
	if f.icmp != 0 {
		f.protocol, transport = f.message()
	}
	var ip []byte
	etherType := uint16(0x0800)
	if f.source.Addr().Is4() {
		ip = f.ipv4(len(transport))
	} else {
		etherType = 0x86dd
		ip = f.ipv6(len(transport))
	}
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	frame = append(append(frame, ip...), transport...)
	return append(frame, make([]byte, f.padding)...)
}

func (f frameSpec) ipv4(transport int) []byte {
	header := make([]byte, 20, 60)
	header[0] = 0x40 | byte(5+len(f.options)/4)
	header[8], header[9] = 64, byte(f.protocol)
	header = append(header, f.options...)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+transport+f.lengthOff))
	binary.BigEndian.PutUint16(header[4:], 4711)
	binary.BigEndian.PutUint16(header[6:], f.fragment)
	copy(header[12:], f.source.Addr().AsSlice())
	copy(header[16:], f.dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(header[10:], refmodel.Checksum(header))
	return header
}

func (f frameSpec) ipv6(transport int) []byte {
	header := make([]byte, 40, 120)
	header[0], header[7] = 0x60, 64
	copy(header[8:], f.source.Addr().AsSlice())
	copy(header[24:], f.dst.Addr().AsSlice())
	kinds := append(slices.Clone(f.extensions), byte(f.protocol))
	header[6] = kinds[0]
	for i := range f.extensions {
		extension := []byte{kinds[i+1], 0, 0, 0, 0, 0, 0, 0}
		if f.extensions[i] == 44 { // the offset in units of 8 bytes, and whether there is more
			binary.BigEndian.PutUint16(extension[2:], f.fragment&0x1fff<<3|f.fragment>>13)
		}
		header = append(header, extension...)
	}
	binary.BigEndian.PutUint16(header[4:], uint16(len(header)-40+transport+f.lengthOff))
	return header
}

// messageEchoReply stands for ICMP's type 0.
const messageEchoReply = 255

// message is an ICMP message about the payload.
func (f frameSpec) message() (protocol model.Protocol, message []byte) {
	message = append([]byte{f.icmp % messageEchoReply, 1, 0, 0, byte(f.id >> 8), byte(f.id), 5, 0xdc}, f.payload...)
	if f.source.Addr().Is4() {
		binary.BigEndian.PutUint16(message[2:], refmodel.Checksum(message))
		return 1, message
	}
	pseudo := append(f.source.Addr().AsSlice(), f.dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	binary.BigEndian.PutUint16(message[2:], refmodel.Checksum(append(pseudo, 0, 0, 0, 58), message))
	return 58, message
}

func (f frameSpec) transport() []byte {
	h := binary.BigEndian.AppendUint16(nil, f.source.Port())
	h = binary.BigEndian.AppendUint16(h, f.dst.Port())
	at := -1
	switch f.protocol {
	case model.TCP:
		h = binary.BigEndian.AppendUint32(h, f.sequence)
		h = binary.BigEndian.AppendUint32(h, f.acknowledged)
		h = append(h, cmp.Or(f.dataOffset, byte(5+len(f.tcpOptions)/4))<<4, f.flags, 0xff, 0xff, 0, 0, 0, 0)
		h = append(h, f.tcpOptions...)
		at = 16
	case model.UDP:
		h = binary.BigEndian.AppendUint16(h, uint16(8+len(f.payload)))
		h = append(h, 0, 0)
		at = 6
	default:
		h = append(h, 0, 0, 0, 1, 0, 0, 0, 0)
	}
	h = append(h, f.payload...)
	if at >= 0 && !f.withoutChecksum {
		pseudo := append(f.source.Addr().AsSlice(), f.dst.Addr().AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(h)))
		sum := refmodel.Checksum(append(pseudo, 0, 0, 0, byte(f.protocol)), h)
		if sum == 0 && f.protocol == model.UDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(h[at:], sum)
	}
	return h
}
