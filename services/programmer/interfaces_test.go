// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/node"
)

// podPlane remembers what is attached, and what it was told of the node.
type podPlane struct {
	inMemory
	on, out map[int]bool
	locals  map[netip.Addr]uint8
	uplinks map[int]abi.Uplink
}

func newPodPlane(on, out []int) *podPlane {
	p := &podPlane{inMemory: memoryPlane(), on: map[int]bool{}, out: map[int]bool{}}
	for _, i := range on {
		p.on[i] = true
	}
	for _, i := range out {
		p.out[i] = true
	}
	return p
}

func (p *podPlane) attachPod(ifindex int) error    { p.on[ifindex] = true; return nil }
func (p *podPlane) detachPod(ifindex int) error    { delete(p.on, ifindex); return nil }
func (p *podPlane) attachedPods() []int            { return slices.Sorted(maps.Keys(p.on)) }
func (p *podPlane) attachUplink(ifindex int) error { p.out[ifindex] = true; return nil }
func (p *podPlane) detachUplink(ifindex int) error { delete(p.out, ifindex); return nil }
func (p *podPlane) attachedUplinks() []int         { return slices.Sorted(maps.Keys(p.out)) }

func (p *podPlane) setLocals(addresses map[netip.Addr]uint8) error {
	p.locals = addresses
	return nil
}

func (p *podPlane) setUplinks(uplinks map[int]abi.Uplink) error {
	p.uplinks = uplinks
	return nil
}

// onPlane are interfaces of plane without any list or route.
func onPlane(plane dataplane, problem func(string)) *interfaces {
	p := newInterfaces(plane, slog.New(slog.DiscardHandler), node.Options{}, problem)
	p.routes = func() (map[netip.Addr]int, error) { return nil, nil }
	p.list = func() ([]node.Interface, error) { return nil, nil }
	return p
}

func TestAListThatFailsDetachesNothing(t *testing.T) {
	plane := newPodPlane([]int{3}, []int{4})
	p := onPlane(plane, func(string) {})
	p.routes = func() (map[netip.Addr]int, error) { return nil, errors.New("interrupted") }
	if !p.reconcile(nil, time.Unix(1, 0)) {
		t.Error("it is not tried again")
	}
	if diff := cmp.Diff([][]int{{3}, {4}}, [][]int{plane.attachedPods(), plane.attachedUplinks()}); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
}

func uplinkInterface(index int, addr string) node.Interface {
	return node.Interface{Index: index, Name: "eth", Up: true, Addresses: []node.Address{{Prefix: netip.MustParsePrefix(addr), Global: true}}}
}

func TestUplinksAreAttachedAsTheyComeAndDetachedAsTheyGo(t *testing.T) {
	plane := newPodPlane(nil, []int{9})
	p := onPlane(plane, func(text string) { t.Error(text) })
	list := []node.Interface{uplinkInterface(2, "192.0.2.7/24"), uplinkInterface(3, "10.1.0.1/24")}
	p.list = func() ([]node.Interface, error) { return list, nil }
	check := func(wanted []model.Endpoint, pods, uplinks []int) {
		t.Helper()
		if p.reconcile(wanted, time.Unix(1, 0)) {
			t.Error("something is missing")
		}
		if diff := cmp.Diff([][]int{pods, uplinks}, [][]int{plane.attachedPods(), plane.attachedUplinks()}); diff != "" {
			t.Errorf("attached (-want +got):\n%s", diff)
		}
		told := append([]int{int(abi.UplinkAny)}, uplinks...)
		if diff := cmp.Diff(told, slices.Sorted(maps.Keys(plane.uplinks))); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	}
	check(nil, nil, []int{2, 3})
	if plane.locals[netip.MustParseAddr("192.0.2.7")] != abi.LocalNodePort || len(plane.locals) != 2 {
		t.Errorf("told addresses %v", plane.locals)
	}
	// A pod behind the bridge needs no interface of its own.
	shared := []model.Endpoint{{Addr: netip.MustParseAddr("10.1.0.9"), Pod: "shop/web"}}
	check(shared, nil, []int{2, 3})
	// A route to it alone makes the interface its own.
	p.routes = func() (map[netip.Addr]int, error) { return map[netip.Addr]int{shared[0].Addr: 3}, nil }
	check(shared, []int{3}, []int{2})
	list = list[:0]
	check(nil, nil, nil)
}

// Trap 36: a pod's interface gets its programs when its route is there, and a pod that has none for long is named.
func TestPodsInterfacesAreAttachedAsTheyComeAndDetachedAsTheyGo(t *testing.T) {
	plane := newPodPlane([]int{9}, nil)
	var told []string
	p := onPlane(plane, func(text string) { told = append(told, text) })
	routes := map[netip.Addr]int{netip.MustParseAddr("10.1.0.1"): 3, netip.MustParseAddr("fd00::1"): 3}
	p.routes = func() (map[netip.Addr]int, error) { return routes, nil }
	wanted := []model.Endpoint{
		{Addr: netip.MustParseAddr("10.1.0.1"), Pod: "shop/web-1"},
		{Addr: netip.MustParseAddr("fd00::1"), Pod: "shop/web-1"},
		{Addr: netip.MustParseAddr("10.1.0.2"), Pod: "shop/web-2"},
	}
	now := time.Unix(1, 0)
	check := func(again bool, want ...int) {
		t.Helper()
		if got := p.reconcile(wanted, now); got != again {
			t.Errorf("try again: %v, want %v", got, again)
		}
		if got := plane.attachedPods(); !slices.Equal(got, want) {
			t.Errorf("attached to %v, want %v", got, want)
		}
		now = now.Add(patience / 2)
	}
	check(true, 3)
	check(true, 3)
	if len(told) != 0 {
		t.Errorf("told too early: %q", told)
	}
	check(true, 3)
	want := []string{"pod shop/web-2: no interface has a route to 10.1.0.2 alone; waiting for one"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	routes[netip.MustParseAddr("10.1.0.2")] = 4
	check(false, 3, 4)
	if len(told) != 2 || told[1] != "" {
		t.Errorf("told %q, want an end of it", told)
	}
	routes[netip.MustParseAddr("10.1.0.2")] = 5 // the pod was made anew
	check(false, 3, 5)
	wanted = wanted[2:]
	check(false, 5)
}
