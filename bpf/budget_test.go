// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// budgets are the most instructions that the verifier may have to walk through for each program, over all
// paths: what loading costs (about 1 µs each), and how far from its limit of a million a program is. Raise one
// only with a reason in the commit. Older kernels prune less and take the helpers' way to checksums: 6.1 needs up to
// twice as much as 6.18.
var budgets = map[string]uint32{
	"connect4": 20000, "connect6": 20000, "sendmsg4": 40000, "sendmsg6": 40000, "bind4": 200, "bind6": 500,
	"recvmsg4": 1000, "recvmsg6": 1000, "getpeername4": 200, "getpeername6": 200,
	"from_pod": 120000, "to_pod": 60000,
	"from_uplink": 80000, "to_uplink": 50000,
	"from_tunnel": 75000,
	"from_wire":   40000,
	"mend_peers":  15000, "destroy_tcp": 200, "destroy_udp": 200,
}

// Trap 38: each program has a budget of verified instructions, far below the million that verifiers allow.
func TestVerifiedInstructionsStayInBudget(t *testing.T) {
	testkit.NeedKernel(t)
	d, err := Load(Options{CheckSources: true, Node: 1, Tunnel: Tunnel{VNI: 1, Port: 8475}, XDP: XDPGeneric})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, c := range d.collections() {
		for name, p := range c.Programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			verified, ok := info.VerifiedInstructions()
			if !ok {
				t.Skip("this kernel does not tell verified instructions: that came with Linux 5.16")
			}
			t.Logf("%-12s %6d of %d", name, verified, budgets[name])
			if verified > budgets[name] {
				t.Errorf("%s: %d verified instructions, budget %d", name, verified, budgets[name])
			}
		}
	}
}
