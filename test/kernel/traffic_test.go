// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// hook is one of the programs.
type hook int

const (
	fromPodHook hook = iota
	toPodHook
	fromUplinkHook
	toUplinkHook
	fromTunnelHook // of what comes unwrapped from other nodes
)

// String names the hook.
func (h hook) String() string {
	return []string{"from pod", "to pod", "from uplink", "to uplink", "from tunnel"}[h]
}

// leaving says that the packet leaves the node's stack.
func (h hook) leaving() bool { return h == toPodHook || h == toUplinkHook }

// ofPod says that it is at a pod's interface, where policies judge.
func (h hook) ofPod() bool { return h == fromPodHook || h == toPodHook }

// passage is a frame and where it passes.
type passage struct {
	hook  hook
	frame []byte
	outer bpf.Outer // of what comes unwrapped
}

// traffic makes the packets of a world: clients that dial, what the programs made of it on its way through the node, and
// answers to what arrived, so that connections live through all their states; and odd ones in between.
type traffic struct {
	*world
	recent  []sent    // what clients sent
	passing []passage // what came in and was let on: next it leaves
	arrived []passage // what has left: next it is answered, from where it went
	met     []sent    // ends that packets are exchanged between without a Service
}

// kept bounds each of traffic's memories.
const kept = 12

// sent is a packet that a client sent: its like is the likeliest to find a bug.
type sent struct {
	protocol               model.Protocol
	source, dst            netip.AddrPort
	sequence, acknowledged uint32
}

// String orders packets for people.
func (s sent) String() string { return fmt.Sprintf("%s %s → %s", s.protocol, s.source, s.dst) }

func remember[T any](list []T, what T) []T {
	list = append(list, what)
	return slices.Clone(list[max(0, len(list)-kept):])
}

// next makes the next packet.
func (t *traffic) next() passage {
	if t.rules != nil && t.choose(2) == 0 {
		return t.direct()
	}
	switch n := t.choose(12); {
	case n < 4 && len(t.passing) > 0:
		i := len(t.passing) - 1
		if t.choose(4) == 0 {
			i = t.choose(len(t.passing))
		}
		p := t.passing[i]
		t.passing = slices.Delete(t.passing, i, i+1)
		return p
	case n < 7 && len(t.arrived) > 0:
		return t.answer(one(t.world, t.arrived))
	case n == 7 && len(t.arrived) > 0:
		return t.complaint(one(t.world, t.arrived))
	case n == 8:
		return t.stray()
	}
	return t.dial()
}

// went notes what became of a passage that was let on, as frame.
func (t *traffic) went(p passage, frame []byte) {
	seen, ok := refmodel.See(frame)
	if !ok {
		return
	}
	parsed := seen.Fragment()
	if p.hook.leaving() {
		t.arrived = remember(t.arrived, passage{hook: p.hook, frame: frame})
		return
	}
	to := parsed.Destination.Addr()
	switch {
	case slices.Contains(t.here, to):
		t.passing = remember(t.passing, passage{hook: toPodHook, frame: frame})
	case slices.Contains(nodes, to): // the node's own: it arrived, and is answered by what leaves
		t.arrived = remember(t.arrived, passage{hook: fromUplinkHook, frame: frame})
	default:
		t.passing = remember(t.passing, passage{hook: toUplinkHook, frame: frame})
	}
}

// dial makes a client's packet, mostly the first of something.
func (t *traffic) dial() passage {
	s := t.fresh()
	if len(t.recent) > 0 && t.choose(3) == 0 {
		s = one(t.world, t.recent) // again
	}
	if s.sequence == 0 || t.choose(4) == 0 {
		s.sequence = uint32(1000 * (1 + t.choose(3)))
	}
	t.recent = remember(t.recent, s)
	flags := one(t.world, []byte{flagSYN, flagSYN, flagSYN, flagACK, flagACK, flagFIN | flagACK, flagRST, flagRST | flagACK, 0})
	return passage{hook: t.side(s.source.Addr()), frame: t.frame(s, flags)}
}

// side is the hook that sees what comes from an address.
func (t *traffic) side(from netip.Addr) hook {
	if slices.Contains(t.here, from) {
		return fromPodHook
	}
	return fromUplinkHook
}

// fresh makes a client that dials something.
func (t *traffic) fresh() sent {
	s := sent{protocol: one(t.world, protocols)}
	clients := slices.Concat(t.here, outsiders)
	if t.choose(6) == 0 {
		clients = elsewhere
	}
	port := one(t.world, []uint16{40000, 40001})
	if to := one(t.world, t.services); t.likely(5) { // that there is, or was of late
		s.protocol, s.dst = to.protocol, t.frontend(to)
	} else {
		s.dst = netip.AddrPortFrom(one(t.world, slices.Concat(vips, externals, nodes, t.servers)), one(t.world, slices.Concat(dialled, served, nodePorts)))
	}
	s.source = netip.AddrPortFrom(t.ofFamily(s.dst.Addr(), clients), port)
	if t.choose(60) == 0 { // nobody to answer to
		s.source = netip.AddrPortFrom(t.ofFamily(s.dst.Addr(), parseAddrs("0.0.0.0", "224.0.0.1", "255.255.255.255", "ff02::1")), port)
	}
	return s
}

// frontend is one of a Service's, or nearly.
func (w *world) frontend(s service) netip.AddrPort {
	switch w.choose(5) {
	case 0:
		if s.nodePort != 0 {
			return netip.AddrPortFrom(w.ofFamily(s.vip, nodes), s.nodePort)
		}
	case 1:
		if s.external.IsValid() {
			return netip.AddrPortFrom(s.external, s.port)
		}
	case 2:
		if s.balancer.IsValid() {
			return netip.AddrPortFrom(s.balancer, s.port)
		}
	}
	return netip.AddrPortFrom(s.vip, s.port)
}

// answer makes whoever got a packet say something back.
func (t *traffic) answer(to passage) passage {
	p, hasPorts := refmodel.Parse(to.frame)
	if !hasPorts {
		return t.answerWithoutPorts(to)
	}
	s := sent{protocol: p.Protocol, source: p.Destination, dst: p.Source, sequence: 5000, acknowledged: p.Sequence + 1}
	if t.choose(6) == 0 {
		s.acknowledged += uint32(1 << t.choose(30))
	}
	flags := one(t.world, []byte{flagSYN | flagACK, flagACK, flagACK, flagACK, flagFIN | flagACK, flagRST, flagRST | flagACK})
	if flags&flagRST != 0 {
		s.sequence = t.resetSequence(to.frame)
	}
	return passage{hook: turned[to.hook], frame: t.frame(s, flags)}
}

// resetSequence is one that a receiver takes, or not: what the other side acknowledged last, and near it.
func (t *traffic) resetSequence(frame []byte) uint32 {
	acknowledged := uint32(77)
	if p, ok := refmodel.Parse(frame); ok && p.Protocol == model.TCP && len(frame) >= 14+20+12 {
		at := 14 + 20
		if p.Source.Addr().Is6() {
			at = 14 + 40
		}
		if len(frame) >= at+12 {
			acknowledged = binary.BigEndian.Uint32(frame[at+8:])
		}
	}
	return acknowledged + one(t.world, []uint32{0, 0, 1, 1000, 1 << 23, 1 << 25, ^uint32(0), 1 << 31})
}

// stray makes a packet at a hook where nothing says that it belongs.
func (t *traffic) stray() passage {
	s := t.fresh()
	if t.choose(2) == 0 {
		s.source, s.dst = s.dst, s.source
	}
	if len(t.services) > 0 && t.choose(2) == 0 {
		if of := one(t.world, t.services); len(of.backends) > 0 {
			s.protocol, s.source = of.protocol, one(t.world, of.backends).at
			s.dst = netip.AddrPortFrom(t.ofFamily(s.source.Addr(), slices.Concat(t.here, outsiders, nodes)), one(t.world, []uint16{40000, 40001}))
		}
	}
	s.sequence, s.acknowledged = uint32(1000*(1+t.choose(3))), 77
	return passage{hook: hook(t.choose(4)), frame: t.frame(s, one(t.world, []byte{flagSYN, flagACK, flagFIN, flagRST, flagSYN | flagACK}))}
}

// complaint makes a router, or whoever got a packet, say that it went no further.
func (t *traffic) complaint(about passage) passage {
	seen, _ := refmodel.See(about.frame)
	p, quoted := seen.Fragment(), about.frame[14:]
	if t.choose(3) != 0 {
		quoted = quoted[:min(len(quoted), one(t.world, []int{20, 27, 28, 35, 38, 47, 48, 57, 58}))]
	}
	sayer := t.ofFamily(p.Source.Addr(), parseAddrs("10.0.0.1", "fd00::1"))
	if t.choose(2) == 0 {
		sayer = p.Destination.Addr()
	}
	f := frameSpec{sent: sent{source: netip.AddrPortFrom(sayer, 0), dst: netip.AddrPortFrom(p.Source.Addr(), 0)}, payload: quoted}
	f.icmp = one(t.world, []byte{3, 3, 11, 12, 2, 1, 8})
	if t.choose(20) == 0 {
		f.options = bytesOf(1, 4)
	}
	return passage{hook: turned[about.hook], frame: f.bytes()}
}

// turned is where an answer comes to what passed a hook.
var turned = map[hook]hook{toPodHook: fromPodHook, toUplinkHook: fromUplinkHook, fromUplinkHook: toUplinkHook, fromPodHook: toPodHook}

// TCP's flags, RFC 9293 3.1.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)
