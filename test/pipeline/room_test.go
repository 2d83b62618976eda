// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A change that doesn't fit a node's maps is refused there as a whole and by name, what was before stays, other nodes
// take it; made smaller, it is taken there too, and a map that is nearly full is told of.
//
// Fault 9: a programmer whose maps are too small refuses a change as a whole, says so on the bus, and heals.
// Row 23: overflow is refused by name before the first write, and pressure is visible.
func TestAFullMapRefusesByNameAndHeals(t *testing.T) {
	p := begin(t)
	p.write("nodes.yaml", nodeYAML("node-1")+nodeYAML("node-2"))
	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10"))
	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 4))
	p.startBus()
	b := p.tap()
	p.service("watcher", "--source", "directory", "--directory", p.folder)
	p.service("compiler")
	p.programmer("node-1")
	p.programmer("node-2", "--max-backends", "8")
	p.healthy(2)
	fewest := p.watchEntries("node-2", 4)

	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 20))
	p.holds("node-1", backendsOf("cart", 1, 20)...)
	want := "layer cluster, revision 2: map backends_v3 has 4 of 8 entries in use and the change needs 16 more, such as backend "
	s := p.expect("node-2 refusing", func(s status) bool {
		i := slices.IndexFunc(s.Nodes, func(n node) bool { return n.Node == "node-2" })
		return i >= 0 && len(s.Nodes[i].Faults) == 1
	})
	for _, n := range s.Nodes {
		if n.Node != "node-2" {
			continue
		}
		text := n.Faults[0].Text
		if n.Converged || n.Faults[0].Kind != "capacity" || !strings.HasPrefix(text, want) || !strings.Contains(text, " of shop/cart:80") ||
			!strings.HasSuffix(text, "nothing of the change is applied and what was before stays; give the map more room in the programmer's configuration") {
			t.Errorf("node-2 is %+v\nwant the fault %s", n, want)
		}
	}
	b.event("programmer", "capacity", want)
	if out, _ := p.deltaplane("status"); !strings.Contains(out, "Fault       node-2: capacity: "+want) {
		t.Errorf("status doesn't show the fault:\n%s", out)
	}
	p.holds("node-2", backendsOf("cart", 1, 4)...)

	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 7))
	for _, node := range []string{"node-1", "node-2"} {
		p.holds(node, backendsOf("cart", 1, 7)...)
	}
	p.expect("no fault any more", func(s status) bool {
		return s.Converged == 2 && !slices.ContainsFunc(s.Nodes, func(n node) bool { return len(n.Faults) > 0 })
	})
	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 8))
	p.holds("node-2", backendsOf("cart", 1, 8)...)
	p.expect("node-2 under pressure", func(s status) bool {
		i := slices.IndexFunc(s.Nodes, func(n node) bool { return n.Node == "node-2" })
		return i >= 0 && len(s.Nodes[i].Faults) == 1 && s.Nodes[i].Faults[0].Kind == "pressure"
	})
	if out, _ := p.deltaplane("status"); !strings.Contains(out, "Fault       node-2: pressure: map backends_v3 has 8 of 8 entries in use") {
		t.Errorf("status doesn't show the pressure:\n%s", out)
	}
	if n := fewest(); n < 4 {
		t.Errorf("node-2 held %d backends for a while, it had 4", n)
	}
}

// Without the right to use BPF, or without BPF, the programmer says what is missing and what runs without it.
func TestWithoutBPFTheProgrammerSaysWhatIsMissing(t *testing.T) {
	cmd := exec.Command(filepath.Join(bin, "programmer"), "--node", "node-1", "--listen", "", "--pin-dir", "", "--cgroup", t.TempDir())
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); !exited {
		t.Fatalf("it ended with %v: %s", err, out)
	}
	for _, want := range []string{"load the data plane: ", "--maps memory runs without"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it says:\n%s\nwant %q", out, want)
		}
	}
}
