// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// refusingPort is another's connect4 program: it refuses one port, with EPERM, and allows all else.
func refusingPort(t testing.TB, cgroup string, port uint16) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "other", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R1, asm.R1, 24, asm.Word), // user_port of struct bpf_sock_addr
			asm.Mov.Imm(asm.R0, 1),
			asm.JNE.Imm(asm.R1, int32(port>>8|port<<8), "allow"),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return().WithSymbol("allow"),
		},
	})
	check(t, err)
	t.Cleanup(func() { p.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: p})
	check(t, err)
	t.Cleanup(func() { l.Close() })
}

// enterChild moves this process into a cgroup within another, as a container's is within its pod's.
func enterChild(t testing.TB, parent string) string {
	t.Helper()
	child := filepath.Join(parent, "container")
	check(t, os.Mkdir(child, 0o755))
	join := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d", os.Getpid()), 0o644)
	}
	check(t, join(child))
	t.Cleanup(func() {
		check(t, join(parent))
		testkit.Eventually(t, patience, func() bool { return os.Remove(child) == nil })
	})
	return child
}

// TestOthersProgramsGoOn: programs of others on the same cgroup, attached before and after ours, and on one within,
// say what they have to say; and so do ours.
//
// Trap 27: programs of others on the same cgroup, before and after ours, and on one within, go on.
func TestOthersProgramsGoOn(t *testing.T) {
	testkit.NeedKernel(t)
	parent := testkit.EnterCgroup(t)
	refusingPort(t, parent, 81)
	f := newFabric(t, bpf.Options{})
	check(t, f.plane.AttachCgroup(parent))
	refusingPort(t, parent, 82)
	child := enterChild(t, parent)
	refusingPort(t, child, 83)
	serve(t, f.backend, backend4+":8080")
	testkit.Put(t, f.plane, testkit.Service{
		Set: 1, Protocol: model.TCP, Backends: backends(1, backend4+":8080"),
		Frontends: at("10.96.0.1:80", "10.96.0.1:81", "10.96.0.1:82", "10.96.0.1:83"),
	})
	wantReach(t, f.client, "tcp4", "10.96.0.1:80", backend4+":8080")
	wantRefused(t, f.client, "tcp4", "10.96.0.1:81", syscall.EPERM)
	// Those after ours see what it made of the address.
	wantReach(t, f.client, "tcp4", "10.96.0.1:82", backend4+":8080")
	wantRefused(t, f.client, "tcp4", "10.96.0.1:83", syscall.EPERM)
	f.plane.Close()
	if _, err := reach(t, f.client, "tcp4", "10.96.0.1:82"); !errors.Is(err, syscall.EPERM) {
		t.Errorf("without ours the other's program says %v, want EPERM", err)
	}
}
