// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
)

// pods attaches the packet programs to the interfaces of the node's pods: those that a route to the pod's address
// alone goes through, in the network namespace that this process runs in. Interfaces come and go while endpoints do,
// in any order; what isn't there yet is tried again when links or routes change, and every second.
type pods struct {
	plane   dataplane
	log     *slog.Logger
	problem func(string) // told what is missing for longer than patience; empty once nothing is

	wanted  chan []model.Endpoint // holds the newest
	routes  func() (map[netip.Addr]int, error)
	changes func(done <-chan struct{}) <-chan struct{}

	attached map[int]bool         // by this process
	missing  map[string]time.Time // since when, by what a person reads
	told     string
}

// patience is how long a pod's interface may be late before it is a fault.
const patience = 5 * time.Second

func newPods(plane dataplane, log *slog.Logger, problem func(string)) *pods {
	return &pods{
		plane: plane, log: log, problem: problem,
		wanted: make(chan []model.Endpoint, 1), routes: hostRoutes, changes: netlinkChanges,
		attached: map[int]bool{}, missing: map[string]time.Time{},
	}
}

// want says whose interfaces are to be attached. It never waits.
func (p *pods) want(endpoints []model.Endpoint) {
	select {
	case <-p.wanted:
	default:
	}
	p.wanted <- endpoints
}

func (p *pods) run(ctx context.Context) error {
	changes := p.changes(ctx.Done())
	var wanted []model.Endpoint
	known := false
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case wanted = <-p.wanted:
			known = true
		case _, open := <-changes:
			if !open {
				changes = nil // the kernel tells no more: trying again every second remains
			}
		case <-retry.C:
		}
		if !known {
			continue
		}
		if p.reconcile(wanted, time.Now()) || changes == nil {
			retry.Reset(time.Second)
		}
	}
}

// reconcile attaches what is wanted and detaches what isn't. It says whether to try again.
func (p *pods) reconcile(wanted []model.Endpoint, now time.Time) (again bool) {
	routes, err := p.routes()
	if err != nil {
		p.tell(map[string]time.Time{"list the routes to pods: " + err.Error(): {}}, now)
		return true
	}
	missing := map[string]time.Time{}
	note := func(text string) {
		since, before := p.missing[text]
		if !before {
			since = now
		}
		missing[text] = since
	}
	keep := map[int]bool{}
	for _, e := range wanted {
		ifindex, found := routes[e.Addr]
		if !found {
			note(fmt.Sprintf("pod %s: no interface has a route to %s alone; waiting for one", e.Pod, e.Addr))
			continue
		}
		keep[ifindex] = true
		if p.attached[ifindex] {
			continue
		}
		if err := p.plane.attachPod(ifindex); err != nil {
			note(fmt.Sprintf("pod %s: %v", e.Pod, err))
			continue
		}
		p.attached[ifindex] = true
		p.log.Info("attached", "pod", e.Pod, "address", e.Addr, "ifindex", ifindex)
	}
	for _, ifindex := range p.plane.attachedPods() {
		if keep[ifindex] {
			continue
		}
		delete(p.attached, ifindex)
		if err := p.plane.detachPod(ifindex); err != nil {
			note(err.Error())
			continue
		}
		p.log.Info("detached", "ifindex", ifindex)
	}
	p.missing = missing
	p.tell(missing, now)
	return len(missing) > 0
}

// tell says what has been missing for longer than patience, if that has changed.
func (p *pods) tell(missing map[string]time.Time, now time.Time) {
	var late []string
	for text, since := range missing {
		if now.Sub(since) >= patience {
			late = append(late, text)
		}
	}
	slices.Sort(late)
	if len(late) > 8 {
		late = append(late[:8], fmt.Sprintf("and %d more", len(late)-8))
	}
	if text := strings.Join(late, "; "); text != p.told {
		p.told = text
		p.problem(text)
	}
}

// hostRoutes returns the interface of each route to one address alone.
func hostRoutes() (map[netip.Addr]int, error) {
	return routesFrom(func(family int) ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
}

// routeAttempts is how often a list that routes changed under is made again.
const routeAttempts = 10

// routesFrom makes hostRoutes of lists. A list that was interrupted by a change is no list: what it lacks is not gone.
func routesFrom(list func(family int) ([]netlink.Route, error)) (map[netip.Addr]int, error) {
	interfaces := map[netip.Addr]int{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := list(family)
		for n := 1; n < routeAttempts && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
			routes, err = list(family)
		}
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Dst == nil || r.Gw != nil || r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
				continue
			}
			ones, bits := r.Dst.Mask.Size()
			addr, ok := netip.AddrFromSlice(r.Dst.IP)
			if !ok || ones != bits {
				continue
			}
			// The kernel lists, and takes, the one of the lowest metric first.
			if _, better := interfaces[addr.Unmap()]; !better {
				interfaces[addr.Unmap()] = r.LinkIndex
			}
		}
	}
	return interfaces, nil
}

// netlinkChanges says, at most ten times a second, that links or routes have changed. The channel is closed when the
// kernel tells no more.
func netlinkChanges(done <-chan struct{}) <-chan struct{} {
	changes := make(chan struct{}, 1)
	links, routes := make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64)
	ignore := func(error) {} // the channels are closed then, which is all that matters
	if netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: ignore}) != nil ||
		netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: ignore}) != nil {
		close(changes)
		return changes
	}
	go func() {
		defer close(changes)
		pause := time.NewTicker(100 * time.Millisecond)
		defer pause.Stop()
		dirty := false
		for {
			select {
			case _, open := <-links:
				if dirty = open; !open {
					return
				}
			case _, open := <-routes:
				if dirty = open; !open {
					return
				}
			case <-pause.C:
				if dirty {
					dirty = false
					select {
					case changes <- struct{}{}:
					default:
					}
				}
			}
		}
	}()
	return changes
}
