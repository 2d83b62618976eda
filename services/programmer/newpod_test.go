// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/node"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

var (
	firstPod = netip.MustParseAddr("10.1.0.1") // known from the start, isolated by nothing
	newcomer = netip.MustParseAddr("10.1.0.2")
	outside  = netip.MustParseAddr("192.0.2.2")
)

const listened = 7

// town is a node with an uplink and a pod, and something outside. Both count what the newcomer sends.
type town struct {
	t          *testing.T
	host, far  *testkit.NetNS
	dir        string // of pins
	plane      dataplane
	loaded     *bpf.Dataplane
	interfaces *interfaces
	heard      map[string]*atomic.Int64 // by who listens
}

func newTown(t *testing.T) *town {
	t.Helper()
	testkit.NeedKernel(t)
	w := &town{t: t, host: testkit.NewNetNS(t), heard: map[string]*atomic.Int64{}}
	pod, far := testkit.NewNetNS(t), testkit.NewNetNS(t)
	w.far = far
	w.host.Sysctl(t, "net/ipv4/ip_forward", "1")
	testkit.Veth(t, w.host, "eth0", prefixes("192.0.2.1/24"), far, "eth0", prefixes(outside.String()+"/24"))
	far.Route(t, netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("192.0.2.1"), "")
	testkit.Veth(t, w.host, "pod1", nil, pod, "eth0", prefixes(firstPod.String()+"/32"))
	w.reach(pod)
	w.host.Route(t, netip.PrefixFrom(firstPod, 32), netip.Addr{}, "pod1")
	w.listen("the pod beside it", pod)
	w.listen("someone outside", far)

	w.dir = filepath.Join(testkit.BPFFS(t), "deltaplane")
	w.open()
	w.knows(firstPod)
	testkit.PutPolicy(t, w.loaded, model.Network{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Kind: model.NetworkPods})
	check(t, w.loaded.Judge(true))
	return w
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// open loads the plane, as a programmer does that starts.
func (w *town) open() {
	w.t.Helper()
	w.plane = openKernel(w.t, w.dir, testkit.NewCgroup(w.t))
	w.t.Cleanup(w.plane.close)
	w.loaded = w.plane.(*inKernel).loaded
}

// knows puts a pod's row, of which all is allowed.
func (w *town) knows(addr netip.Addr) {
	w.t.Helper()
	testkit.PutPolicy(w.t, w.loaded, testkit.Pod{Addr: addr, Incarnation: 1})
}

// reach gives a pod its way out, with no question for who is there.
func (w *town) reach(pod *testkit.NetNS) {
	w.t.Helper()
	gateway := netip.MustParseAddr("169.254.1.1")
	pod.Do(w.t, func() {
		l, err := netlink.LinkByName("eth0")
		check(w.t, err)
		check(w.t, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, IP: gateway.AsSlice(), State: unix.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		}))
		check(w.t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("169.254.1.1/32"), Scope: netlink.SCOPE_LINK}))
		check(w.t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice()}))
	})
	w.host.Do(w.t, func() {
		links, err := netlink.LinkList()
		check(w.t, err)
		for _, l := range links {
			if l.Type() == "veth" && l.Attrs().Name != "eth0" && l.Attrs().HardwareAddr.String() != "02:00:00:00:00:01" {
				check(w.t, netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1}))
			}
		}
	})
}

func ipNet(text string) *net.IPNet {
	_, n, _ := net.ParseCIDR(text)
	return n
}

// listen counts what the newcomer's address sends to a namespace.
func (w *town) listen(who string, ns *testkit.NetNS) {
	w.t.Helper()
	var socket net.PacketConn
	ns.Do(w.t, func() {
		var err error
		socket, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", listened))
		check(w.t, err)
	})
	w.t.Cleanup(func() { socket.Close() })
	count := &atomic.Int64{}
	w.heard[who] = count
	go func() {
		buffer := make([]byte, 16)
		for {
			_, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			if from.(*net.UDPAddr).AddrPort().Addr().Unmap() == newcomer {
				count.Add(1)
			}
		}
	}()
}

// total is what everybody heard.
func (w *town) total() (n int64) {
	for _, count := range w.heard {
		n += count.Load()
	}
	return n
}

// attaches runs what attaches programs, in the host's namespace, until it is stopped.
func (w *town) attaches() (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	p := newInterfaces(w.plane, slog.New(slog.DiscardHandler), node.Options{}, tunnel.Device{}, func(text string) { w.t.Log(text) })
	p.changes = func(context.Context) <-chan struct{} { return nil }
	var threads sync.WaitGroup
	p.appear = func(ctx context.Context) <-chan node.Pair {
		news := make(chan node.Pair, 64)
		threads.Go(func() { w.host.Do(w.t, func() { node.Hear(ctx, news) }) })
		return news
	}
	w.interfaces = p
	p.want([]model.Endpoint{{Addr: firstPod, Pod: "shop/first"}})
	threads.Go(func() { w.host.Do(w.t, func() { _ = p.run(ctx) }) })
	testkit.Eventually(w.t, soon, func() bool { return len(w.plane.attachedPods()) > 0 && len(w.plane.attachedUplinks()) > 0 })
	return func() {
		cancel()
		threads.Wait()
	}
}

// pod is a newcomer that sends as fast as it can, to everybody who listens, from before it has an interface.
type pod struct {
	ns   *testkit.NetNS
	sent atomic.Int64
	stop func()
}

func (w *town) newcomer() *pod {
	w.t.Helper()
	p := &pod{ns: testkit.NewNetNS(w.t)}
	var fd int
	p.ns.Do(w.t, func() {
		var err error
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		check(w.t, err)
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	var ended sync.WaitGroup
	ended.Go(func() {
		defer unix.Close(fd)
		for ctx.Err() == nil {
			for _, to := range []netip.Addr{firstPod, outside} {
				if unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Port: listened, Addr: to.As4()}) == nil {
					p.sent.Add(1)
				}
			}
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); ended.Wait() })
	w.t.Cleanup(p.stop)
	return p
}

// plug makes the pod's interface, and all that it needs to send.
func (w *town) plug(p *pod, name string) (ifindex int) {
	w.t.Helper()
	testkit.Veth(w.t, w.host, name, nil, p.ns, "eth0", prefixes(newcomer.String()+"/32"))
	w.reach(p.ns)
	w.host.Route(w.t, netip.PrefixFrom(newcomer, 32), netip.Addr{}, name)
	return w.host.Index(w.t, name)
}

// sends waits until the pod has sent some more.
func (w *town) sends(p *pod, more int64) {
	w.t.Helper()
	from := p.sent.Load()
	testkit.Eventually(w.t, soon, func() bool { return p.sent.Load() >= from+more })
}

// hasPrograms waits until an interface is attached.
func (w *town) hasPrograms(ifindex int) {
	w.t.Helper()
	testkit.Eventually(w.t, soon, func() bool { return slices.Contains(w.plane.attachedPods(), ifindex) })
}

// nothing fails the test if anybody heard the newcomer.
func (w *town) nothing(when string) {
	w.t.Helper()
	for who, count := range w.heard {
		if n := count.Load(); n > 0 {
			w.t.Errorf("%s: %s heard %d packets", when, who, n)
		}
	}
}

// Policy row 7: of a pod that sends from before it has an interface, nothing passes before its row is there; what comes
// after that does.
// Trap 36: a packet that comes before the interface has its programs is stopped where it would leave the node.
func TestNothingPassesOfANewPodBeforeItIsKnown(t *testing.T) {
	w := newTown(t)
	stop := w.attaches()
	defer stop()
	for round := range 5 {
		p := w.newcomer()
		ifindex := w.plug(p, fmt.Sprintf("new%d", round))
		w.hasPrograms(ifindex)
		before := p.sent.Load()
		w.sends(p, 2000)
		w.nothing(fmt.Sprintf("round %d", round))
		t.Logf("round %d: sent %d before the programs were seen attached, %d after", round, before, p.sent.Load()-before)
		p.stop()
		w.host.Do(t, func() {
			l, err := netlink.LinkByIndex(ifindex)
			check(t, err)
			check(t, netlink.LinkDel(l))
		})
	}
	p := w.newcomer()
	w.hasPrograms(w.plug(p, "last"))
	w.nothing("before its row")
	w.knows(newcomer)
	check(t, w.loaded.Judge(true))
	testkit.Eventually(t, soon, func() bool {
		return w.heard["the pod beside it"].Load() > 0 && w.heard["someone outside"].Load() > 0
	})
}

// Policy row 7: what begins to send while no programmer runs is stopped all the same, and a programmer that starts
// attaches to it before it hears of any pod.
func TestNothingPassesOfAPodThatCameWhileNoProgrammerRan(t *testing.T) {
	w := newTown(t)
	w.attaches()()
	w.plane.close()
	p := w.newcomer()
	ifindex := w.plug(p, "new")
	w.sends(p, 2000)
	w.nothing("while no programmer runs")
	w.open()
	stop := w.attaches()
	defer stop()
	w.hasPrograms(ifindex)
	w.sends(p, 2000)
	w.nothing("when one runs again")
	w.knows(newcomer)
	check(t, w.loaded.Judge(true))
	testkit.Eventually(t, soon, func() bool { return w.total() > 0 })
}
