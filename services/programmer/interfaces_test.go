// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/node"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// podPlane remembers what is attached, and what it was told of the node.
type podPlane struct {
	inMemory
	on, out map[int]bool
	judged  uint32
	locals  map[netip.Addr]uint8
	uplinks map[int]abi.Uplink
	told    []int // devices between nodes
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

func (p *podPlane) epoch() (uint32, error) { return p.judged, nil }

func (p *podPlane) setLocals(addresses map[netip.Addr]uint8) error {
	p.locals = addresses
	return nil
}

func (p *podPlane) setUplinks(uplinks map[int]abi.Uplink) error {
	p.uplinks = uplinks
	return nil
}

func (p *podPlane) useTunnel(ifindex int) error {
	p.told = append(p.told, ifindex)
	return nil
}

// onPlane are interfaces of plane without any list or route.
func onPlane(plane dataplane, problem func(string)) *interfaces {
	p := newInterfaces(plane, slog.New(slog.DiscardHandler), node.Options{}, tunnel.Device{}, problem)
	p.routes = func() (map[netip.Addr]int, error) { return nil, nil }
	p.list = func() ([]node.Interface, error) { return nil, nil }
	p.tunnel.keep = func() (int, error) { return 0, nil }
	p.changes = func(context.Context) <-chan struct{} { return nil }
	p.appear = func(context.Context) <-chan node.Pair { return nil }
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

func TestWithoutADeviceBetweenNodesAllElseGoesOn(t *testing.T) {
	plane, problem := newPodPlane(nil, nil), ""
	p := onPlane(plane, func(text string) { problem = text })
	p.list = func() ([]node.Interface, error) { return []node.Interface{uplinkInterface(2, "192.0.2.7/24")}, nil }
	device, taken := 5, error(nil)
	p.tunnel.keep = func() (int, error) { return device, taken }
	p.tunnel.up, p.tunnel.down = func(int) error { return nil }, func(int) error { return nil }
	p.reconcile(nil, time.Unix(1, 0))
	device, taken = 0, errors.New("the port is taken")
	for second := range int64(8) {
		if !p.reconcile(nil, time.Unix(2+second, 0)) {
			t.Error("it is not tried again")
		}
	}
	if problem != "the port is taken" {
		t.Errorf("the fault is %q", problem)
	}
	if diff := cmp.Diff([]int{2}, plane.attachedUplinks()); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
	device, taken = 6, nil
	p.reconcile(nil, time.Unix(11, 0))
	if diff := cmp.Diff([]int{5, 0, 6}, plane.told); diff != "" || problem != "" {
		t.Errorf("fault %q; told (-want +got):\n%s", problem, diff)
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
	judged := []model.Endpoint{{Addr: shared[0].Addr, Pod: "shop/web", Ingress: 1}}
	if !p.reconcile(judged, time.Unix(1, 0)) || len(p.late) != 1 {
		t.Errorf("its policies aren't enforced, and that is not told: %v", p.late)
	}
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

// newPod is the host's side of a pod's interface, of which nothing else is known.
func newPod(index int) node.Interface { return node.Interface{Index: index, Name: "veth", Apart: true} }

// Policy row 7: a pod's interface has the programs before anyone says that there is a pod, and keeps them until it goes.
// Trap 36: they are attached when the interface comes, not when its address or route does.
func TestNewPodsInterfacesAreAttachedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := newPodPlane(nil, nil)
		p := onPlane(plane, func(text string) { t.Error(text) })
		list, news := []node.Interface{uplinkInterface(2, "192.0.2.7/24")}, make(chan node.Pair)
		p.list = func() ([]node.Interface, error) { return list, nil }
		p.appear = func(context.Context) <-chan node.Pair { return news }
		changes := make(chan struct{})
		p.changes = func(context.Context) <-chan struct{} { return changes }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = p.run(ctx)
		}()
		check := func(when string, pods, uplinks []int) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff([][]int{pods, uplinks}, [][]int{plane.attachedPods(), plane.attachedUplinks()}); diff != "" {
				t.Errorf("%s: attached (-want +got):\n%s", when, diff)
			}
		}
		news <- node.Pair{Interface: newPod(3)}
		check("before the tables hold anything, without policies", nil, nil)
		p.want(nil)
		check("once they do", nil, []int{2})
		news <- node.Pair{Interface: newPod(3)}
		check("a new pod", []int{3}, []int{2})
		list = append(list, newPod(3))
		changes <- struct{}{}
		check("when all is listed", []int{3}, []int{2})
		list = list[:1]
		news <- node.Pair{Interface: newPod(3), Gone: true}
		delete(plane.on, 3) // they went with the interface
		news <- node.Pair{Interface: newPod(3)}
		check("another interface with the same index", []int{3}, []int{2})
		changes <- struct{}{}
		check("when it is gone, too", nil, []int{2})
		cancel()
		<-ended
	})
}

// Policy row 7: what came while no programmer ran is attached at its start, before the tables are those of now.
func TestPodsThatCameMeanwhileAreAttachedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			epoch uint32
			want  []int
		}{{7, []int{3, 4}}, {0, []int{3}}} {
			plane := newPodPlane([]int{3}, nil)
			plane.judged = c.epoch
			p := onPlane(plane, func(text string) { t.Error(text) })
			p.list = func() ([]node.Interface, error) {
				return []node.Interface{uplinkInterface(2, "192.0.2.7/24"), newPod(3), newPod(4)}, nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = p.run(ctx)
			}()
			synctest.Wait()
			if diff := cmp.Diff([][]int{c.want, nil}, [][]int{plane.attachedPods(), plane.attachedUplinks()}); diff != "" {
				t.Errorf("epoch %d: attached (-want +got):\n%s", c.epoch, diff)
			}
			cancel()
			<-ended
		}
	})
}
