// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// icmpError is an ICMP error message: who says it to whom, and the start of the packet that it is about.
type icmpError struct {
	sayer, hearer netip.Addr
	about         tuple
	message       int // where the ICMP header begins in the frame
	ip            int // where the quoted packet begins
	quoted        int // where its transport header begins
	end           int // where the message ends
}

// parseError reads an ICMP error: destination unreachable, time exceeded, parameter problem (RFC 792), and packet too
// big (RFC 4443 3). Messages in fragments are left alone; so are those that quote less than the eight bytes of transport
// header that RFC 792 asks for, or a fragment without ports, and those to another than who sent what they quote.
func parseError(frame []byte) (icmpError, bool) {
	if len(frame) < ethernetBytes+ipv4Bytes {
		return icmpError{}, false
	}
	outer, ok := parseNetwork(frame, ethernetBytes, binary.BigEndian.Uint16(frame[12:]) == 0x86dd)
	v6 := outer.Source.Addr().Is6()
	if !ok || outer.First || outer.Later || outer.Protocol != map[bool]model.Protocol{false: 1, true: 58}[v6] ||
		v6 != (binary.BigEndian.Uint16(frame[12:]) == 0x86dd) || !v6 && binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return icmpError{}, false
	}
	e := icmpError{sayer: outer.Source.Addr(), hearer: outer.Destination.Addr(), message: outer.transport, end: Packet{}.end(frame)}
	e.ip = e.message + 8
	if e.end > len(frame) || e.end < e.ip || !isError(frame[e.message], v6) {
		return icmpError{}, false
	}
	about, ok := parseNetwork(frame, e.ip, v6)
	e.quoted = about.transport
	if !ok || about.Later || !carriesServices(about.Protocol) || e.end < e.quoted+shortBytes || e.hearer != about.Source.Addr() {
		return icmpError{}, false
	}
	h := frame[e.quoted:]
	e.about = tuple{
		about.Protocol,
		netip.AddrPortFrom(about.Source.Addr(), binary.BigEndian.Uint16(h)),
		netip.AddrPortFrom(about.Destination.Addr(), binary.BigEndian.Uint16(h[2:])),
	}
	return e, true
}

// parseNetwork reads the IP header at a place in the frame, and what follows it up to the transport header.
func parseNetwork(frame []byte, at int, v6 bool) (Packet, bool) {
	if len(frame) < at {
		return Packet{}, false
	}
	ip := frame[at:]
	if v6 {
		if len(ip) < ipv6Bytes || ip[0]>>4 != 6 {
			return Packet{}, false
		}
		p := Packet{Protocol: model.Protocol(ip[6]), transport: at + ipv6Bytes}
		p.Source, p.Destination = netip.AddrPortFrom(address16(ip[8:]), 0), netip.AddrPortFrom(address16(ip[24:]), 0)
		p.skipExtensions(frame)
		return p, true
	}
	if len(ip) < ipv4Bytes || ip[0]>>4 != 4 || ip[0]&15 < 5 {
		return Packet{}, false
	}
	p := Packet{Protocol: model.Protocol(ip[9]), transport: at + 4*int(ip[0]&15)}
	p.Source, p.Destination = netip.AddrPortFrom(address4(ip[12:]), 0), netip.AddrPortFrom(address4(ip[16:]), 0)
	fragment := binary.BigEndian.Uint16(ip[6:])
	p.Later = fragment&0x1fff != 0
	p.First = !p.Later && fragment&0x2000 != 0
	p.ID = uint32(binary.BigEndian.Uint16(ip[4:]))
	return p, true
}

func isError(kind byte, v6 bool) bool {
	if v6 {
		return kind >= 1 && kind <= 4
	}
	return kind == 3 || kind == 11 || kind == 12
}

// TranslateError returns what must become of a frame that Parse finds no Service's packet in, at the hook where packets
// come in or leave: an ICMP error about a flow is given back as one about what its hearer sent, who could not tell else
// whose it is (RFC 5508 REQ-4 and REQ-5; Linux's nf_nat_icmp_reply_translation). The quoted packet the other way round is
// as if it came by this hook, and becomes what that would; so does the error's own address, if it is the same. All else
// stays as it is.
func (f *Flows) TranslateError(frame []byte, leaving bool) []byte {
	e, ok := parseError(frame)
	if !ok {
		return frame
	}
	becomes, known := f.exchange(tuple{e.about.protocol, e.about.destination, e.about.source}, leaving)
	if !known {
		return frame
	}
	return e.rewrite(frame, becomes.destination, becomes.source)
}

// Fate is what must become of a frame.
type Fate struct {
	Verdict Verdict // Reject where an answer may be given; it need not
	Told    Told    // about one that doesn't go on
	Frame   []byte  // as it goes on
}

// WithoutPorts returns what must become of such a frame, at a pod's interface or an uplink, where it comes in or leaves:
// policies judge it, and an ICMP error is translated. What still comes in to a Service's address then, having been
// translated or not, would go round in circles: a ping above all, since a Service answers none. What a pod sends with ports
// that only its receiver finds may be what nodes alone may send.
func (f *Flows) WithoutPorts(n *Node, frame []byte, atPod, leaving bool, now uint32) Fate {
	s, isIP := See(frame)
	if atPod && !isIP && n.Policed() && mayBeIP(frame) {
		return Fate{Verdict: Drop, Told: Told{Ruling: Ruling{Reason: model.ReasonMalformed}}}
	}
	if atPod && isIP && n.Policed() {
		if r := f.message(n, s, !leaving, now); r.Reason != model.ReasonNone {
			verdict := Drop
			if r.Reason == model.ReasonIsolated && f.Connections.AnswersIsolated && s.answerable() {
				verdict = Reject
			}
			return Fate{Verdict: verdict, Told: Told{r, Ends{s.tuple}}}
		}
	}
	if s.hidden != model.ReasonNone && !leaving && n.mayForge(s.source.Addr(), atPod) {
		return Fate{Verdict: Drop, Told: Told{Ruling: Ruling{Reason: s.hidden}}}
	}
	out := f.TranslateError(frame, leaving)
	if to, ok := See(out); ok && !leaving && n.network(to.destination.Addr()) == model.NetworkServices {
		return Fate{Verdict: Drop, Told: Told{Ruling: Ruling{Reason: model.ReasonUnallocated}}}
	}
	return Fate{Verdict: Forward, Frame: out}
}

// mayBeIP says whether the kernel may find an IP packet in a frame in which none was seen: by its type, or behind tags of
// no VLAN, two of which it takes off (IEEE 802.1Q 9.6, Linux's __netif_receive_skb_core).
func mayBeIP(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800, 0x86dd, 0x8100, 0x88a8:
		return true
	}
	return false
}

// Refused notes that such a frame was answered.
func (f *Flows) Refused(n *Node, frame []byte, leaving bool) {
	if s, isIP := See(frame); isIP {
		f.Connections.expect(n, s.end(!leaving), leaving)
	}
}

// rewrite gives the quoted packet other ends, and the error that it is about. The quoted transport checksum can't be
// worked out afresh, since the packet is cut off: it is changed by what changed.
func (e icmpError) rewrite(frame []byte, source, destination netip.AddrPort) []byte {
	out := slices.Clone(frame)
	h := out[e.quoted:e.end]
	before, after := pseudoEnds(e.about.source, e.about.destination), pseudoEnds(source, destination)
	binary.BigEndian.PutUint16(h, source.Port())
	binary.BigEndian.PutUint16(h[2:], destination.Port())
	adjustTransportChecksum(e.about.protocol, h, before, after)
	sayer, hearer := e.sayer, source.Addr()
	if sayer == e.about.destination.Addr() {
		sayer = destination.Addr()
	}
	putEnds(out[e.ip:], source.Addr(), destination.Addr())
	putEnds(out[ethernetBytes:], sayer, hearer)
	message := out[e.message:e.end]
	binary.BigEndian.PutUint16(message[2:], 0)
	sum := Checksum(message)
	if e.sayer.Is6() {
		sum = Checksum(pseudoHeader(58, len(message), sayer, hearer), message)
	}
	binary.BigEndian.PutUint16(message[2:], sum)
	return out
}

// putEnds gives an IP header other addresses. Its checksum, right or wrong, is changed by what changed.
func putEnds(ip []byte, source, destination netip.Addr) {
	if source.Is6() {
		putAddress(ip[8:], source)
		putAddress(ip[24:], destination)
		return
	}
	old := slices.Clone(ip[12:20])
	putAddress(ip[12:], source)
	putAddress(ip[16:], destination)
	binary.BigEndian.PutUint16(ip[10:], adjusted(binary.BigEndian.Uint16(ip[10:]), old, ip[12:20]))
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
