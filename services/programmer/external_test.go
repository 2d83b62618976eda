// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

func TestANodeSaysHowItPassesOnWhatClientsSend(t *testing.T) {
	taken := errors.New("the port is taken")
	for _, c := range []struct {
		name    string
		port    uint16
		ifindex int
		err     error
		told    bool
		want    *schemas.External
	}{
		{"by the device", 8475, 5, nil, true, &schemas.External{Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021}},
		{"by a device that lacks something", 8475, 5, taken, true, &schemas.External{Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021}},
		{"no device yet", 8475, 0, nil, true, &schemas.External{MaglevSlots: 1021, Masqueraded: "the node's interfaces have not been looked at yet"}},
		{"no device", 8475, 0, taken, true, &schemas.External{MaglevSlots: 1021, Masqueraded: "the port is taken"}},
		{"none is wanted", 0, 0, nil, true, &schemas.External{MaglevSlots: 1021, Masqueraded: "--tunnel-port is 0"}},
		{"a node that nobody knows", 8475, 5, nil, false, &schemas.External{
			Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021,
			Masqueraded: "no node is told this one's address: its Node object has no InternalIP, its name comes to the same number as another's, or the watcher is of a version before such rows",
		}},
	} {
		got := externalOf(settings{tunnel: tunnel.Device{Port: c.port}, tunnelVNI: 7, maglevSize: 1021}, exits{device: c.ifindex, noDevice: c.err}, c.told)
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestANodeSaysWhereXDPIs(t *testing.T) {
	o := exits{device: 5, names: map[int]string{2: "eth0", 3: "eth1"}, wires: []bpf.Wire{{Ifindex: 2, Mode: bpf.XDPNative}, {Ifindex: 3, Mode: bpf.XDPOff, Reason: "no room"}}}
	want := []*schemas.Uplink{{Interface: "eth0", Xdp: "native"}, {Interface: "eth1", Xdp: "off", Reason: "no room"}}
	if diff := cmp.Diff(want, externalOf(settings{}, o, true).GetUplinks(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	o.wires = make([]bpf.Wire, 1000)
	if got := len(externalOf(settings{}, o, true).GetUplinks()); got != schemas.MaxUplinks {
		t.Errorf("%d of 1,000 uplinks are told, want %d", got, schemas.MaxUplinks)
	}
}
