// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Trap 32: until the device is put up, and once it is put down, a stranger's wrapped packet is one to a UDP port that
// nobody has: what is within goes nowhere.
func TestADeviceThatIsDownUnwrapsNothing(t *testing.T) {
	testkit.NeedKernel(t)
	stranger, node := testkit.NewNetNS(t), testkit.NewNetNS(t)
	testkit.Veth(t, stranger, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}, node, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")})
	wrapped := frame(t, netip.MustParseAddrPort("203.0.113.5:40000"), netip.MustParseAddrPort("10.1.0.2:8080"), "wrapped")
	// comesWrapped has what the stranger sends come to a socket of the same port, as it can't to a device as well.
	comesWrapped := func() {
		t.Helper()
		var socket net.PacketConn
		node.Do(t, func() {
			var err error
			socket, err = net.ListenPacket("udp4", net.JoinHostPort("", "8475"))
			must(t, err)
		})
		defer socket.Close()
		stranger.Do(t, func() { send(t, netip.MustParseAddr("192.0.2.1"), wrapped) })
		must(t, socket.SetReadDeadline(time.Now().Add(30*time.Second)))
		got := make([]byte, 2048)
		if n, _, err := socket.ReadFrom(got); err != nil || string(got[:n]) != string(wrapped) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	var ifindex int
	node.Do(t, func() {
		var err error
		ifindex, err = ours.Keep()
		must(t, err)
	})
	comesWrapped()
	node.Do(t, func() {
		must(t, ours.PutUp(ifindex))
		if _, err := net.ListenPacket("udp4", net.JoinHostPort("", "8475")); err == nil {
			t.Error("a device that is up leaves its port to others")
		}
		must(t, ours.PutDown(ifindex))
		again, err := ours.Keep()
		must(t, err)
		if l := device(t); again != ifindex || l.Flags&net.FlagUp != 0 {
			t.Errorf("device %d became %+v", ifindex, l)
		}
	})
	comesWrapped()
	node.Do(t, func() {
		must(t, netlink.LinkDel(device(t)))
		must(t, ours.PutDown(ifindex))
	})
}
