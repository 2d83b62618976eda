// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/node"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// openKernel opens the kernel's maps with pins in dir.
func openKernel(t *testing.T, dir, cgroup string) dataplane {
	t.Helper()
	plane, err := openDataplane(&settings{node: "node.a", maps: mapsKernel, pinDir: dir, cgroup: cgroup}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return plane
}

// Row 24: a restart with nothing new writes nothing, and one that finds an edited map repairs it.
//
// Fault 10: what was edited while no programmer ran is named, and repaired without asking for all rows.
func TestARestartOnPinnedMapsWritesNothing(t *testing.T) {
	testkit.NeedKernel(t)
	dir, cgroup := filepath.Join(testkit.BPFFS(t), "deltaplane"), testkit.NewCgroup(t)
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	c.commit(web(300), false)

	plane := openKernel(t, dir, cgroup)
	p := startProgrammer(t, server.URL(), plane)
	c.converged()
	c.commit(web(299), true)
	a := c.converged()
	if n := a.GetDeltas()[len(a.GetDeltas())-1].GetWrites(); n > 4 {
		t.Errorf("removing one of 300 backends made %d writes", n)
	}
	dumped(t, c)
	p.stop()
	plane.close()

	plane = openKernel(t, dir, cgroup)
	p = startProgrammer(t, server.URL(), plane)
	heard := len(c.heard)
	testkit.Eventually(t, soon, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.heard) > heard
	})
	c.converged()
	dumped(t, c)
	if n := plane.Writes(); n != 0 {
		t.Errorf("a restart with nothing new made %d writes", n)
	}
	p.says("/readyz?verbose", "[+]tables ok")
	p.stop()

	// While no programmer runs, someone edits a map.
	if err := plane.Write([]maps.Write{{Map: abi.Backends, Key: abi.Encode(uint32(7))}}); err != nil {
		t.Fatal(err)
	}
	plane.close()
	plane = openKernel(t, dir, cgroup)
	t.Cleanup(func() {
		plane.close()
		if err := bpf.RemovePins(dir); err != nil {
			t.Error(err)
		}
	})
	c.mu.Lock()
	before := len(c.asked)
	c.mu.Unlock()
	startProgrammer(t, server.URL(), plane)
	if e := c.event("drift"); e.GetSeverity() != schemas.Severity_SEVERITY_WARNING {
		t.Errorf("event %v", e)
	}
	testkit.Eventually(t, soon, func() bool { return plane.Writes() > 0 })
	c.converged()
	dumped(t, c)
	if e := c.event("resynced"); !strings.Contains(e.GetText(), "layer cluster: 1 rows were missing or other than the compiler's, 0 too many") ||
		!strings.Contains(e.GetText(), ": backend 7 (") {
		t.Errorf("told %q, want the backend", e.GetText())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.asked[before:] {
		for _, w := range r.Walks {
			if w.All || r.Positions[w.Layer].Epoch == 0 {
				t.Errorf("the node asked for all rows of layer %s", w.Layer)
			}
		}
	}
}

func TestProgramsGoOnTheInterfacesThatANodeHas(t *testing.T) {
	testkit.NeedKernel(t)
	host, pod := testkit.NewNetNS(t), testkit.NewNetNS(t)
	v4, v6 := netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00::7")
	testkit.Veth(t, host, "pod7", nil, pod, "eth0", []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)})
	testkit.Veth(t, host, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, pod, "router", nil)
	for _, addr := range []netip.Addr{v4, v6} {
		host.Route(t, netip.PrefixFrom(addr, addr.BitLen()), netip.Addr{}, "pod7")
	}
	plane := openKernel(t, "", testkit.NewCgroup(t))
	t.Cleanup(plane.close)
	p := newInterfaces(plane, slog.New(slog.DiscardHandler), node.Options{}, tunnel.Device{Port: tunnel.DefaultPort, Node: 7}, func(text string) { t.Error(text) })
	attached := func() [][]int { return [][]int{plane.attachedPods(), plane.attachedUplinks()} }
	want := [][]int{{host.Index(t, "pod7")}, {host.Index(t, "eth0")}}
	host.Do(t, func() {
		endpoints := []model.Endpoint{{Addr: v4, Pod: "shop/web-7"}, {Addr: v6, Pod: "shop/web-7"}}
		if p.reconcile(endpoints, testTime) {
			t.Errorf("not all was attached: %v", p.late)
		}
		if diff := cmp.Diff(want, attached()); diff != "" {
			t.Errorf("attached (-want +got):\n%s", diff)
		}
		device, err := netlink.LinkByName(tunnel.Name)
		if err != nil || p.tunnel.through != device.Attrs().Index || device.Attrs().Flags&net.FlagUp == 0 {
			t.Fatalf("the programs use device %d between nodes, there is %v, %v", p.tunnel.through, device, err)
		}
		if err := netlink.LinkDel(device); err != nil {
			t.Fatal(err)
		}
		if p.reconcile(nil, testTime) || p.tunnel.through == device.Attrs().Index || p.tunnel.through <= 0 {
			t.Errorf("the programs use device %d after it was removed", p.tunnel.through)
		}
		if p.reconcile(nil, testTime) || !slices.Equal(plane.attachedPods(), want[0]) {
			t.Errorf("a pod's interface lost its programs when its pod was no longer known: %v", plane.attachedPods())
		}
		pair, err := netlink.LinkByName("pod7")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(pair); err != nil {
			t.Fatal(err)
		}
		if p.reconcile(nil, testTime) || len(plane.attachedPods()) != 0 {
			t.Errorf("still attached: %v", plane.attachedPods())
		}
	})
}
