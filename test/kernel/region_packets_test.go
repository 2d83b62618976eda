// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// flight is a passage at a node.
type flight struct {
	passage
	node int
}

// dialed is what a client has sent, and where the network brought it.
type dialed struct {
	sent
	node int
}

// next makes the next packet.
func (r *region) next() flight {
	switch n := r.choose(12); {
	case n < 6 && len(r.inFlight) > 0:
		i := len(r.inFlight) - 1
		if r.choose(6) == 0 {
			i = r.choose(len(r.inFlight))
		}
		f := r.inFlight[i]
		r.inFlight = slices.Delete(r.inFlight, i, i+1)
		return f
	case n < 9 && len(r.arrived) > 0:
		return r.answer(one(r.world, r.arrived))
	case n == 9:
		if f, ok := r.forge(); ok {
			return f
		}
	}
	return r.dial()
}

// dial makes a client's packet: of a connection that it has, by whichever node, or the first of something.
func (r *region) dial() flight {
	d := r.fresh()
	flags := one(r.world, []byte{flagSYN, flagSYN, flagSYN, flagACK, flagACK, flagACK, flagFIN | flagACK, flagRST})
	if len(r.recent) > 0 && r.choose(3) != 0 {
		d = one(r.world, r.recent)
		if r.choose(4) == 0 {
			d.node = r.nodeFor(d.dst)
			r.tally()["moved"]++
		}
	}
	if d.sequence == 0 || r.choose(4) == 0 {
		d.sequence = uint32(1000 * (1 + r.choose(3)))
	}
	d.acknowledged = 77
	r.recent = remember(r.recent, d)
	frame := r.segment(d.sent, flags)
	if r.choose(20) == 0 {
		hops(frame, byte(1+r.choose(2)))
	}
	return flight{passage{hook: fromUplinkHook, frame: frame}, d.node}
}

func (r *region) tally() tally { return r.nodes[0].tally }

// segment makes the bytes, now and then with what headers may have more.
func (r *region) segment(s sent, flags byte) []byte {
	f := frameOf(s, one(r.world, [][]byte{nil, []byte("x"), []byte("hello, Service")}))
	f.flags = flags
	f.withoutChecksum = s.protocol == model.UDP && r.choose(6) == 0
	switch r.choose(12) {
	case 0:
		f.options = bytesOf(1, 4*(1+r.choose(10)))
	case 1:
		f.extensions = one(r.world, [][]byte{{60}, {0, 60}, {51}})
	case 2:
		f.padding = 1 + r.choose(20)
	case 3:
		f.tcpOptions = bytesOf(1, 4*(1+r.choose(10)))
	case 4:
		f.lengthOff = one(r.world, []int{1, 200})
	}
	return f.bytes()
}

// hops gives a packet fewer of them to take.
func hops(frame []byte, left byte) {
	if frame[14]>>4 == 6 {
		frame[14+7] = left
		return
	}
	ip := frame[14 : 14+4*int(frame[14]&15)]
	ip[8], ip[10], ip[11] = left, 0, 0
	binary.BigEndian.PutUint16(ip[10:], refmodel.Checksum(ip))
}

// fresh makes a client that dials something.
func (r *region) fresh() dialed {
	d := dialed{sent: sent{protocol: model.TCP}}
	s := one(r.world, r.services)
	d.protocol, d.dst = s.protocol, netip.AddrPortFrom(s.vip, s.port)
	var exposed []netip.AddrPort
	if s.nodePort != 0 {
		exposed = append(exposed, netip.AddrPortFrom(r.ofFamily(s.vip, one(r.world, r.nodes).own), s.nodePort))
	}
	for _, a := range []netip.Addr{s.external, s.balancer} {
		if a.IsValid() {
			exposed = append(exposed, netip.AddrPortFrom(a, s.port))
		}
	}
	if r.choose(12) != 0 {
		d.dst = one(r.world, exposed)
	}
	clients := outsiders
	if r.choose(10) == 0 {
		clients = one(r.world, r.nodes).pods[:1]
		if s.vip.Is6() {
			clients = one(r.world, r.nodes).pods[2:]
		}
	}
	d.source = netip.AddrPortFrom(r.ofFamily(d.dst.Addr(), clients), one(r.world, []uint16{40000, 40001}))
	d.node = r.nodeFor(d.dst)
	return d
}

// nodeFor is where the network brings what a client sends: an address of a node's to that node.
func (r *region) nodeFor(to netip.AddrPort) int {
	if i := r.nodeOf(to.Addr()); i >= 0 {
		return i
	}
	return r.choose(len(r.nodes))
}

// nodeOf is the node that has an address, or whose pod has; -1 is none.
func (r *region) nodeOf(a netip.Addr) int {
	return slices.IndexFunc(r.nodes, func(n *regionNode) bool { return slices.Contains(n.own, a) || slices.Contains(n.pods, a) })
}

func (r *region) numbered(id model.NodeID) int {
	return slices.IndexFunc(r.nodes, func(n *regionNode) bool { return n.number == id })
}

// answer makes whoever got a packet say something back.
func (r *region) answer(to flight) flight {
	p, _ := refmodel.Parse(to.frame)
	s := sent{protocol: p.Protocol, source: p.Destination, dst: p.Source, sequence: 5000, acknowledged: p.Sequence + 1}
	flags := one(r.world, []byte{flagSYN | flagACK, flagACK, flagACK, flagFIN | flagACK, flagRST | flagACK})
	f := flight{passage{hook: to.hook, frame: r.segment(s, flags)}, to.node}
	if to.hook == fromUplinkHook && r.choose(4) == 0 { // a client's, whom the network may move
		f.node = r.nodeFor(s.dst)
	}
	return f
}

// forge makes what nobody wraps, or somebody else does: other backends, other numbers, from other addresses, in another
// network.
func (r *region) forge() (flight, bool) {
	if len(r.recent) == 0 || len(r.cluster.Backends) == 0 {
		return flight{}, false
	}
	from, to := one(r.world, r.nodes), r.choose(len(r.nodes)-1) // the last takes none
	w := refmodel.Wrapping{From: from.number, Backend: model.BackendID(1 + r.choose(len(r.ids)+1))}
	outer := bpf.Outer{Source: one(r.world, from.own), VNI: regionVNI}
	switch r.choose(8) {
	case 0:
		outer.Source = r.ofFamily(outer.Source, outsiders)
	case 1:
		outer.VNI++
	case 2:
		w.From++
	case 3:
		w.Backend = 0
	case 4:
		outer.Source = one(r.world, one(r.world, r.nodes).own)
	}
	d := one(r.world, r.recent)
	d.acknowledged = 77
	if w.Backend == 0 && r.choose(2) == 0 {
		d.source, d.dst = d.dst, d.source
	}
	frame := frameOf(d.sent, []byte("forged"))
	frame.flags = one(r.world, []byte{flagSYN, flagACK, flagRST})
	return flight{passage{hook: fromTunnelHook, frame: w.Wrap(frame.bytes()), outer: outer}, to}, true
}

// went follows a packet to where it goes next.
func (r *region) went(f flight, p refmodel.Packet, did refmodel.Outcome, out []byte) {
	n := r.nodes[f.node]
	if did.Told.Reason == model.ReasonNoWay {
		return
	}
	if w := did.Wrapped; w != (refmodel.Wrapping{}) {
		if i := r.numbered(w.To); i >= 0 && r.nodes[i].kernel.around.Tunnel {
			outer := bpf.Outer{Source: one(r.world, n.own), VNI: regionVNI}
			r.inFlight = remember(r.inFlight, flight{passage{hook: fromTunnelHook, frame: out, outer: outer}, i})
		}
		return
	}
	if did.Verdict != refmodel.Forward || p.Later {
		return
	}
	to := did.Destination.Addr()
	next := func(h hook, node int) { r.inFlight = remember(r.inFlight, flight{passage{hook: h, frame: out}, node}) }
	arrives := func(answersAt hook, node int) {
		r.arrived = remember(r.arrived, flight{passage{hook: answersAt, frame: out}, node})
	}
	sentOn := f.hook == fromTunnelHook && slices.Equal(out[:14], f.frame[:14]) // an answer that leaves as it came
	switch at := r.nodeOf(to); {
	case f.hook == toPodHook:
		arrives(fromPodHook, f.node)
	case (f.hook == toUplinkHook || sentOn) && at < 0: // a client outside has it
		arrives(fromUplinkHook, f.node)
	case f.hook == toUplinkHook && at != f.node:
		next(fromUplinkHook, at)
	case at == f.node && slices.Contains(n.pods, to):
		next(toPodHook, f.node)
	case at == f.node:
		arrives(toUplinkHook, f.node)
	default:
		next(toUplinkHook, f.node)
	}
}

// count notes what was seen.
func (r *region) count(f flight, p refmodel.Packet, did refmodel.Outcome) {
	c := r.tally()
	amid := p.Protocol == model.TCP && !p.SYN
	switch w := did.Wrapped; {
	case did.Told.Reason == model.ReasonNoWay:
		c["without a way"]++
	case did.Verdict == refmodel.Reject && w != (refmodel.Wrapping{}):
		c["refused back"]++
	case did.Verdict == refmodel.Reject:
		c["refused"]++
	case did.Verdict == refmodel.Drop && did.Told.Reason == model.ReasonForeignTunnel:
		c["dropped as foreign"]++
	case did.Verdict == refmodel.Drop && did.Told.Reason == model.ReasonStaleTables && f.hook == fromTunnelHook:
		c["dropped as stale"]++
	case did.Verdict == refmodel.Drop:
		c["dropped"]++
	case w.Backend != 0 && amid:
		c["steered amid a connection"]++
	case w.Backend != 0:
		c["wrapped"]++
	case w.To != 0:
		c["answer wrapped"]++
	case f.hook == fromTunnelHook && did.Source == p.Source && did.Destination == p.Destination:
		c["answer sent on"]++
	case f.hook == fromTunnelHook:
		c["unwrapped"]++
	case f.hook == toUplinkHook && did.Source != p.Source && p.Source.Port() >= 40000: // a client's
		c["masqueraded there"]++
	case f.hook == toUplinkHook && did.Source != p.Source:
		c["answered directly"]++
	}
}
