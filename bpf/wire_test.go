// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// loadXDP loads the programs for a mode of XDP.
func loadXDP(t *testing.T, pinDir string, mode XDPMode) *Dataplane {
	t.Helper()
	testkit.NeedKernel(t)
	d, err := Load(Options{PinDir: pinDir, Capacities: small, Flows: 1024, Connections: 1024, XDP: mode})
	check(t, err)
	t.Cleanup(d.Close)
	return d
}

// fitOne makes an interface an uplink, and says how it stands with XDP.
func fitOne(t *testing.T, d *Dataplane, ifindex int) Wire {
	t.Helper()
	if len(d.AttachedUplinks()) == 0 {
		check(t, d.AttachUplink(ifindex))
	}
	list, err := d.FitXDP()
	check(t, err)
	if len(list) != 1 {
		t.Fatalf("%d uplinks, want one: %v", len(list), list)
	}
	return list[0]
}

// xdpAt returns the identifier of the XDP program of an interface, and its mode.
func xdpAt(t *testing.T, ifindex int) (id uint32, mode XDPMode) {
	t.Helper()
	at, err := netlink.LinkByIndex(ifindex)
	check(t, err)
	xdp := at.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return 0, XDPOff
	}
	return xdp.ProgId, map[uint32]XDPMode{1: XDPNative, 2: XDPGeneric}[xdp.AttachMode] // XDP_ATTACHED_ of if_link.h
}

// Trap 34: a restart exchanges the XDP program within its pinned link; another mode makes another, and off removes it.
func TestXDPIsKeptOverRestartsAndFollowsItsMode(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	ns, ifindex := newPort(t)
	var links []link.ID
	for _, mode := range []XDPMode{XDPNative, XDPNative, XDPGeneric, XDPOff, XDPGeneric, XDPAuto} {
		want := mode
		if mode == XDPAuto {
			want = XDPOff // a veth is no hardware's
		}
		d := loadXDP(t, dir, mode)
		ns.Do(t, func() {
			if got := fitOne(t, d, ifindex); got.Mode != want || got.Reason == "" && mode == XDPAuto {
				t.Errorf("asked for %s: %+v", mode, got)
			}
			if got := fitOne(t, d, ifindex); got.Mode != want {
				t.Errorf("asked for %s twice: %+v", mode, got)
			}
			id, at := xdpAt(t, ifindex)
			if at != want {
				t.Errorf("asked for %s: the kernel has it %s", mode, at)
			}
			if want != XDPOff {
				info, err := d.program(wireProgram).Info()
				check(t, err)
				if ours, _ := info.ID(); uint32(ours) != id {
					t.Errorf("asked for %s: program %d is there, want ours, %d", mode, id, ours)
				}
				info2, err := d.wires.at[ifindex].link.Info()
				check(t, err)
				links = append(links, info2.ID)
			}
		})
		d.Close()
	}
	if links[0] != links[1] || links[1] == links[2] {
		t.Errorf("links %v: want the first two to be one", links)
	}
}

func TestXDPIsOffWhereFramesWouldBeMistaken(t *testing.T) {
	ethernet := func(at netlink.Link) netlink.Link {
		at.Attrs().EncapType, at.Attrs().HardwareAddr = "ether", make([]byte, 6)
		return at
	}
	for _, c := range []struct {
		name string
		at   netlink.Link
		mode XDPMode
		vlan string
		want string // part of the reason; nothing: it is on
	}{
		{"hardware", ethernet(&netlink.Device{}), XDPAuto, "", ""},
		{"hardware with a VLAN on it", ethernet(&netlink.Device{}), XDPGeneric, "eth0.5", "eth0.5"},
		{"a VLAN", ethernet(&netlink.Vlan{}), XDPAuto, "", "vlan"},
		{"a VLAN, as was asked for", ethernet(&netlink.Vlan{}), XDPGeneric, "", ""},
		{"a veth", ethernet(&netlink.Veth{}), XDPAuto, "", "veth"},
		{"a bond", ethernet(netlink.NewLinkBond(netlink.LinkAttrs{})), XDPNative, "", "members"},
		{"a tunnel of IP", &netlink.Iptun{}, XDPGeneric, "", "Ethernet"},
	} {
		if got := unfit(c.at, c.mode, c.vlan); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestXDPEndsWithTheUplink(t *testing.T) {
	testkit.NeedKernel(t)
	ns, ifindex := newPort(t)
	d := loadXDP(t, "", XDPGeneric)
	ns.Do(t, func() {
		fitOne(t, d, ifindex)
		check(t, d.DetachUplink(ifindex))
		if _, at := xdpAt(t, ifindex); at != XDPOff {
			t.Errorf("no uplink any more, and the kernel has it %s", at)
		}
	})
}

func TestXDPOfOthersIsLeftAlone(t *testing.T) {
	testkit.NeedKernel(t)
	ns, ifindex := newPort(t)
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	check(t, err)
	defer other.Close()
	d := loadXDP(t, "", XDPNative)
	ns.Do(t, func() {
		theirs, err := link.AttachXDP(link.XDPOptions{Program: other, Interface: ifindex, Flags: link.XDPDriverMode})
		check(t, err)
		want := Wire{Ifindex: ifindex, Mode: XDPOff, Reason: "another XDP program is there"}
		if diff := cmp.Diff(want, fitOne(t, d, ifindex)); diff != "" {
			t.Errorf("beside another's program: %s", diff)
		}
		check(t, theirs.Close())
		if got := fitOne(t, d, ifindex); got.Mode != XDPNative {
			t.Errorf("after the other's is gone: %+v", got)
		}
	})
}

func TestCleanupTakesXDPOff(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	ns, ifindex := newPort(t)
	d := loadXDP(t, dir, XDPNative)
	ns.Do(t, func() {
		fitOne(t, d, ifindex)
		d.Close()
		removed, err := Cleanup(dir, false)
		check(t, err)
		if text := strings.Join(removed, "\n"); !strings.Contains(text, "-native)") {
			t.Errorf("removed %s", text)
		}
		if _, at := xdpAt(t, ifindex); at != XDPOff {
			t.Errorf("after cleaning up the kernel has it %s", at)
		}
	})
}
