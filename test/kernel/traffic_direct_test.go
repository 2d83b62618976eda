// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// direct makes a packet that is for no Service, of any protocol, from or to a pod of the node: policies alone have a say
// about it. Most are between ends that have met, so that connections live through all that may happen to them.
func (t *traffic) direct() passage {
	if len(t.met) == 0 || t.choose(4) == 0 {
		t.met = remember(t.met, t.stranger())
	}
	s := one(t.world, t.met[max(0, len(t.met)-acquainted):])
	if t.choose(2) == 0 {
		s.source, s.dst = s.dst, s.source
	}
	at := fromUplinkHook
	switch from, to := s.source.Addr(), s.dst.Addr(); {
	case slices.Contains(t.here, from) && (!slices.Contains(t.here, to) || t.choose(2) == 0):
		at = fromPodHook
	case slices.Contains(t.here, to) && t.choose(6) != 0: // what came by an uplink is judged nowhere until it leaves
		at = toPodHook
	}
	if s.protocol == 0 {
		return passage{hook: at, frame: t.withoutPorts(s.source.Addr(), s.dst.Addr())}
	}
	s.sequence = uint32(1000 * (1 + t.choose(3)))
	p := passage{hook: at, frame: t.frame(s, one(t.world, []byte{flagSYN, flagSYN, flagSYN, flagSYN | flagACK, flagACK, flagACK, flagFIN | flagACK, flagFIN | flagACK, flagRST}))}
	if t.choose(8) == 0 {
		return t.complaint(p)
	}
	return p
}

// acquainted is how many ends packets are exchanged between at a time.
const acquainted = 3

// stranger makes a pod meet somebody. Without a protocol it is ICMP, or one that has no ports.
func (t *traffic) stranger() sent {
	pod := one(t.world, t.here)
	peer := t.ofFamily(pod, slices.Concat(t.here, elsewhere, nodes, outsiders))
	if t.choose(20) == 0 { // who belongs to no one: a neighbour, a group, a pod of another network
		peer = t.ofFamily(pod, parseAddrs("169.254.7.7", "224.0.0.1", "10.244.9.9", "fe80::7", "ff02::1", "fd00:1::9"))
	}
	s := sent{
		protocol: one(t.world, []model.Protocol{0, 0, model.TCP, model.TCP, model.TCP, model.UDP, model.UDP, model.SCTP}),
		source:   netip.AddrPortFrom(pod, one(t.world, []uint16{40000, 40001})),
		dst:      netip.AddrPortFrom(peer, one(t.world, []uint16{80, 8080, 53})),
	}
	if t.choose(2) == 0 {
		s.source, s.dst = netip.AddrPortFrom(pod, s.dst.Port()), netip.AddrPortFrom(peer, s.source.Port())
	}
	return s
}

// The messages of ICMP that are not errors, and some that are none: RFC 792, RFC 4443, RFC 4861, RFC 3810.
var (
	messages4 = []byte{8, 8, 8, messageEchoReply, messageEchoReply, 13}
	messages6 = []byte{128, 128, 128, 129, 129, 135, 136, 130, 133, 137, 138, 143, 144}
	others    = []model.Protocol{47, 4, 50, 1, 58, 59}
)

// withoutPorts makes an ICMP message, or a packet of a protocol that has no ports.
func (t *traffic) withoutPorts(from, to netip.Addr) []byte {
	f := frameSpec{sent: sent{source: netip.AddrPortFrom(from, 0), dst: netip.AddrPortFrom(to, 0)}, payload: []byte("hello, neighbour"), id: uint16(t.choose(3))}
	if t.choose(4) == 0 {
		f.protocol = one(t.world, others)
	} else if f.icmp = one(t.world, messages4); from.Is6() {
		f.icmp = one(t.world, messages6)
	}
	t.fragment(&f, 8)
	frame := f.bytes()
	if t.choose(30) == 0 {
		frame = frame[:len(frame)-t.choose(24)]
	}
	return frame
}

// answerWithoutPorts makes a pod or whoever got such a packet answer it.
func (t *traffic) answerWithoutPorts(to passage) passage {
	seen, _ := refmodel.See(to.frame)
	p := seen.Fragment()
	f := frameSpec{sent: sent{protocol: p.Protocol, source: p.Destination, dst: p.Source}, payload: []byte("hello back"), id: uint16(t.choose(3))}
	switch p.Protocol {
	case 1:
		f.icmp = messageEchoReply
	case 58:
		f.icmp = 129
	}
	return passage{hook: turned[to.hook], frame: f.bytes()}
}

// fragment makes one packet in n a fragment.
func (w *world) fragment(f *frameSpec, n int) {
	if w.choose(n) != 0 {
		return
	}
	f.fragment = uint16(0x2000 | w.choose(2)*7)
	if f.source.Addr().Is6() {
		f.extensions = append(f.extensions, 44)
	}
}
