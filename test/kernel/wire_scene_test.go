// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// An outpost is a node with one uplink, behind which all else is: clients outside and another node, at the far end of a
// veth.
type outpost struct {
	testing.TB
	node, far *testkit.NetNS
	up        netlink.Link
	next      net.HardwareAddr // of the far end

	// Of the random frames: the later fragments of the last datagram that is in fragments, and its flow. They come in order:
	// what waited for its first fragment would meet the programs at the interface.
	later     [][]byte
	laterOf   abi.Tuple
	datagrams uint32 // that are in fragments
}

const (
	outpostNode4, outpostNode6 = "192.0.2.1", "2001:db8::1"
	outpostFar4, outpostFar6   = "192.0.2.2", "2001:db8::2" // the other node's
	hereID, thereID            = model.NodeID(1), model.NodeID(2)
)

func newOutpost(t testing.TB) *outpost {
	t.Helper()
	testkit.NeedKernel(t)
	o := &outpost{TB: t, node: testkit.NewNetNS(t), far: testkit.NewNetNS(t)}
	o.node.Sysctl(t, "net/ipv4/ip_forward", "1")
	o.node.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	testkit.Veth(t, o.node, "up", pair(outpostNode4, outpostNode6), o.far, "eth0", nil)
	o.far.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		check(t, err)
		o.next = l.Attrs().HardwareAddr
	})
	o.node.Do(t, func() {
		var err error
		o.up, err = netlink.LinkByName("up")
		check(t, err)
		for _, addr := range []string{outpostFar4, outpostFar6} {
			check(t, netlink.NeighAdd(&netlink.Neigh{
				LinkIndex: o.up.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(addr), HardwareAddr: o.next,
			}))
		}
	})
	return o
}

// takeFrames gives the far end an XDP program, without which a veth sends nothing back to it that XDP sends.
func (o *outpost) takeFrames() *outpost {
	o.Helper()
	o.far.Do(o, func() {
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
			Flags: unix.BPF_F_XDP_HAS_FRAGS,
		})
		check(o, err)
		l := must(netlink.LinkByName("eth0"))(o)
		at, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: l.Attrs().Index, Flags: link.XDPDriverMode})
		check(o, err)
		o.Cleanup(func() { at.Close(); pass.Close() })
	})
	return o
}

// jumbo has both ends of the uplink take frames that are larger than a buffer.
func (o *outpost) jumbo() *outpost {
	o.Helper()
	for ns, name := range map[*testkit.NetNS]string{o.node: "up", o.far: "eth0"} {
		ns.Do(o, func() { check(o, netlink.LinkSetMTU(must(netlink.LinkByName(name))(o), 9000)) })
	}
	return o
}

// load attaches programs to the node, and returns what to write their rows into. Nodes reach each other as over says.
func (o *outpost) load(mode bpf.XDPMode, over4, over6 bool) *edge {
	o.Helper()
	var plane *bpf.Dataplane
	o.node.Do(o, func() {
		wrapping := tunnel.Device{Port: tunnel.DefaultPort, Node: hereID}
		device, err := wrapping.Keep()
		check(o, err)
		plane, err = bpf.Load(bpf.Options{
			Flows: 1 << 16, Capacities: small, Node: hereID, XDP: mode, RefusalsPerSecond: 1e9,
			Tunnel: bpf.Tunnel{VNI: tunnel.DefaultVNI, Port: tunnel.DefaultPort},
		})
		check(o, err)
		o.Cleanup(plane.Close)
		check(o, plane.AttachUplink(o.up.Attrs().Index))
		check(o, plane.AttachTunnel(device))
		check(o, wrapping.PutUp(device))
		check(o, plane.UseTunnel(device))
		for _, w := range must(plane.FitXDP())(o) {
			if w.Mode != mode && mode != "" {
				o.Fatalf("XDP is %s, want %s: %s", w.Mode, mode, w.Reason)
			}
		}
	})
	e := &edge{o, plane, newBook(o, plane)}
	e.network(model.NetworkPods, "10.0.0.0/14")
	e.network(model.NetworkPods, "fd00::/32")
	here, there := model.Node{ID: hereID}, model.Node{ID: thereID}
	if over4 {
		here.V4, there.V4 = netip.MustParseAddr(outpostNode4), netip.MustParseAddr(outpostFar4)
	}
	if over6 {
		here.V6, there.V6 = netip.MustParseAddr(outpostNode6), netip.MustParseAddr(outpostFar6)
	}
	e.cluster.Nodes[hereID], e.cluster.Nodes[thereID] = here, there
	uplink := abi.Uplink{V4: netip.MustParseAddr(outpostNode4).As16(), V6: netip.MustParseAddr(outpostNode6).As16()}
	check(o, plane.SetUplinks(map[int]abi.Uplink{int(abi.UplinkAny): uplink, o.up.Attrs().Index: uplink}))
	check(o, plane.SetLocals(map[netip.Addr]uint8{
		netip.MustParseAddr(outpostNode4): abi.LocalNodePort, netip.MustParseAddr(outpostNode6): abi.LocalNodePort,
	}))
	return e
}

// must returns what a call returned that may not fail.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return value
	}
}

// outpostVIP is the load balancer's address, IPv4 and IPv6.
const outpostVIP4, outpostVIP6 = "203.0.113.1:80", "[2001:db8:113::1]:80"

// serve writes a Service of each family and protocol with one backend on a node, by sets 1 to 4. A client that has been
// there before is known to get the same.
func (e *edge) serve(flags model.FrontendFlags, node model.NodeID) {
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		for j, s := range []struct {
			family       model.Family
			backend, vip string
		}{{model.IPv4, remotePod4, outpostVIP4}, {model.IPv6, remotePod6, outpostVIP6}} {
			id := model.SetID(2*i + j + 1)
			e.root(id, p, s.family, s.backend)
			set := e.cluster.Sets[id]
			set.Affinity = 3600
			set.Flags |= model.External
			e.cluster.Sets[id] = set
			for id, row := range e.cluster.Backends {
				if row.Set == set.ID {
					row.Node = node
					e.cluster.Backends[id] = row
				}
			}
			e.front(id, model.FrontendLoadBalancer, flags, s.vip)
			e.ownFront(id, model.MatchNodePort, flags, 30080)
		}
	}
}

// addressed gives a frame the node's and the far end's addresses.
func (o *outpost) addressed(s segment) segment {
	s.sourceMAC, s.dst = o.next, o.up.Attrs().HardwareAddr
	return s
}

// withHops sets what is left of the hops of a frame without options, and its ECN bits.
func withHops(frame []byte, hops, ecn byte) []byte {
	if frame[12] == 0x86 {
		frame[14+7] = hops
		frame[14+1] = frame[14+1]&0xcf | ecn<<4
		return frame
	}
	header := frame[14 : 14+int(frame[14]&15)*4]
	header[8], header[1] = hops, header[1]&0xfc|ecn
	binary.BigEndian.PutUint16(header[10:], 0)
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum+sum>>16))
	return frame
}

// listen opens a raw socket at the far end, which the caller closes.
func (o *outpost) listen(t testing.TB) *wire {
	t.Helper()
	w := &wire{t: t}
	o.far.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		check(t, err)
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		check(t, err)
		check(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
		check(t, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}))
	})
	return w
}
