// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// transportAt is where a frame's transport header begins that has no options and extension headers.
func transportAt(frame []byte) int {
	if frame[12] == 0x86 {
		return 14 + 40
	}
	return 14 + 20
}

// sctpFrame is an SCTP packet of one chunk, with the right CRC32c.
func sctpFrame(t testing.TB, from, to string, chunk []byte) []byte {
	t.Helper()
	frame := segment{from: from, to: to, udp: true}.frame(t)
	at := transportAt(frame)
	if at == 14+40 {
		frame[20] = 132
		binary.BigEndian.PutUint16(frame[18:], uint16(12+len(chunk)))
	} else {
		frame[23] = 132
		binary.BigEndian.PutUint16(frame[16:], uint16(20+12+len(chunk)))
		binary.BigEndian.PutUint16(frame[24:], 0)
		binary.BigEndian.PutUint16(frame[24:], checksumOf(frame[14:34]))
	}
	frame = append(frame[:at+4], 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0) // the verification tag, and room for the CRC
	frame = append(frame, chunk...)
	binary.LittleEndian.PutUint32(frame[at+8:], sctpSum(frame))
	return frame
}

// sctpSum is what the CRC32c of an SCTP packet should be, RFC 9260 6.8.
func sctpSum(frame []byte) uint32 {
	packet := slices.Clone(frame[transportAt(frame):])
	clear(packet[8:12])
	return crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli))
}

var (
	sctpInit  = []byte{1, 0, 0, 20, 1, 2, 3, 4, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1}
	sctpAbort = []byte{6, 0, 0, 4}
)

// Row 18: SCTP is translated both ways, with another port and a right CRC32c, over IPv4 and IPv6.
func TestSCTPIsTranslatedWithARightCRC(t *testing.T) {
	plane := newPlane(t, oneService(model.SCTP)...) // 80 becomes 8080
	for _, c := range []struct{ client, service, backend string }{
		{"10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1:8080"},
		{"[fd00:1::9]:40000", "[fd00:96::1]:80", "[fd00:1::1]:8080"},
	} {
		for _, size := range []int{0, 4, 20, 33, 1400, 3000} {
			chunk := bytes.Repeat([]byte{3, 0, 7}, size)[:size]
			verdict, out, err := plane.RunFromPod(sctpFrame(t, c.client, c.service, chunk), 0)
			check(t, err)
			if diff := cmp.Diff(sctpFrame(t, c.client, c.backend, chunk)[14:], out[14:]); verdict != bpf.Pass || diff != "" {
				t.Errorf("%d bytes to %s: %v %s", size, c.service, verdict, diff)
			}
			verdict, out, err = plane.RunToPod(sctpFrame(t, c.backend, c.client, chunk), 0)
			check(t, err)
			if diff := cmp.Diff(sctpFrame(t, c.service, c.client, chunk)[14:], out[14:]); verdict != bpf.Pass || diff != "" {
				t.Errorf("%d bytes from %s: %v %s", size, c.backend, verdict, diff)
			}
		}
	}
}

// Row 18: a NodePort of SCTP whose backend is on another node is masqueraded both ways with a right CRC32c.
func TestSCTPIsMasqueradedWithARightCRC(t *testing.T) {
	for _, c := range []struct {
		client, node, backend string
		family                model.Family
	}{
		{outside4, edge4 + ":30080", remotePod4, model.IPv4},
		{outside6, "[" + edge6 + "]:30080", remotePod6, model.IPv6},
	} {
		e := newEdge(t, bpf.Options{})
		e.root(1, model.SCTP, c.family, c.backend)
		e.ownFront(1, model.MatchNodePort, 0, 30080)
		e.write(t)
		through := func(frame []byte) []byte {
			for _, hook := range []func([]byte, int) (bpf.Verdict, []byte, error){e.plane.RunFromUplink, e.plane.RunToUplink} {
				verdict, out, err := hook(frame, 0)
				check(t, err)
				if verdict != bpf.Pass {
					t.Fatalf("%v, drops %v", verdict, drops(t, e.plane))
				}
				frame = out
			}
			return frame
		}
		out := through(sctpFrame(t, c.client, c.node, sctpInit))
		port := binary.BigEndian.Uint16(out[transportAt(out):])
		masqueraded := netip.AddrPortFrom(netip.MustParseAddrPort(c.node).Addr(), port).String()
		if diff := cmp.Diff(sctpFrame(t, masqueraded, c.backend, sctpInit)[14:], out[14:]); diff != "" {
			t.Errorf("to %s: %s", c.backend, diff)
		}
		out = through(sctpFrame(t, c.backend, masqueraded, sctpInit))
		if diff := cmp.Diff(sctpFrame(t, c.node, c.client, sctpInit)[14:], out[14:]); diff != "" {
			t.Errorf("to %s: %s", c.client, diff)
		}
	}
}

// Row 18: a packet whose CRC32c is wrong is not made to look right.
func TestDamagedSCTPStaysSo(t *testing.T) {
	plane := newPlane(t, oneService(model.SCTP)...)
	frame := sctpFrame(t, "10.1.0.9:40000", "10.96.0.1:80", sctpInit)
	frame[len(frame)-1] ^= 1
	verdict, out, err := plane.RunFromPod(frame, 0)
	check(t, err)
	if got := binary.LittleEndian.Uint32(out[14+20+8:]); verdict != bpf.Pass || got == sctpSum(out) {
		t.Errorf("%v: the CRC was made right", verdict)
	}
}

func TestSCTPFragmentsWithOtherPortsAreUnsupported(t *testing.T) {
	plane := newPlane(t, oneService(model.SCTP)...)
	pieces := fragmentsOf(sctpFrame(t, "10.1.0.9:40000", "10.96.0.1:80", make([]byte, 100)), 7, 48)
	for i, piece := range pieces {
		if verdict, _, err := plane.RunFromPod(piece, 0); err != nil || verdict != bpf.Drop {
			t.Errorf("piece %d: %v %v", i, verdict, err)
		}
	}
	want := map[model.DropReason]uint64{model.ReasonUnsupported: 1, model.ReasonFragment: uint64(len(pieces) - 1)}
	if diff := cmp.Diff(want, drops(t, plane)); diff != "" {
		t.Error(diff)
	}
}

// Row 18: SCTP to a Service without backends is answered with an ABORT from the Service, and an ABORT never is.
func TestSCTPIsAborted(t *testing.T) {
	plane := newPlane(t, testkit.Service{Set: 1, Protocol: model.SCTP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")})
	for _, ends := range [][2]string{{"10.1.0.9:40000", "10.96.0.1:80"}, {"[fd00:1::9]:40000", "[fd00:96::1]:80"}} {
		for name, chunk := range map[string][]byte{"INIT": sctpInit, "COOKIE ECHO": {10, 0, 0, 8, 1, 2, 3, 4}, "no chunk": nil} {
			frame := sctpFrame(t, ends[0], ends[1], chunk)
			checkRefused(t, plane, name, frame)
		}
		noTag := slices.Clone(sctpInit)
		clear(noTag[4:8])
		for name, chunk := range map[string][]byte{"ABORT": sctpAbort, "SHUTDOWN COMPLETE": {14, 0, 0, 4}, "INIT without tag": noTag} {
			if verdict, _, err := plane.RunFromPod(sctpFrame(t, ends[0], ends[1], chunk), 0); err != nil || verdict != bpf.Drop {
				t.Errorf("%s: %v %v, want it dropped", name, verdict, err)
			}
		}
	}
}

// checkRefused sends a frame and lets the model judge the answer.
func checkRefused(t *testing.T, plane *bpf.Dataplane, name string, frame []byte) {
	t.Helper()
	verdict, out, err := plane.RunFromPod(frame, 0)
	check(t, err)
	p, ok := refmodel.Parse(frame)
	if !ok || verdict != bpf.Refuse {
		t.Errorf("%s: %v, want it refused", name, verdict)
		return
	}
	if err := p.CheckRefusal(frame, out, model.ReasonNone); err != nil {
		t.Errorf("%s: %v\n%x\n%x", name, err, frame, out)
	}
}

// withOptions puts IPv4 options or IPv6 extension headers of a size into a frame.
func withOptions(frame []byte, size int) []byte {
	if size == 0 {
		return frame
	}
	at := transportAt(frame)
	out := slices.Clone(frame[:at])
	if at == 14+40 {
		for left := size; left > 0; left -= 8 {
			out = append(out, 60, 0, 1, 4, 0, 0, 0, 0) // destination options, all padding
		}
		out[at+size-8] = out[20]
		out[20] = 60
		binary.BigEndian.PutUint16(out[18:], binary.BigEndian.Uint16(out[18:])+uint16(size))
		return append(out, frame[at:]...)
	}
	out = append(out, bytes.Repeat([]byte{1}, size)...)
	out[14] += byte(size / 4)
	binary.BigEndian.PutUint16(out[16:], binary.BigEndian.Uint16(out[16:])+uint16(size))
	binary.BigEndian.PutUint16(out[24:], 0)
	binary.BigEndian.PutUint16(out[24:], checksumOf(out[14:at+size]))
	return append(out, frame[at:]...)
}

// withExtension puts one IPv6 extension header into a frame.
func withExtension(frame []byte, kind byte, header []byte) []byte {
	out := slices.Concat(frame[:54], header, frame[54:])
	out[54], out[20] = out[20], kind
	binary.BigEndian.PutUint16(out[18:], binary.BigEndian.Uint16(out[18:])+uint16(len(header)))
	return out
}

// Trap 6: packets with IPv4 options of any length are refused as others are.
func TestPacketsWithOptionsAreRefused(t *testing.T) {
	plane := newPlane(t,
		testkit.Service{Set: 1, Protocol: model.TCP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")},
		testkit.Service{Set: 2, Protocol: model.UDP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")},
		testkit.Service{Set: 3, Protocol: model.SCTP, Frontends: at("10.96.0.1:80", "[fd00:96::1]:80")})
	for _, ends := range [][2]string{{"10.1.0.9:40000", "10.96.0.1:80"}, {"[fd00:1::9]:40000", "[fd00:96::1]:80"}} {
		for _, size := range []int{0, 8, 16, 40} {
			tcp := segment{from: ends[0], to: ends[1], syn: true, seq: 7, payload: 100}.frame(t)
			udp := segment{from: ends[0], to: ends[1], udp: true, payload: 100}.frame(t)
			for name, frame := range map[string][]byte{"TCP": tcp, "UDP": udp, "SCTP": sctpFrame(t, ends[0], ends[1], sctpInit)} {
				checkRefused(t, plane, fmt.Sprintf("%s with %d bytes of options from %s", name, size, ends[0]), withOptions(frame, size))
			}
		}
		udp := segment{from: ends[0], to: ends[1], udp: true, payload: 100}.frame(t)
		checkRefused(t, plane, "the first fragment of a datagram", fragmentsOf(udp, 7, 48)[0])
	}
}

// Trap 5: up to six IPv6 extension headers are walked, longer chains pass, and what can't be translated is dropped
// by name.
func TestExtensionHeadersAreTranslatedWhereTheyCanBe(t *testing.T) {
	signed := append([]byte{0, 4}, make([]byte, 22)...) // authentication header of 24 bytes, RFC 4302
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		reason model.DropReason
	}{
		{"six headers", func(b []byte) []byte { return withOptions(b, 48) }, 0},
		{"seven headers", func(b []byte) []byte { return withOptions(b, 56) }, 0}, // where the ports are nobody says
		{"144 bytes", func(b []byte) []byte { return withExtension(b, 60, longExtension(144)) }, 0},
		{"168 bytes", func(b []byte) []byte { return withExtension(b, 60, longExtension(168)) }, model.ReasonUnsupported},
		{"routing header, all visited", func(b []byte) []byte { return withExtension(b, 43, make([]byte, 8)) }, 0},
		{"routing header", func(b []byte) []byte { return withExtension(b, 43, []byte{0, 0, 4, 1, 0, 0, 0, 0}) }, model.ReasonUnsupported},
		{"authentication header", func(b []byte) []byte { return withExtension(b, 51, signed) }, model.ReasonUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := newPlane(t, oneService(model.TCP)...)
			plain := segment{from: "[fd00:1::9]:40000", to: "[fd00:96::1]:80", syn: true, payload: 9}.frame(t)
			frame := c.change(plain)
			verdict, out, err := plane.RunFromPod(frame, 0)
			check(t, err)
			if c.reason != 0 {
				if verdict != bpf.Drop || drops(t, plane)[c.reason] != 1 {
					t.Errorf("%v, %v", verdict, drops(t, plane))
				}
				return
			}
			if verdict != bpf.Pass {
				t.Fatalf("%v, %v", verdict, drops(t, plane))
			}
			if c.name == "seven headers" {
				if !bytes.Equal(out, frame) {
					t.Error("it was changed")
				}
				return
			}
			want := c.change(segment{from: "[fd00:1::9]:40000", to: "[fd00:1::1]:8080", syn: true, payload: 9}.frame(t))
			if diff := cmp.Diff(want[14:], out[14:]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// longExtension is a destination options header of a size, all padding.
func longExtension(size int) []byte {
	b := make([]byte, size)
	b[1], b[2], b[3] = byte(size/8-1), 1, byte(size-4)
	return b
}
