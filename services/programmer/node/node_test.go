// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

func addresses(texts ...string) (all []Address) {
	for _, text := range texts {
		p := netip.MustParsePrefix(text)
		all = append(all, Address{Prefix: p, Global: !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast()})
	}
	return all
}

func uplink(v4, v6 string) (u abi.Uplink) {
	if v4 != "" {
		u.V4 = netip.MustParseAddr(v4).As16()
	}
	if v6 != "" {
		u.V6 = netip.MustParseAddr(v6).As16()
	}
	return u
}

// some is a node with two uplinks, one of them a bond, a bridge of pods, a pod's own interface and a few more.
func some() []Interface {
	return []Interface{
		{Index: 1, Name: "lo", Up: true, Loopback: true, Addresses: addresses("127.0.0.1/8", "::1/128")},
		{Index: 2, Name: "eth0", Up: true, Enslaved: true},
		{Index: 4, Name: "bond0", Up: true, Addresses: addresses("192.0.2.7/24", "fe80::7/64")},
		{Index: 5, Name: "bond0.7", Up: true, Addresses: addresses("198.51.100.7/24", "2001:db8::7/64")},
		{Index: 6, Name: "cni0", Up: true, Addresses: addresses("10.1.0.1/24")},
		{Index: 7, Name: "down0", Addresses: addresses("203.0.113.1/24")},
		{Index: 8, Name: "pod8", Up: true, Addresses: addresses("169.254.1.1/32", "10.1.7.1/32")},
		{Index: 9, Name: "bare0", Up: true},
		{Index: 11, Name: "wg0", Up: true, Bare: true, Addresses: addresses("10.9.0.1/24")},
		{Index: 12, Name: tunnel.Name, Up: true, Addresses: addresses("127.222.23.1/32")},
		{Index: 10, Name: "kube-ipvs0", Up: true, Addresses: addresses("10.96.0.1/32")},
	}
}

const both = abi.LocalNodePort | abi.LocalLoopback

func TestAllInterfacesThatOthersReachTheNodeByAreUplinks(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		uplinks map[int]abi.Uplink
		locals  map[string]uint8
	}{
		{
			"by default",
			Options{LocalhostNodePorts: true},
			map[int]abi.Uplink{
				4: uplink("192.0.2.7", "2001:db8::7"), 5: uplink("198.51.100.7", "2001:db8::7"), 6: uplink("10.1.0.1", "2001:db8::7"),
			},
			map[string]uint8{
				"127.0.0.1": both, "::1": both, "192.0.2.7": abi.LocalNodePort, "198.51.100.7": abi.LocalNodePort,
				"2001:db8::7": abi.LocalNodePort, "10.1.0.1": abi.LocalNodePort, "203.0.113.1": abi.LocalNodePort,
				"169.254.1.1": abi.LocalNodePort, "10.1.7.1": abi.LocalNodePort, "10.9.0.1": abi.LocalNodePort,
			},
		},
		{
			"as configured",
			Options{Uplinks: []string{"bond?.*", "bare*", "lo", "pod*", "deltaplane*"}, NodePortAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("127.0.0.0/8")}},
			map[int]abi.Uplink{5: uplink("198.51.100.7", "2001:db8::7"), 9: uplink("192.0.2.7", "2001:db8::7")},
			map[string]uint8{
				"127.0.0.1": abi.LocalLoopback, "::1": abi.LocalLoopback, "192.0.2.7": abi.LocalNodePort, "198.51.100.7": 0,
				"2001:db8::7": 0, "10.1.0.1": 0, "203.0.113.1": 0, "169.254.1.1": 0, "10.1.7.1": 0, "10.9.0.1": 0,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Find(some(), map[int]bool{8: true}, test.options)
			if diff := cmp.Diff(test.uplinks, got.Uplinks); diff != "" {
				t.Errorf("uplinks (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(uplink("192.0.2.7", "2001:db8::7"), got.Any); diff != "" {
				t.Errorf("for hairpins (-want +got):\n%s", diff)
			}
			if !slices.Contains(got.Others, 12) {
				t.Errorf("the device between nodes is not among %v: programs would take it for a new pod's", got.Others)
			}
			locals := map[netip.Addr]uint8{}
			for text, flags := range test.locals {
				locals[netip.MustParseAddr(text)] = flags
			}
			if diff := cmp.Diff(locals, got.Locals, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("locals (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnAddressThatIsNoGoodSourceIsNotMasqueradedWith(t *testing.T) {
	i := Interface{Index: 2, Name: "eth0", Up: true, Addresses: addresses("192.0.2.8/24", "192.0.2.9/24")}
	i.Addresses[0].Late = true
	got := Find([]Interface{i}, nil, Options{})
	if diff := cmp.Diff(map[int]abi.Uplink{2: uplink("192.0.2.9", "")}, got.Uplinks); diff != "" {
		t.Error(diff)
	}
}

func TestPatternsThatCannotBeAreRefused(t *testing.T) {
	o := Options{Uplinks: []string{"eth[0"}}
	if err := o.Check(); err == nil || err.Error() != `--uplinks "eth[0": syntax error in pattern` {
		t.Errorf("got %v", err)
	}
}

func TestWhatLooksLikeAPodsInterfaceIsNoUplink(t *testing.T) {
	for _, c := range []struct {
		name string
		i    Interface
		want bool
	}{
		{"a pair into another namespace, still down", Interface{Apart: true}, true},
		{"with the pods' gateway", Interface{Apart: true, Up: true, Addresses: addresses("169.254.1.1/32", "10.1.7.1/32", "fd00::1/128")}, true},
		{"with an address of its link", Interface{Apart: true, Up: true, Addresses: addresses("fe80::1/64")}, true},
		{"with an address in a network", Interface{Apart: true, Up: true, Addresses: addresses("192.0.2.7/24")}, false},
		{"in a bridge", Interface{Apart: true, Up: true, Enslaved: true}, false},
		{"named as an uplink", Interface{Apart: true, Name: "eth0"}, false},
		{"with a router behind it", Interface{Apart: true, Up: true, Routed: true, Addresses: addresses("172.30.0.2/32")}, false},
		{"both ends here", Interface{Up: true}, false},
	} {
		c.i.Index = 5
		found := Find([]Interface{c.i}, nil, Options{Uplinks: []string{"eth*"}})
		if _, got := found.Pods[5]; got != c.want {
			t.Errorf("%s: looks like a pod's: %v, want %v", c.name, got, c.want)
		}
		found = Find([]Interface{c.i}, nil, Options{})
		if _, uplink := found.Uplinks[5]; uplink && c.want {
			t.Errorf("%s: an uplink", c.name)
		}
	}
}
