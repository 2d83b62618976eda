// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestCleanupRemovesAllOfOursAndNothingElse: links, maps of both layouts, filters with and without a pin.
func TestCleanupRemovesAllOfOursAndNothingElse(t *testing.T) {
	needTCX(t)
	root := testkit.BPFFS(t)
	dir := filepath.Join(root, "node")
	old := installV1(t, dir)
	d := load(t, dir)
	check(t, d.Map(abi.Sets).Pin(filepath.Join(root, "not-ours")))
	ns, ifindex := newPort(t)
	ns.Do(t, func() {
		check(t, attachFilter(ifindex, podPort.ways()[1], d.program("from_pod"), ""))
		foreign := ourFilter(ifindex, podPort.ways()[1], filterPlace{1, 1})
		foreign.Name, foreign.Fd = "another", d.program("from_pod").FD()
		check(t, netlink.FilterReplace(foreign))
		d.Close()

		planned, err := Cleanup(dir, true)
		check(t, err)
		links, _ := linkIDs(t, dir)
		if n := filters(t, ifindex); len(links) != 10 || n != 2 {
			t.Fatalf("a dry run left %d links of 10 and %d filters of 2", len(links), n)
		}
		removed, err := Cleanup(dir, false)
		check(t, err)
		if diff := cmp.Diff(planned, removed); diff != "" {
			t.Errorf("planned and removed: %s", diff)
		}
		for _, want := range []string{"socket program connect4 of cgroup", "program of interface", "filter deltaplane_from_pod of interface pod", "map flows_v1 (room for 1024)", "map flows_v2"} {
			if !strings.Contains(strings.Join(removed, "\n"), want) {
				t.Errorf("%q was not removed: %q", want, removed)
			}
		}
		if n := filters(t, ifindex); n != 1 {
			t.Errorf("%d filters, want the other's", n)
		}
		again, err := Cleanup(dir, false)
		check(t, err)
		if len(again) > 0 {
			t.Errorf("a second time: %q", again)
		}
	})
	old.ns.Do(t, func() {
		if n := attachedPrograms(t, old.ifindex); n != 0 {
			t.Errorf("%d programs at the pod's interface", n)
		}
	})
	if _, err := os.Stat(filepath.Join(root, "not-ours")); err != nil {
		t.Errorf("another's pin: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
}

// TestCleanupUnmountsWhatWeMounted and only if nobody else has pins there.
func TestCleanupUnmountsWhatWeMounted(t *testing.T) {
	testkit.NeedKernel(t)
	dir := t.TempDir()
	check(t, MountBPFFS(dir))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // if the test has failed
	d := load(t, dir)
	other := filepath.Join(dir, "not-ours")
	check(t, d.Map(abi.Sets).Pin(other))
	d.Close()
	_, err := Cleanup(dir, false)
	check(t, err)
	if !onBPFFS(dir) {
		t.Fatal("unmounted with another's pin in it")
	}
	check(t, os.Remove(other))
	removed, err := Cleanup(dir, false)
	check(t, err)
	if onBPFFS(dir) {
		t.Errorf("still mounted after %q", removed)
	}
}
