// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyLeaks(m) }

var ours = Device{Port: DefaultPort, Node: 0x0a0b0c0d}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keep(t *testing.T, d Device) int {
	t.Helper()
	ifindex, err := d.Keep()
	must(t, err)
	must(t, d.PutUp(ifindex))
	return ifindex
}

// inNode runs f where a node's device may be.
func inNode(t *testing.T, f func()) {
	t.Helper()
	testkit.NeedKernel(t)
	testkit.NewNetNS(t).Do(t, f)
}

// looks is what is promised of the device.
type looks struct {
	Address, Inet        string
	Port, MTU            int
	Up, External         bool
	Forwarding, RPFilter uint32
}

func (d Device) looks(rpFilter uint32) looks {
	return looks{d.hardwareAddr().String(), "[127.222.23.1/32 deltaplane0]", int(d.Port), MTU, true, true, 1, rpFilter}
}

func look(t *testing.T) looks {
	t.Helper()
	l, err := find()
	must(t, err)
	if l == nil {
		t.Fatal("there is no device")
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	must(t, err)
	forwarding, err := read("ipv4", Name, "forwarding")
	must(t, err)
	filter, err := read("ipv4", Name, "rp_filter")
	must(t, err)
	return looks{l.HardwareAddr.String(), fmt.Sprint(addrs), l.Port, l.MTU, l.Flags&net.FlagUp != 0, l.FlowBased, forwarding, filter}
}

func set(t *testing.T, family, device, setting, value string) {
	t.Helper()
	must(t, os.WriteFile(path(family, device, setting), []byte(value), 0))
}

func device(t *testing.T) *netlink.Vxlan {
	t.Helper()
	l, err := find()
	must(t, err)
	return l
}

func vxlan(name string, port int) *netlink.Vxlan {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return &netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: port}
}

// Row 14: a node has the device that packets go through from node to node, whatever was there and whatever becomes of it.
func TestWhatSomebodyDoesToTheDeviceIsSetRight(t *testing.T) {
	off := func(t *testing.T) { t.Helper(); must(t, netlink.LinkSetDown(device(t))) }
	small := func(t *testing.T) { t.Helper(); must(t, netlink.LinkSetMTU(device(t), 1450)) }
	renamed := func(t *testing.T) {
		t.Helper()
		must(t, netlink.LinkSetHardwareAddr(device(t), net.HardwareAddr{2, 0, 0, 0, 0, 1}))
	}
	bare := func(t *testing.T) {
		t.Helper()
		addrs, err := netlink.AddrList(device(t), netlink.FAMILY_V4)
		must(t, err)
		must(t, netlink.AddrDel(device(t), &addrs[0]))
	}
	gone := func(t *testing.T) { t.Helper(); must(t, netlink.LinkDel(device(t))) }
	onPort := func(port int) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			gone(t)
			must(t, netlink.LinkAdd(vxlan(Name, port)))
		}
	}
	setting := func(family, device, name, value string) func(*testing.T) {
		return func(t *testing.T) { t.Helper(); set(t, family, device, name, value) }
	}
	for _, c := range []struct {
		name     string
		do       func(t *testing.T)
		same     bool // it is not another device
		rpFilter uint32
	}{
		{"nothing", func(*testing.T) {}, true, 0},
		{"it is put down", off, true, 0},
		{"its MTU is cut", small, true, 0},
		{"its Ethernet address is another", renamed, true, 0},
		{"its address is taken", bare, true, 0},
		{"it is removed", gone, false, 0},
		{"it has another port", onPort(4789), false, 0},
		{"it takes no packets without a checksum", onPort(DefaultPort), false, 0},
		{"it no longer forwards", setting("ipv4", Name, "forwarding", "0"), true, 0},
		{"IPv6 is off", setting("ipv6", Name, "disable_ipv6", "1"), true, 0},
		{"sources are checked at all interfaces", setting("ipv4", "all", "rp_filter", "1"), true, 2},
		{"sources are checked loosely", setting("ipv4", "all", "rp_filter", "2"), true, 0},
		{"sources are checked at the device", setting("ipv4", Name, "rp_filter", "1"), true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNode(t, func() {
				set(t, "ipv4", "all", "rp_filter", "0")
				set(t, "ipv4", "default", "rp_filter", "0")
				before := keep(t, ours)
				c.do(t)
				after := keep(t, ours)
				if (before == after) != c.same {
					t.Errorf("device %d became %d", before, after)
				}
				if diff := cmp.Diff(ours.looks(c.rpFilter), look(t)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if off, err := read("ipv6", Name, "disable_ipv6"); err != nil || off != 0 {
					t.Errorf("disable_ipv6 is %d, %v", off, err)
				}
			})
		})
	}
}

func TestADeviceThatIsAsItShouldBeIsNotTouched(t *testing.T) {
	inNode(t, func() {
		keep(t, ours)
		news, done := make(chan netlink.LinkUpdate, 16), make(chan struct{})
		must(t, netlink.LinkSubscribe(news, done))
		keep(t, ours)
		marker := vxlan("marker", 4789) // whatever was done to the device is told before this
		must(t, netlink.LinkAdd(marker))
		if got := (<-news).Link.Attrs().Name; got != "marker" {
			t.Errorf("the kernel tells of a change of %s", got)
		}
		close(done)
		for range news { // until it has ended
		}
	})
}

// Trap 37: what others have on the same port, or under the same name, stays as it is.
func TestWhatIsNotOursStays(t *testing.T) {
	inNode(t, func() {
		theirs := vxlan(Name, 4789)
		theirs.FlowBased, theirs.VxlanId = false, 7
		must(t, netlink.LinkAdd(theirs))
		ifindex, err := ours.Keep()
		want := "interface deltaplane0 is not deltaplane's: it is of type vxlan and no VXLAN device whose packets say where they go; remove or rename it"
		if ifindex != 0 || err == nil || err.Error() != want {
			t.Errorf("got %d, %v, want %s", ifindex, err, want)
		}
		if removed, err := Remove(false); removed || err != nil {
			t.Errorf("removed %v, %v", removed, err)
		}
		if l, err := netlink.LinkByName(Name); err != nil || l.Attrs().Index != theirs.Index {
			t.Errorf("their device became %v, %v", l, err)
		}
	})
}

// Trap 37: a UDP port that something else has is named, and taken as soon as it is free.
func TestAPortThatIsTakenIsNamedUntilItIsFree(t *testing.T) {
	for _, c := range []struct {
		name, says string
		take       func(t *testing.T) (release func())
	}{
		{"by a socket", "something else has UDP port 8475 (ss -lunp sport = :8475 says what); stop that", func(t *testing.T) func() {
			t.Helper()
			socket, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", DefaultPort))
			must(t, err)
			return func() { must(t, socket.Close()) }
		}},
		{"by a device that takes everything", "VXLAN interface other has UDP port 8475; remove it (ip link del other)", func(t *testing.T) func() {
			t.Helper()
			l := vxlan("other", DefaultPort)
			l.UDP6ZeroCSumRx, l.UDP6ZeroCSumTx = true, true
			must(t, netlink.LinkAdd(l))
			must(t, netlink.LinkSetUp(l))
			return func() { must(t, netlink.LinkDel(l)) }
		}},
		{"by a device of one network", "VXLAN interface other has UDP port 8475; remove it (ip link del other)", func(t *testing.T) func() {
			t.Helper()
			l := vxlan("other", DefaultPort)
			l.FlowBased, l.VxlanId = false, 7
			must(t, netlink.LinkAdd(l))
			must(t, netlink.LinkSetUp(l))
			return func() { must(t, netlink.LinkDel(l)) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNode(t, func() {
				release := c.take(t)
				for range 2 {
					ifindex, err := ours.Keep()
					if ifindex > 0 && err == nil {
						if err = ours.PutUp(ifindex); !errors.Is(err, ErrPortTaken) {
							t.Errorf("not told as a port that is taken: %v", err)
						}
					}
					if err == nil || !strings.Contains(err.Error(), c.says) {
						t.Errorf("device %d, %v; want: %s", ifindex, err, c.says)
					}
				}
				release()
				keep(t, ours)
				if got := look(t); !got.Up {
					t.Errorf("the device is %+v", got)
				}
			})
		})
	}
}

func TestTheDeviceIsRemoved(t *testing.T) {
	inNode(t, func() {
		keep(t, ours)
		for _, c := range []struct{ dry, want, left bool }{{true, true, true}, {false, true, false}, {false, false, false}} {
			if removed, err := Remove(c.dry); removed != c.want || err != nil {
				t.Errorf("removed: %v, %v", removed, err)
			}
			if left := device(t) != nil; left != c.left {
				t.Errorf("dry run %v: the device is left: %v", c.dry, left)
			}
		}
	})
}

func TestTheDeviceIsMadeWithoutIPv6(t *testing.T) {
	inNode(t, func() {
		set(t, "ipv6", "all", "disable_ipv6", "1")
		set(t, "ipv6", "default", "disable_ipv6", "1")
		keep(t, ours)
		if off, err := read("ipv6", Name, "disable_ipv6"); err != nil || off != 1 {
			t.Errorf("disable_ipv6 is %d, %v", off, err)
		}
		socket, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", DefaultPort))
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("another socket got the port: %v, %v", socket, err)
		}
	})
}

// Row 14: answers over IPv6 are sent on where the node forwards IPv6, and where it doesn't nothing is changed.
func TestTheDeviceForwardsIPv6IfTheNodeDoes(t *testing.T) {
	for _, all := range []string{"0", "1"} {
		inNode(t, func() {
			keep(t, ours)
			set(t, "ipv6", "all", "forwarding", all)
			set(t, "ipv6", Name, "forwarding", "0")
			keep(t, ours)
			if got, err := read("ipv6", Name, "forwarding"); err != nil || fmt.Sprint(got) != all {
				t.Errorf("the node forwards: %s, the device: %d, %v", all, got, err)
			}
		})
	}
}

// Trap 32: interfaces that check sources strictly are told from those that don't, as the kernel does.
func TestInterfacesThatCheckSources(t *testing.T) {
	for _, c := range []struct {
		all, own string
		strict   bool
	}{{"0", "0", false}, {"0", "1", true}, {"1", "0", true}, {"1", "2", false}, {"2", "1", false}} {
		inNode(t, func() {
			set(t, "ipv4", "all", "rp_filter", c.all)
			set(t, "ipv4", "lo", "rp_filter", c.own)
			got, err := StrictAt(map[int]string{1: "lo", 9: "gone"})
			if err != nil || (len(got) == 1) != c.strict {
				t.Errorf("all %s, lo %s: strict at %v, %v", c.all, c.own, got, err)
			}
		})
	}
}
