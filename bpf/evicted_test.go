// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestMasqueradedFlowThatLostAnEntryLeavesMasqueraded: the kernel evicts entries one by one. The client's own address
// must not leave in place of the node's for longer than a second: the answers would pass this node by.
//
// Trap 15: whichever entry of a masqueraded flow is evicted, its client's next packets give it back.
func TestMasqueradedFlowThatLostAnEntryLeavesMasqueraded(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	putServices(t, d)
	node := netip.MustParseAddr("192.0.2.1")
	check(t, d.SetUplinks(map[int]abi.Uplink{1: {V4: node.As16()}}))
	const client, service, backend = "198.51.100.7:4000", "10.96.0.1:80", "10.1.0.1:8080"
	masqueraded := netip.AddrPortFrom(node, 4000).String()
	through := func(run func([]byte, int) (Verdict, []byte, error), p model.Protocol, from, to, wantFrom, wantTo string) {
		t.Helper()
		verdict, got, err := run(frame(t, p, from, to, "S", 0), 0)
		check(t, err)
		want := frame(t, p, wantFrom, wantTo, "S", 0)
		if verdict != Pass || !bytes.Equal(got[26:], want[26:]) {
			t.Errorf("%s → %s, %v: not %s → %s", from, to, verdict, wantFrom, wantTo)
		}
	}
	for _, p := range []model.Protocol{model.TCP, model.UDP} {
		keys, _ := flowOf(client, service, backend, masqueraded, func(*abi.Flow) {})
		for _, lost := range keys[1:] {
			lost.Protocol = uint8(p)
			for _, evict := range []bool{false, true} {
				if evict {
					check(t, d.maps[flowsMap].Delete(bytesOf(&lost)))
					check(t, d.PassTime(1))
				}
				through(d.RunFromUplink, p, client, service, client, backend)
				through(d.RunToUplink, p, client, backend, masqueraded, backend)
			}
			through(d.RunFromUplink, p, backend, masqueraded, backend, client)
			through(d.RunToUplink, p, backend, client, service, client)
		}
	}
}
