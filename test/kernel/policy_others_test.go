// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Policy row 7: only a new pod is taken for one: where another program at a pod's interface takes the mark off its packets, they
// are known by the pod's row.
func TestAnotherClassifierMakesNoPodNew(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	serve(t, f.backend, backend4+":8080")
	f.judge(t, through)
	testkit.PutPolicy(t, f.plane, model.Network{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Kind: model.NetworkPods})
	f.node.Do(t, func() { classifyAll(t, "client") })
	f.client.Do(t, func() {
		if err := dialledAs("tcp", backend4+":8080", patience); err != nil {
			t.Errorf("%v; drops %v", err, drops(t, f.plane))
		}
	})
}

// classifyAll puts a classifier of nobody's behind ours that lets everything pass.
func classifyAll(t *testing.T, name string) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	check(t, err)
	t.Cleanup(func() { program.Close() })
	link, err := netlink.LinkByName(name)
	check(t, err)
	check(t, netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}, QdiscType: "clsact",
	}))
	check(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 50},
		Fd:          program.FD(), Name: "ok", DirectAction: true,
	}))
}
