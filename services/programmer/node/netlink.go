// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Read lists the interfaces of the network namespace that the calling thread is in.
func Read() ([]Interface, error) {
	links, err := again(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the node's interfaces: %w", err)
	}
	addrs, err := again(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	masters := map[int]bool{} // that have ports, and route for them
	for _, l := range links {
		switch l.Type() {
		case "bridge", "bond", "team", "openvswitch":
			masters[l.Attrs().Index] = true
		}
	}
	interfaces := make([]Interface, len(links))
	at := map[int]int{}
	for i, l := range links {
		a := l.Attrs()
		interfaces[i] = interfaceOf(l)
		interfaces[i].Enslaved = masters[a.MasterIndex]
		at[a.Index] = i
	}
	for _, a := range addrs {
		if i, held := at[a.LinkIndex]; held { // else it came after the list of interfaces: another change tells of it
			interfaces[i].add(&a)
		}
	}
	hops, err := nextHops()
	if err != nil {
		return nil, fmt.Errorf("list the node's routes: %w", err)
	}
	for index, routed := range hops {
		if i, held := at[index]; held && routed {
			interfaces[i].Routed = true
		}
	}
	return interfaces, nil
}

// interfaceOf is an interface without what others say of it: its addresses, and what its master is.
func interfaceOf(l netlink.Link) Interface {
	a := l.Attrs()
	return Interface{
		Index: a.Index, Name: a.Name, Up: a.Flags&net.FlagUp != 0, Loopback: a.Flags&net.FlagLoopback != 0,
		Bare: a.EncapType != "ether", Apart: l.Type() == "veth" && a.NetNsID >= 0,
	}
}

func (i *Interface) add(a *netlink.Addr) {
	prefix, ok := prefixOf(a.IPNet)
	if !ok {
		return
	}
	i.Addresses = append(i.Addresses, Address{
		Prefix: prefix, Global: a.Scope == unix.RT_SCOPE_UNIVERSE || a.Scope == unix.RT_SCOPE_SITE,
		Late: late(a.Flags, prefix.Addr()),
	})
}

// late says whether flags advise against an address as a source. One flag is that of a secondary IPv4 address and of a
// temporary IPv6 one.
func late(flags int, addr netip.Addr) bool {
	if addr.Is4() {
		return flags&unix.IFA_F_SECONDARY != 0
	}
	return flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED|unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

// attempts is how often a list that was changed under is made again.
const attempts = 10

// again makes a list until no change interrupts it: what an interrupted list lacks is not gone.
func again[T any](list func() ([]T, error)) ([]T, error) {
	all, err := list()
	for n := 1; n < attempts && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		all, err = list()
	}
	return all, err
}

const (
	// debounce is how long changes are gathered.
	debounce = 100 * time.Millisecond
	// rereadEvery is how often all is listed anew though nothing was said.
	rereadEvery = 30 * time.Second
	// resubscribe is the pause before listening again, after the kernel said more than was taken.
	resubscribe = time.Second
)

// Watch says, at most ten times a second, that interfaces, their settings, addresses or routes may have changed; after the kernel's
// messages were lost, and every 30 s, too. The channel is closed once ctx has ended.
func Watch(ctx context.Context) <-chan struct{} {
	changes := make(chan struct{}, 1)
	go func() {
		defer close(changes)
		for ctx.Err() == nil {
			listen(ctx, changes)
			tell(changes)
			select {
			case <-ctx.Done():
			case <-time.After(resubscribe):
			}
		}
	}()
	return changes
}

// listen passes changes on until ctx ends or the kernel tells no more.
func listen(ctx context.Context, changes chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links, routes, addrs := make(chan netlink.LinkUpdate, 256), make(chan netlink.RouteUpdate, 256), make(chan netlink.AddrUpdate, 256)
	ignore := func(error) {} // the channel is closed then, which is all that matters
	done := ctx.Done()
	if netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: ignore}) != nil ||
		netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: ignore}) != nil ||
		netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: ignore}) != nil {
		return
	}
	set, err := settings(done)
	if err != nil {
		return
	}
	pause, reread := time.NewTicker(debounce), time.NewTicker(rereadEvery)
	defer pause.Stop()
	defer reread.Stop()
	dirty, open := true, true
	for open {
		select {
		case _, open = <-links:
			dirty = true
		case _, open = <-routes:
			dirty = true
		case _, open = <-addrs:
			dirty = true
		case _, open = <-set:
			dirty = true
		case <-reread.C:
			dirty = true
		case <-pause.C:
			if dirty {
				dirty = false
				tell(changes)
			}
		}
	}
	cancel()
	drain(links)
	drain(routes)
	drain(addrs)
	drain(set)
}

// drain takes what is left until the sender has closed.
func drain[T any](from <-chan T) {
	for range from {
	}
}

func tell(changes chan<- struct{}) {
	select {
	case changes <- struct{}{}:
	default:
	}
}

// nextHops returns the interfaces by which routes have a next hop.
func nextHops() (map[int]bool, error) {
	interfaces := map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := again(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Gw != nil || r.Via != nil {
				interfaces[r.LinkIndex] = true
			}
			for _, hop := range r.MultiPath {
				interfaces[hop.LinkIndex] = interfaces[hop.LinkIndex] || hop.Gw != nil || hop.Via != nil
			}
		}
	}
	return interfaces, nil
}

// HostRoutes returns the interface of each route to one address alone: how pods are reached.
func HostRoutes() (map[netip.Addr]int, error) {
	return routesFrom(func(family int) ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
}

func routesFrom(list func(family int) ([]netlink.Route, error)) (map[netip.Addr]int, error) {
	interfaces := map[netip.Addr]int{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := again(func() ([]netlink.Route, error) { return list(family) })
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Dst == nil || r.Gw != nil || r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
				continue
			}
			prefix, ok := prefixOf(r.Dst)
			if !ok || !prefix.IsSingleIP() {
				continue
			}
			// The kernel lists, and takes, the one of the lowest metric first.
			if _, better := interfaces[prefix.Addr()]; !better {
				interfaces[prefix.Addr()] = r.LinkIndex
			}
		}
	}
	return interfaces, nil
}
