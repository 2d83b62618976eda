// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// aConnection is one of a pod, from another's port.
func aConnection(pod string, peerPort uint16, protocol model.Protocol, c abi.Connection) (abi.ConnectionKey, abi.Connection) {
	key := abi.ConnectionKey{
		Pod: netip.MustParseAddr(pod).As16(), Peer: netip.MustParseAddr("10.1.9.9").As16(),
		PodPort: abi.Port(8080), PeerPort: abi.Port(peerPort), Protocol: uint8(protocol),
	}
	if c.Epoch == 0 {
		c.Epoch = 1
	}
	return key, c
}

// Policy row 3: a connection is known for as long as Linux keeps it, and no longer than its pod is there.
// Trap 14: an idle connection is kept for five days.
// Trap 42: an address that another pod has now brings no connection of the one before.
func TestSweepEndsConnectionsThatAreOver(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	const now, day = 1_000_000, 86400
	const here, away, other = "10.1.0.1", "10.1.0.2", "10.1.0.3"
	for addr, incarnation := range map[string]uint32{here: 7, other: 8} {
		check(t, d.Map(abi.Endpoints).Put(netip.MustParseAddr(addr).As16(), abi.Encode(abi.Endpoint{Incarnation: incarnation})))
	}
	const answered = abi.ConnectionAnswered
	cases := []struct {
		name     string
		pod      string
		protocol model.Protocol
		state    uint8
		idle     uint32
		want     bool
	}{
		{"idle for days", here, model.TCP, answered, 4 * day, true},
		{"for more", here, model.TCP, answered, 5*day + 1, false},
		{"a SYN without an answer", here, model.TCP, 0, 61, false},
		{"ended by the pod", here, model.TCP, answered | abi.ConnectionPodFin, 119, true},
		{"ended by its peer, some time ago", here, model.TCP, answered | abi.ConnectionPeerFin, 121, false},
		{"reset", here, model.TCP, answered | abi.ConnectionReset, 11, false},
		{"datagrams with answers", here, model.UDP, answered, 119, true},
		{"an echo", here, protocolICMP, answered, 31, false},
		{"another protocol", here, 47, 0, 599, true},
		{"of a pod that is away for a moment", away, model.TCP, answered, 100, true},
		{"of a pod that is gone", away, model.TCP, answered, 121, false},
		{"of one whose address another has", other, model.TCP, answered, 0, false},
	}
	want, kept := map[string]bool{}, map[string]bool{}
	names := map[abi.ConnectionKey]string{}
	for i, c := range cases {
		key, value := aConnection(c.pod, uint16(i), c.protocol, abi.Connection{State: c.state, Seen: now - c.idle, Incarnation: 7})
		check(t, d.maps[connectionsMap].Put(bytesOf(&key), bytesOf(&value)))
		names[key] = c.name
		if c.want {
			want[c.name] = true
		}
	}
	swept, err := d.Sweep(t.Context(), DefaultTimeouts, now)
	check(t, err)
	check(t, d.Connections(t.Context(), func(key *abi.ConnectionKey, _ *abi.Connection) bool {
		kept[names[*key]] = true
		return true
	}))
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if swept.Connections != len(cases) || swept.ConnectionsDeleted != len(cases)-len(want) {
		t.Errorf("swept %+v, want %d of %d", swept, len(cases)-len(want), len(cases))
	}
}

func TestConnectionsAreReadUntilOneHasEnough(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	for i := range uint16(100) {
		key, value := aConnection("10.1.0.1", i, model.TCP, abi.Connection{})
		check(t, d.maps[connectionsMap].Put(bytesOf(&key), bytesOf(&value)))
	}
	n := 0
	check(t, d.Connections(t.Context(), func(*abi.ConnectionKey, *abi.Connection) bool {
		n++
		return n < 10
	}))
	if n != 10 {
		t.Errorf("%d read, want 10", n)
	}
}
