// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/capture"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// in runs do in a place's network namespace.
func (s *scene) in(t *testing.T, place string, do func() error) {
	t.Helper()
	at, err := s.Place(place)
	check(t, err)
	check(t, space.OpenNamespace(at.Namespace).Do(do))
}

// links gives do the links of a place's namespace.
func (s *scene) links(t *testing.T, place string, do func(links *netlink.Handle, uplink netlink.Link)) {
	t.Helper()
	at, err := s.Place(place)
	check(t, err)
	links, err := space.OpenNamespace(at.Namespace).Links()
	check(t, err)
	defer links.Close()
	uplink, err := links.LinkByName("eth0")
	check(t, err)
	do(links, uplink)
}

// forgetNeighbours makes a place ask who has the addresses of others on its link, which were written down.
func (s *scene) forgetNeighbours(t *testing.T, place string) {
	t.Helper()
	s.links(t, place, func(links *netlink.Handle, uplink netlink.Link) {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			known, err := links.NeighList(uplink.Attrs().Index, family)
			check(t, err)
			for _, n := range known {
				if n.State&unix.NUD_NOARP == 0 {
					check(t, links.NeighDel(&n))
				}
			}
		}
	})
}

// Row 14: the first packets between nodes, and to a client, wait until their neighbours' addresses are known.
func TestNeighboursAreAskedForFirst(t *testing.T) {
	s := borderScene(t)
	for _, b := range farServices() {
		for _, to := range b.balancers() {
			for client, protocol := range map[string]string{lab.Outside: "tcp", otherClient: "udp"} {
				for _, place := range []string{"node/node-1", "node/node-2"} {
					s.forgetNeighbours(t, place)
				}
				s.reaches(t, client, "node/node-1", to, protocol, agent.OK)
			}
		}
	}
}

// Trap 6: a client's IPv4 options get to the pod on another node, and no way to forward adds any of its own.
func TestOptionsOfClientsAreKeptAndNoneAreAdded(t *testing.T) {
	s := borderScene(t)
	x := s.tap(t, lab.Outside, "node/node-1", "node/node-2", "shop/far")
	routerAlert := string([]byte{148, 4, 0, 0})
	for i, b := range farServices() {
		if b.mode == "snat" {
			continue
		}
		port := uint16(23000 + i)
		conn := s.from(t, lab.Outside, "tcp", port, b.balancers()[0], func(fd int) error {
			return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, routerAlert)
		})
		if pod, client := asked(t, conn); pod != "shop/far" || client.String() != conn.LocalAddr().String() {
			t.Errorf("%s: reaches %s as %s", b.mode, pod, client)
		}
		for j, c := range x.all {
			frames, err := c.Frames()
			check(t, err)
			for _, f := range frames {
				h, ok := hopOf(t, f)
				if !ok || h.from.Port() != port && h.to.Port() != port {
					continue
				}
				summedUp(t, f)
				inner := f.Bytes
				if h.wrapped != nil {
					inner = inner[len(inner)-len(innerOf(t, inner)):]
				}
				if got, want := optionsOf(inner), h.from.Port() == port; got != want {
					t.Errorf("%s, %s: %s → %s has options: %t, want %t", b.mode, x.names[j], h.from, h.to, got, want)
				}
				if h.wrapped != nil && optionsOf(f.Bytes) {
					t.Errorf("%s, %s: what wraps has options", b.mode, x.names[j])
				}
			}
		}
	}
}

// innerOf is the frame within a wrapped one.
func innerOf(t *testing.T, frame []byte) []byte {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	return p.TransportLayer().LayerPayload()[vxlanBytes:]
}

func optionsOf(frame []byte) bool {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip, ok := p.NetworkLayer().(*layers.IPv4)
	return ok && ip.IHL > 5
}

// fastPort is where a pod takes data with a SYN.
const fastPort = 8098

// Row 14: data that comes with a SYN (TCP Fast Open) gets to a pod on another node with it, in each way to forward.
func TestDataComesWithTheSYN(t *testing.T) {
	s := borderScene(t)
	sysctl := func(place, value string) {
		s.in(t, place, func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte(value), 0) })
	}
	sysctl(lab.Outside, "5")   // as a client, also without a cookie
	sysctl("shop/far", "1538") // as a server, for all that listen, without a cookie
	var listener net.Listener
	s.in(t, "shop/far", func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", fastPort))
		return err
	})
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "shop/far %s\n", conn.RemoteAddr())
			t.Cleanup(func() { conn.Close() })
		}
	}()
	s.picky(t, "at: far", fastPort, "")
	x := s.tap(t, "shop/far")
	port := uint16(24000)
	eachPicky(func(mode string, to netip.AddrPort, protocol string) {
		if protocol != "tcp" {
			return
		}
		port++
		conn := s.from(t, lab.Outside, "tcp", port, to, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})
		if pod, _ := asked(t, conn); pod != "shop/far" {
			t.Errorf("%s: reaches %q", mode, pod)
		}
		frames, err := x.all[0].Frames()
		check(t, err)
		if !slices.ContainsFunc(frames, func(f capture.Frame) bool { return !f.Out && bringsData(f.Bytes, port) }) {
			t.Errorf("%s to %s: no SYN with data has come", mode, to)
		}
	})
}

func bringsData(frame []byte, port uint16) bool {
	tcp, ok := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).TransportLayer().(*layers.TCP)
	return ok && tcp.SYN && uint16(tcp.SrcPort) == port && len(tcp.Payload) > 0
}
