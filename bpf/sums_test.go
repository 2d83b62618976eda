// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// inPieces makes two IPv6 fragments of a frame: its transport header, and the rest.
func inPieces(frame []byte, header int) [2][]byte {
	piece := func(from, to int, flags byte) []byte {
		b := slices.Clone(frame[:54])
		b[20] = 44
		binary.BigEndian.PutUint16(b[18:], uint16(8+to-from))
		b = append(b, frame[20], 0, byte((from-54)>>8), byte(from-54)|flags, 0, 0, 0, 7)
		return append(b, frame[from:to]...)
	}
	return [2][]byte{piece(54, 54+header, 1), piece(54+header, len(frame), 0)}
}

// about is an ICMPv6 error of a router about a frame.
func about(frame []byte, to netip.Addr) []byte {
	from := netip.MustParseAddr("fd00::fe")
	message := append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, frame[14:]...)
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, 0, 0, byte(len(message)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(message[2:], refmodel.Checksum(pseudo, message))
	b := append(slices.Clone(frame[:14]), 0x60, 0, 0, 0, 0, byte(len(message)), 58, 64)
	return append(append(append(b, from.AsSlice()...), to.AsSlice()...), message...)
}

// TestSumsOfOddPacketsStayRight gives packets whose sum the device has taken (CHECKSUM_COMPLETE), where no checksum of
// the transport takes back what addresses change: later fragments, SCTP, datagrams without a checksum; and errors, where
// several do. The kernel compares.
//
// Trap 1: where the device took the sum of a whole packet, it stays right for fragments, SCTP, errors and datagrams
// without a checksum.
func TestSumsOfOddPacketsStayRight(t *testing.T) {
	d := load(t, "")
	putServices(t, d)
	for i, s := range [][]netip.AddrPort{ends("10.96.0.1:80", "10.1.0.1:8080"), ends("[fd00:96::1]:80", "[fd00:1::1]:8080")} {
		id := uint32(100 + i)
		testkit.Put(t, d, testkit.Service{Set: id, Protocol: model.SCTP, Frontends: s[:1], Backends: map[uint32]netip.AddrPort{id: s[1]}})
	}
	const client4, client6 = "10.1.0.9:4000", "[fd00:1::9]:4000"
	udp := frame(t, model.UDP, client6, "[fd00:96::1]:80", "", 90)
	pieces := inPieces(udp, 16)
	silent := frame(t, model.UDP, client6, "[fd00:96::1]:80", "", 9)
	silent[54+6], silent[54+7] = 0, 0
	silent4 := frame(t, model.UDP, client4, "10.96.0.1:80", "", 9)
	silent4[34+6], silent4[34+7] = 0, 0
	sctp := func(from, to string) []byte {
		return refmodel.FirstPacket(model.SCTP, netip.MustParseAddrPort(from), netip.MustParseAddrPort(to))
	}
	for _, c := range []struct {
		name, program string
		frame         []byte
	}{
		{"a first fragment", "from_pod", pieces[0]},
		{"a later fragment", "from_pod", pieces[1]},
		{"UDP over IPv6 without checksum", "from_pod", silent},
		{"UDP over IPv4 without checksum", "from_pod", silent4},
		{"SCTP over IPv4", "from_pod", sctp(client4, "10.96.0.1:80")},
		{"SCTP over IPv6", "from_pod", sctp(client6, "[fd00:96::1]:80")},
		{"an error", "to_pod", about(frame(t, model.UDP, client6, "[fd00:1::1]:8080", "", 9), netip.MustParseAddr("fd00:1::9"))},
	} {
		const complete = 1 << 2 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE, include/uapi/linux/bpf.h
		out := make([]byte, len(c.frame)+growth)
		_, err := d.pods.Programs[c.program].Run(&ebpf.RunOptions{Data: c.frame, DataOut: out, Flags: complete})
		if errors.Is(err, syscall.EINVAL) {
			t.Skip("this kernel does not compare: that came with Linux 6.12")
		}
		if err != nil || slices.Equal(c.frame, out[:len(c.frame)]) {
			t.Errorf("%s: %v, or it was not translated:\n%x\n%x", c.name, err, c.frame, out)
		}
	}
}
