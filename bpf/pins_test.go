// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

var small = map[abi.Map]uint32{abi.Frontends: 64, abi.Sets: 64, abi.Slots: 64, abi.Backends: 64, abi.MaglevIndex: 16, abi.Endpoints: 16}

func load(t *testing.T, pinDir string) *Dataplane {
	t.Helper()
	d, err := Load(Options{PinDir: pinDir, Capacities: small, Flows: 1024, Connections: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPositionsOutliveTheProcess(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	d := load(t, dir)
	want := model.Position{Epoch: 3, Revision: 1<<40 + 5, Digest: model.Digest{7, 1 << 63}}
	check(t, d.WritePosition(model.LayerNode, want))
	if got, err := d.ReadPosition(model.LayerCluster); err != nil || got != (model.Position{}) {
		t.Errorf("the other layer's position is %v, %v", got, err)
	}
	d.Close()
	got, err := load(t, dir).ReadPosition(model.LayerNode)
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// linkIDs returns the ids of pinned links and the ids of the programs they hold, by pin.
func linkIDs(t *testing.T, dir string) (links map[string]link.ID, programs map[string]ebpf.ProgramID) {
	t.Helper()
	links, programs = map[string]link.ID{}, map[string]ebpf.ProgramID{}
	entries, err := os.ReadDir(linksDir(dir))
	check(t, err)
	for _, e := range entries {
		l, err := link.LoadPinnedLink(filepath.Join(linksDir(dir), e.Name()), nil)
		check(t, err)
		info, err := l.Info()
		check(t, err)
		links[e.Name()], programs[e.Name()] = info.ID, info.Program
		check(t, l.Close())
	}
	return links, programs
}

// newPort makes an interface in a namespace of its own and returns both.
func newPort(t *testing.T) (*testkit.NetNS, int) {
	t.Helper()
	ns := testkit.NewNetNS(t)
	testkit.Veth(t, ns, "pod", nil, ns, "peer", nil)
	return ns, ns.Index(t, "pod")
}

// needTCX skips on kernels that have filters instead; see TestFiltersOnKernelsWithoutTCX.
func needTCX(t *testing.T) {
	t.Helper()
	testkit.NeedKernel(t)
	if !load(t, "").ports.tcx {
		t.Skip("this kernel has no tcx: that came with Linux 6.6")
	}
}

// Trap 34: programs are exchanged within their pinned links, which are never made anew.
func TestRestartExchangesProgramsInPlace(t *testing.T) {
	needTCX(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	cgroup := testkit.NewCgroup(t)
	ns, ifindex := newPort(t)
	start := func() *Dataplane {
		d := load(t, dir)
		check(t, d.AttachCgroup(cgroup))
		ns.Do(t, func() { check(t, d.AttachPod(ifindex)) })
		return d
	}
	d := start()
	testkit.Put(t, d, testkit.Service{Set: 1, Protocol: model.TCP})
	check(t, d.AttachCgroup(cgroup)) // twice is once
	linksBefore, programsBefore := linkIDs(t, dir)
	if len(linksBefore) != 12 {
		t.Fatalf("%d pinned links, want 10 for sockets and 2 for the pod: %v", len(linksBefore), linksBefore)
	}
	d.Close()

	d = start()
	linksAfter, programsAfter := linkIDs(t, dir)
	if diff := cmp.Diff(linksBefore, linksAfter); diff != "" {
		t.Errorf("links were made anew: %s", diff)
	}
	for pin, id := range programsAfter {
		if id == programsBefore[pin] {
			t.Errorf("%s still has the program of the first run", pin)
		}
	}
	var set abi.BackendSet
	if err := d.Map(abi.Sets).Lookup(abi.Encode(uint32(1)), &set); err != nil {
		t.Errorf("the maps of the first run: %v", err)
	}
	if diff := cmp.Diff([]int{ifindex}, d.AttachedPods()); diff != "" {
		t.Error(diff)
	}
}

// Trap 27: when the cgroup is gone, the programs move to the one that is there.
func TestSocketProgramsMoveToAnotherCgroup(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	first, second := testkit.NewCgroup(t), testkit.NewCgroup(t)
	check(t, load(t, dir).AttachCgroup(first))
	check(t, os.Remove(first)) // as a container's root goes when it is made anew
	check(t, load(t, dir).AttachCgroup(second))
	want, err := cgroupID(second)
	check(t, err)
	l, err := link.LoadPinnedLink(filepath.Join(linksDir(dir), "connect4"), nil)
	check(t, err)
	defer l.Close()
	info, err := l.Info()
	check(t, err)
	if got := info.Cgroup().CgroupId; got != want {
		t.Errorf("connect4 is on cgroup %d, want %d", got, want)
	}
}

func TestInterfaceThatGoesAndComesAgain(t *testing.T) {
	needTCX(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	d := load(t, dir)
	ns, ifindex := newPort(t)
	ns.Do(t, func() {
		check(t, d.AttachPod(ifindex))
		l, err := netlink.LinkByIndex(ifindex)
		check(t, err)
		check(t, netlink.LinkDel(l))
		if err := d.AttachPod(ifindex); err == nil {
			t.Error("attached to an interface that is gone")
		}
		// The index is given to another interface.
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "again", Index: ifindex}, PeerName: "other"}
		check(t, netlink.LinkAdd(pair))
		check(t, d.AttachPod(ifindex))
		if n := attachedPrograms(t, ifindex); n != 2 {
			t.Errorf("%d programs at the new interface, want 2", n)
		}
		check(t, d.DetachPod(ifindex))
		check(t, d.DetachPod(ifindex)) // what has none is fine
		if n := attachedPrograms(t, ifindex); n != 0 {
			t.Errorf("%d programs left after detaching", n)
		}
	})
	if pods := d.AttachedPods(); len(pods) > 0 {
		t.Errorf("attached: %v", pods)
	}
}

// attachedPrograms counts the tcx programs at an interface.
func attachedPrograms(t *testing.T, ifindex int) int {
	t.Helper()
	count := 0
	for _, dir := range podPort.ways() {
		q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: dir.attach})
		check(t, err)
		count += len(q.Programs)
	}
	return count
}

// Trap 33: an interface's programs of others are left alone when ours go.
func TestOthersProgramsStay(t *testing.T) {
	needTCX(t)
	d, other := load(t, ""), load(t, "")
	ns, ifindex := newPort(t)
	ns.Do(t, func() {
		check(t, other.AttachPod(ifindex))
		check(t, d.AttachPod(ifindex))
		check(t, d.DetachPod(ifindex))
		if n := attachedPrograms(t, ifindex); n != 2 {
			t.Errorf("%d programs, want the 2 of the other", n)
		}
	})
}

func TestFiltersOnKernelsWithoutTCX(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	ns, ifindex := newPort(t)
	for range 2 { // the second takes the place of the first
		d := load(t, dir)
		d.ports.tcx = false
		ns.Do(t, func() {
			check(t, d.AttachPod(ifindex))
			if n := filters(t, ifindex); n != 2 {
				t.Errorf("%d filters, want 2", n)
			}
		})
		if diff := cmp.Diff([]int{ifindex}, load(t, dir).AttachedPods()); diff != "" {
			t.Error(diff)
		}
		d.Close()
	}
	ns.Do(t, func() {
		check(t, RemovePins(dir))
		if n := filters(t, ifindex); n != 0 {
			t.Errorf("%d filters left", n)
		}
	})
}

func filters(t *testing.T, ifindex int) int {
	t.Helper()
	l, err := netlink.LinkByIndex(ifindex)
	check(t, err)
	count := 0
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, err := netlink.FilterList(l, parent)
		check(t, err)
		count += len(list)
	}
	return count
}

func TestRemovePinsLeavesOthers(t *testing.T) {
	testkit.NeedKernel(t)
	root := testkit.BPFFS(t)
	dir := filepath.Join(root, "node")
	d := load(t, dir)
	check(t, d.AttachCgroup(testkit.NewCgroup(t)))
	check(t, d.Map(abi.Sets).Pin(filepath.Join(root, "not-ours")))
	check(t, RemovePins(dir))
	check(t, RemovePins(dir))
	for _, gone := range []string{mapsDir(dir), linksDir(dir)} {
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "not-ours")); err != nil {
		t.Errorf("another's pin: %v", err)
	}
}

// TestWhatPeopleSee provokes the errors that configuration and surroundings may cause.
func TestWhatPeopleSee(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	d := load(t, "")
	for _, c := range []struct {
		name string
		want string
		do   func() error
	}{
		{"pins on no bpffs", "mount -t bpf", func() error { _, err := Load(Options{PinDir: t.TempDir()}); return err }},
		{"a bpffs that this user may not look into", "it is root's alone", func() error { return as(65534, func() error { return checkBPFFS(dir) }) }},
		{"no cgroup there", "no such file", func() error { return d.AttachCgroup("/nowhere") }},
		{"a directory that is no cgroup", "is no cgroup: find the version 2", func() error { return d.AttachCgroup(t.TempDir()) }},
		{"interface zero", "want an index above 0", func() error { return d.AttachPod(0) }},
		{"no such interface", "attach to_pod to interface 99999", func() error { return d.AttachPod(99999) }},
	} {
		err := c.do()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want a message with %q", c.name, err, c.want)
		}
	}
}

// as runs f with another user's rights to files.
func as(uid uintptr, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uid, 0, 0) // this thread's alone
	defer func() { _, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0) }()
	return f()
}

// TestMissingHookIsNamed pretends that the kernel is older than it is.
func TestMissingHookIsNamed(t *testing.T) {
	err := missingHook(func(attach ebpf.AttachType) error {
		if attach == ebpf.AttachCgroupInet6GetPeername {
			return syscall.EINVAL
		}
		return nil
	})
	const want = "this kernel has no socket hook getpeername6, which came with Linux 5.8 (and needs CONFIG_CGROUP_BPF): invalid argument"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestGraceEnds(t *testing.T) {
	check(t, Grace())
}

// TestGraceWithoutMembarrier is what kernels with nohz_full processors do.
func TestGraceWithoutMembarrier(t *testing.T) {
	testkit.NeedKernel(t)
	check(t, graceByMap())
}

func TestProbeFindsNothingMissing(t *testing.T) {
	testkit.NeedKernel(t)
	check(t, Probe())
}
