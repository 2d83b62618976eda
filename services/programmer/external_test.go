// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

func TestANodeSaysHowItPassesOnWhatClientsSend(t *testing.T) {
	taken := errors.New("the port is taken")
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	told := model.Node{ID: 1, V4: four, V6: six}
	for _, c := range []struct {
		name    string
		port    uint16
		ifindex int
		err     error
		own     model.Node
		want    *schemas.External
	}{
		{"by the device", 8475, 5, nil, told, &schemas.External{Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021}},
		{"by a device that lacks something", 8475, 5, taken, told, &schemas.External{Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021}},
		{"no device yet", 8475, 0, nil, told, &schemas.External{MaglevSlots: 1021, Masqueraded: "the node's interfaces have not been looked at yet"}},
		{"no device", 8475, 0, taken, told, &schemas.External{MaglevSlots: 1021, Masqueraded: "the port is taken"}},
		{"none is wanted", 0, 0, nil, told, &schemas.External{MaglevSlots: 1021, Masqueraded: "--tunnel-port is 0"}},
		{"a node that nobody knows", 8475, 5, nil, model.Node{}, &schemas.External{
			Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021,
			Masqueraded: "no node is told this one's address: its Node object has no InternalIP, its name comes to the same number as another's, or the watcher is of a version before such rows",
		}},
		{"a node whose address is another's", 8475, 5, nil, model.Node{ID: 1, V4: four, V6: six.Next()}, &schemas.External{
			Device: tunnel.Name, Port: 8475, Vni: 7, MaglevSlots: 1021, Masqueraded: nobodys(six.Next()),
		}},
	} {
		got := externalOf(settings{tunnel: tunnel.Device{Port: c.port}, tunnelVNI: 7, maglevSize: 1021}, exits{device: c.ifindex, noDevice: c.err, locals: map[netip.Addr]uint8{four: 0, six: 0}}, c.own)
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestANodeSaysWhereXDPIs(t *testing.T) {
	o := exits{device: 5, names: map[int]string{2: "eth0", 3: "eth1"}, wires: []bpf.Wire{{Ifindex: 2, Mode: bpf.XDPNative}, {Ifindex: 3, Mode: bpf.XDPOff, Reason: "no room"}}}
	want := []*schemas.Uplink{{Interface: "eth0", Xdp: "native"}, {Interface: "eth1", Xdp: "off", Reason: "no room"}}
	if diff := cmp.Diff(want, externalOf(settings{}, o, model.Node{}).GetUplinks(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	o.wires = make([]bpf.Wire, 1000)
	if got := len(externalOf(settings{}, o, model.Node{}).GetUplinks()); got != schemas.MaxUplinks {
		t.Errorf("%d of 1,000 uplinks are told, want %d", got, schemas.MaxUplinks)
	}
}
