// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// Row 8: who is in no source range of a load balancer is dropped before there is a packet, where XDP is on.
// Row 9: so is who dials a Service with policy Local that has no backend here.
func TestFramesOfWhoIsNotServedAreDropped(t *testing.T) {
	t.Parallel()
	e := newEdge(t, bpf.Options{XDP: bpf.XDPGeneric})
	e.root(1, model.TCP, model.IPv4, remotePod4)
	e.root(2, model.TCP, model.IPv6, remotePod6)
	for id, addr := range map[model.SetID]string{1: "203.0.113.1:80", 2: "[2001:db8:113::1]:80"} {
		e.front(id, model.FrontendLoadBalancer, model.SourceRanges, addr)
		e.ownFront(id, model.MatchNodePort, model.ExternalLocal, 30080)
	}
	e.front(1, model.FrontendClusterIP, 0, "10.96.0.1:80")
	e.ranges(1, "198.51.100.128/25")
	e.ranges(2, "2001:db8:8::/48")
	e.write(t)
	syn := segment{syn: true}
	out4, out6 := syn.between(outside4, "203.0.113.1:80"), syn.between(outside6, "[2001:db8:113::1]:80")
	with := func(s segment, change func(*segment)) []byte { change(&s); return s.frame(t) }
	for _, c := range []struct {
		name  string
		frame []byte
		want  bpf.Verdict
	}{
		{"out of range", out4.frame(t), bpf.Drop},
		{"out of range, IPv6", out6.frame(t), bpf.Drop},
		{"in range", syn.between("198.51.100.130:4000", "203.0.113.1:80").frame(t), bpf.Pass},
		{"in range, IPv6", syn.between("[2001:db8:8::1]:4000", "[2001:db8:113::1]:80").frame(t), bpf.Pass},
		{"no local backend", syn.between(outside4, edge4+":30080").frame(t), bpf.Drop},
		{"no local backend, IPv6", syn.between(outside6, "["+edge6+"]:30080").frame(t), bpf.Drop},
		{"a pod's", syn.between("10.1.0.9:4000", "203.0.113.1:80").frame(t), bpf.Pass},
		{"to a ClusterIP", syn.between(outside4, "10.96.0.1:80").frame(t), bpf.Pass},
		{"to no Service", syn.between(outside4, edge4+":22").frame(t), bpf.Pass},
		{"amid a connection", segment{ack: true}.between(outside4, "203.0.113.1:80").frame(t), bpf.Pass},
		{"a VLAN's", tagged(out4.frame(t), 0x8100), bpf.Pass},
		{"with options", with(out4, func(s *segment) { s.v4Options = true }), bpf.Pass},
		{"with an extension header", with(out6, func(s *segment) { s.hopByHop = true }), bpf.Pass},
		{"a fragment", with(out4, func(s *segment) { s.moreFragments = true }), bpf.Pass},
		{"longer than it is", with(out4, func(s *segment) { s.wrongLength = true }), bpf.Pass},
		{"cut off", out4.frame(t)[:40], bpf.Pass},
	} {
		got, out, err := e.plane.RunFromWire(c.frame, 0)
		check(t, err)
		if got != c.want || got == bpf.Pass && !bytes.Equal(out, c.frame) {
			t.Errorf("%s: %v, want %v\n%x\n%x", c.name, got, c.want, c.frame, out)
		}
	}
	want := map[model.DropReason]uint64{model.ReasonSourceRange: 2, model.ReasonNoLocalBackend: 2}
	if diff := cmp.Diff(want, drops(t, e.plane)); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}

// bytesAround is how many bytes are around a wrapped frame.
func bytesAround(frame []byte) int {
	if frame[12] == 0x86 {
		return 14 + 40 + 16
	}
	return 14 + 20 + 16
}

// stranger is a random packet of a client's to a Service, most of them plain. A client has other ports for each: where
// two frontends lead to one backend, a flow may get a random port. It returns what the key of its flow is, too. The largest
// are jumbo frames; none is in several buffers, which the program doesn't take.
func (o *outpost) stranger(r *rand.Rand) ([]byte, abi.Tuple) {
	if len(o.later) > 0 && r.IntN(4) == 0 {
		frame := o.later[0]
		o.later = o.later[1:]
		return frame, o.laterOf
	}
	s := segment{payload: []int{0, 9, 100, 1380, 1400, 1420, 3000}[r.IntN(7)], seq: uint32(r.IntN(2)), acked: uint32(r.IntN(3))}
	from := []string{"198.51.100.7", "198.51.100.8", "198.51.100.200", "10.1.0.9", outpostFar4}
	to := []string{outpostVIP4, outpostNode4 + ":30080", outpostNode4 + ":30081", outpostNode4 + ":22", "203.0.113.2:80", "203.0.113.3:80", "203.0.113.4:80"}
	if r.IntN(2) == 0 {
		from = []string{"2001:db8:7::7", "2001:db8:7::8", "2001:db8:8::1", "fd00:1::9", outpostFar6}
		to = []string{outpostVIP6, "[" + outpostNode6 + "]:30080", "[" + outpostNode6 + "]:22", "[2001:db8:113::2]:80", "[2001:db8:113::4]:80"}
	}
	target := max(0, r.IntN(2*len(to))-len(to))
	client := from[r.IntN(len(from))]
	if target == len(to)-1 {
		client = from[0] // not inside, whom no table serves: it would be sent to any backend
	}
	s.from, s.to = net.JoinHostPort(client, fmt.Sprint(40000+10*target+r.IntN(3))), to[target]
	switch r.IntN(5) {
	case 0, 1:
		s.udp = true
	case 2:
		s.syn = true
	case 3:
		s.syn, s.acked = r.IntN(2) == 0, 0
		s.rst, s.fin = r.IntN(4) == 0, r.IntN(4) == 0
	default:
		s.ack = true
	}
	switch r.IntN(12) {
	case 0:
		s.v4Options, s.hopByHop = true, true
	case 1:
		s.moreFragments = true
	}
	s = o.addressed(s)
	source, service := netip.MustParseAddrPort(s.from), netip.MustParseAddrPort(s.to)
	key := abi.Tuple{
		Source: source.Addr().As16(), Destination: service.Addr().As16(), Protocol: uint8(model.TCP),
		SourcePort: abi.Port(source.Port()), DestinationPort: abi.Port(service.Port()),
	}
	if s.udp {
		key.Protocol = uint8(model.UDP)
	}
	if r.IntN(10) == 0 {
		s.dst = net.HardwareAddr{2, 9, 9, 9, 9, 9} // another host
	}
	frame := withHops(s.frame(o), []byte{64, 64, 64, 2, 1}[r.IntN(5)], byte(r.IntN(4)))
	switch r.IntN(16) {
	case 0:
		return tagged(frame, 0x8100), key
	case 3:
		if s.payload > 0 && !s.moreFragments && !s.hopByHop {
			o.datagrams++
			pieces := fragmentsOf(frame, o.datagrams, 8*(1+s.payload/32))
			o.later, o.laterOf = pieces[1:], key
			return pieces[0], key
		}
	case 4:
		return o.complaint(r, s), key
	case 1:
		return append(frame, make([]byte, 8)...), key // as short frames are padded
	case 2:
		return frame[:len(frame)-min(len(frame)-14, r.IntN(40))], key
	}
	return frame, key
}

// complaint is an ICMP error of a router, or a host's, about an answer to a client.
func (o *outpost) complaint(r *rand.Rand, about segment) []byte {
	service, kind, router := netip.MustParseAddrPort(about.to), uint8(3), "198.51.100.1"
	if service.Addr().Is6() {
		kind, router = uint8(1+r.IntN(2)), "2001:db8:7::1"
	}
	about.from, about.to, about.v4Options, about.hopByHop, about.moreFragments = about.to, about.from, false, false, false
	answer := about.frame(o)[14:]
	frame := icmpError(o, router, service.Addr().String(), kind, answer[:min(len(answer), 28+r.IntN(40))])
	copy(frame, o.up.Attrs().HardwareAddr)
	copy(frame[6:], o.next)
	return frame
}

// Row 17: what XDP does with a frame is what the packet programs would have done, and what it passes on they get untouched.
func TestXDPDoesWhatThePacketProgramsDo(t *testing.T) {
	t.Parallel()
	o := newOutpost(t)
	o.node.Route(t, netip.MustParsePrefix("198.51.100.8/32"), netip.MustParseAddr(outpostFar4), "up") // the way back to one client
	for _, over := range []struct {
		v4, v6 bool
		mode   model.FrontendFlags
		strict []int // uplinks that ask for it
	}{{true, true, model.ForwardTunnel, nil}, {false, true, model.ForwardDSR, []int{o.up.Attrs().Index}}} {
		wired, plain := o.load(bpf.XDPNative, over.v4, over.v6), o.load("", over.v4, over.v6)
		for _, e := range []*edge{wired, plain} {
			check(t, e.plane.CheckSources(over.strict))
			e.serve(over.mode|model.SourceRanges, thereID)
			for _, id := range []model.SetID{1, 2, 3, 4} {
				e.ranges(id, "198.51.100.0/28", "2001:db8:7::/48")
			}
			e.root(5, model.TCP, model.IPv4, localPod4)
			e.front(5, model.FrontendExternalIP, model.ForwardTunnel, "203.0.113.2:80")
			e.root(6, model.TCP, model.IPv4)
			e.front(6, model.FrontendExternalIP, model.ForwardDSR, "203.0.113.3:80")
			e.ownFront(5, model.MatchNodePort, model.ExternalLocal, 30081)
			e.root(7, model.UDP, model.IPv6, remotePod6) // of an unknown node: masqueraded
			e.front(7, model.FrontendExternalIP, model.ForwardTunnel, "[2001:db8:113::2]:80")
			e.serveByTable(8, model.TCP, model.IPv4, "203.0.113.4:80", "10.2.0.%d:8080")
			e.serveByTable(9, model.UDP, model.IPv6, "[2001:db8:113::4]:80", "[fd00:2::%d]:8080")
			e.write(t)
		}
		o.compare(wired, plain, rand.New(rand.NewPCG(anySeed(t), 0)))
		check(t, wired.plane.DetachUplink(o.up.Attrs().Index))
		check(t, plain.plane.DetachUplink(o.up.Attrs().Index))
	}
}

// compare gives random frames to a node with XDP and to one without.
func (o *outpost) compare(wired, plain *edge, r *rand.Rand) {
	o.Helper()
	up, met := o.up.Attrs().Index, map[bpf.Verdict]int{}
	o.node.Do(o, func() {
		for i := range 2000 {
			frame, key := o.stranger(r)
			want, wantOut, wantErr := plain.plane.RunFromUplink(frame, up)
			if wantErr != nil {
				continue // the kernel runs no packet without an IP header
			}
			got, out, err := wired.plane.RunFromWire(frame, up)
			check(o, err)
			met[got]++
			switch got {
			case bpf.Pass:
				if !bytes.Equal(frame, out) {
					o.Fatalf("frame %d was passed on, and changed:\n%x\n%x", i, start(frame), start(out))
				}
				got, out, err = wired.plane.RunFromUplink(frame, up)
				check(o, err)
			case bpf.Wrap:
				got, out = bpf.Refuse, out[bytesAround(out):] // to tc all that is sent is one
			case bpf.Drop:
				out = wantOut
			}
			if got != want || !bytes.Equal(out, wantOut) {
				o.Fatalf("frame %d: %v with XDP, %v without\n%x\n%x\n%x", i, got, want, start(frame), start(out), start(wantOut))
			}
			if wants, has := flowOf(o, plain, key), flowOf(o, wired, key); wants != has {
				o.Fatalf("frame %d: the flow with XDP is %+v, without %+v\n%x", i, has, wants, start(frame))
			}
		}
	})
	if diff := cmp.Diff(drops(o, plain.plane), drops(o, wired.plane)); diff != "" {
		o.Errorf("drops without and with XDP: %s", diff)
	}
	for _, v := range []bpf.Verdict{bpf.Pass, bpf.Drop, bpf.Wrap} {
		if met[v] < 10 {
			o.Errorf("too few frames of verdict %v: %v", v, met)
		}
	}
	o.Logf("frames by what XDP did: %v", met)
}

// flowOf is what a node knows of a flow, but for when its packets came: whether a client's datagrams came in two seconds
// says if theirs is half open.
func flowOf(t testing.TB, e *edge, key abi.Tuple) abi.Flow {
	t.Helper()
	flow, _, err := e.plane.Flow(key)
	check(t, err)
	flow.Seen = 0
	if key.Protocol == uint8(model.UDP) {
		flow.State, flow.HalfOpen = 0, 0
	}
	return flow
}

// serveByTable writes a Service whose backends, which are on both nodes, a table picks.
func (e *edge) serveByTable(set model.SetID, p model.Protocol, family model.Family, vip, backend string) {
	var addrs []string
	for i := range 5 {
		addrs = append(addrs, fmt.Sprintf(backend, 100+i))
	}
	e.root(set, p, family, addrs...)
	row := e.cluster.Sets[set]
	row.Flags |= model.External
	e.cluster.Sets[set] = row
	for i := range addrs {
		b := e.cluster.Backends[model.BackendID(100*int(set)+i)]
		b.Node = []model.NodeID{thereID, hereID, thereID}[i%3]
		e.cluster.Backends[b.ID] = b
	}
	e.front(set, model.FrontendExternalIP, model.ForwardDSR, vip)
}

// start is as much of a frame as a person looks at.
func start(frame []byte) []byte { return frame[:min(len(frame), 160)] }

// Row 17: what XDP wraps is, on the wire, what the kernel's device sends: all but a random identification and source port;
// frames of several buffers, too.
// Trap 31: XDP sends back through a veth whose other end has a program, and finds the headroom that it needs.
func TestXDPWrapsAsTheKernelsDeviceDoes(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		o := newOutpost(t).jumbo().takeFrames()
		var sent [3][][]byte
		for i, mode := range []bpf.XDPMode{"", bpf.XDPNative, bpf.XDPGeneric} {
			e := o.load(mode, !v6, v6)
			e.serve(model.ForwardTunnel, thereID)
			e.write(t)
			before := o.byDevice()
			sent[i] = o.sendAll()
			if n := int(o.byDevice() - before); mode == "" && n != len(sent[i]) || mode != "" && n != 0 {
				t.Errorf("XDP %q: %d of %d packets went by the device, want all without XDP, and none with it", mode, n, len(sent[i]))
			}
			check(t, e.plane.DetachUplink(o.up.Attrs().Index))
		}
		for i := range sent[0] {
			want := o.comparable(sent[0][i])
			for _, got := range [][]byte{sent[1][i], sent[2][i]} {
				if diff := cmp.Diff(want, o.comparable(got)); diff != "" {
					t.Errorf("over IPv6 %v: packet %d of the device, and of XDP: %s", v6, i, diff)
				}
			}
		}
	}
}

// byDevice returns how many packets the device has wrapped.
func (o *outpost) byDevice() (packets uint64) {
	o.node.Do(o, func() { packets = must(netlink.LinkByName(tunnel.Name))(o).Attrs().Statistics.TxPackets })
	return packets
}

// sendAll sends the packets of four flows, and returns what comes back wrapped.
func (o *outpost) sendAll() (all [][]byte) {
	w := o.listen(o)
	defer unix.Close(w.fd)
	for _, flow := range []segment{
		{from: outside4, to: outpostVIP4, syn: true},
		{from: outside4, to: outpostVIP4, udp: true},
		{from: outside6, to: outpostVIP6, syn: true},
		{from: outside6, to: outpostVIP6, udp: true, payload: 9},
	} {
		for i, more := range []int{0, 30, 60, 90, 1200, 2400, 3600, 1300} {
			flow.payload += more
			all = append(all, w.wrapped(withHops(o.addressed(flow).frame(o), byte(60+i), byte(i%4))))
			flow.syn, flow.ack = false, !flow.udp
		}
	}
	return all
}

// wrapped sends a frame and returns the next that comes back wrapped.
func (w *wire) wrapped(frame []byte) []byte {
	w.t.Helper()
	must(unix.Write(w.fd, frame))(w.t)
	b := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		check(w.t, err)
		udp := bytesAround(b) - 16
		if n > udp+16 && binary.BigEndian.Uint16(b[udp+2:]) == tunnel.DefaultPort {
			return bytes.Clone(b[:n])
		}
	}
}

// comparable is a wrapped frame with its checksum verified, and what is random set to zero.
func (o *outpost) comparable(frame []byte) []byte {
	o.Helper()
	udp := bytesAround(frame) - 16
	if port := binary.BigEndian.Uint16(frame[udp:]); port < 32768 || port > 60999 {
		o.Errorf("source port %d is none that the kernel gives", port)
	}
	clear(frame[udp : udp+2])
	if frame[12] == 0x08 {
		want := binary.BigEndian.Uint16(frame[24:])
		withHops(frame, frame[22], frame[15])
		if got := binary.BigEndian.Uint16(frame[24:]); got != want {
			o.Errorf("the outer checksum is %x, want %x", want, got)
		}
		clear(frame[18:20])
		clear(frame[24:26])
	}
	return frame
}
