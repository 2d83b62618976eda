// SPDX-License-Identifier: Apache-2.0

// Package node finds out what of its node a programmer tells the programs: the node's own addresses, which of them
// serve NodePorts, and the interfaces by which packets come from outside and leave.
//
// Find is pure: it makes that of a list of interfaces. Read lists them, and Watch says when to list again.
//
// The one thing to know: interfaces and addresses come and go in any order and at any time. Nothing is kept from one
// list to the next, so a missed message is made good by the next list.
package node

import (
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// Interface is an interface as the kernel lists it.
type Interface struct {
	Index    int
	Name     string
	Up       bool
	Loopback bool
	// Enslaved says that a bridge, bond or team has the interface: packets are seen there, and not routed from here.
	Enslaved bool
	// Apart says that it is one end of a pair whose other end is in another network namespace.
	Apart bool
	// Bare says that packets have no Ethernet header there, as in tunnels of IP: the programs read none of those.
	Bare bool
	// Routed says that a route by it has a next hop: others are behind it, as behind no pod.
	Routed    bool
	Addresses []Address
}

// Address is an address of an interface.
type Address struct {
	netip.Prefix // the address itself with the length of its network
	// Global says that its scope is not the link or the host alone.
	Global bool
	// Late says that it should not be chosen as a source: deprecated, tentative, temporary or secondary.
	Late bool
}

// Options say what counts.
type Options struct {
	// NodePortAddresses are the prefixes whose addresses serve NodePorts; none is all.
	NodePortAddresses []netip.Prefix
	// LocalhostNodePorts lets the node's own processes reach NodePorts by its loopback addresses.
	LocalhostNodePorts bool
	// Uplinks, if any, are patterns of the names of uplinks, as path.Match takes them: no other interface is one.
	Uplinks []string
}

// Check says what is wrong with options.
func (o *Options) Check() error {
	for _, glob := range o.Uplinks {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("--uplinks %q: %w", glob, err)
		}
	}
	return nil
}

// Found is what Find made of a list.
type Found struct {
	// Locals are the node's addresses with the flags of abi.Local.
	Locals map[netip.Addr]uint8
	// Uplinks are interfaces by index, with what is masqueraded there.
	Uplinks map[int]abi.Uplink
	// Any is what is masqueraded where the way out doesn't matter: hairpins.
	Any abi.Uplink
	// Pods are interfaces that look like those of pods, known or not, by index; with their names.
	Pods map[int]string
	// Others are interfaces by which packets come in to be routed though they are neither pods' nor uplinks: the device
	// that they come by from other nodes, tunnels without Ethernet headers, and what is down.
	Others []int
	// Names are the names of uplinks.
	Names map[int]string
	// Networks are what is reached by an uplink without a router.
	Networks []netip.Prefix
}

// Find says which addresses are the node's and which interfaces are uplinks: all that are up, have an address that
// others can reach, and are no pod's, no loopback, no tunnel without Ethernet headers, no part of a bridge or bond and not the
// device between nodes. A bridge that pods share is one. pods are the interfaces that are known to be pods'; others may look like one.
func Find(interfaces []Interface, pods map[int]bool, o Options) Found {
	f := Found{Locals: map[netip.Addr]uint8{}, Uplinks: map[int]abi.Uplink{}, Names: map[int]string{}, Pods: map[int]string{}}
	interfaces = slices.Clone(interfaces)
	slices.SortFunc(interfaces, func(a, b Interface) int { return a.Index - b.Index })
	var other abi.Uplink // for uplinks without an address of a family
	for _, i := range interfaces {
		if i.Name == proxyDummy || i.Name == tunnel.Name {
			continue
		}
		if i.OfPod(&o) {
			f.Pods[i.Index] = i.Name
		}
		for _, a := range i.Addresses {
			if f.local(a.Addr(), &o); !pods[i.Index] {
				choose(&other, a)
			}
		}
	}
	for _, i := range interfaces {
		if _, looks := f.Pods[i.Index]; looks || pods[i.Index] || i.Enslaved {
			continue
		}
		if !i.uplink(&o) {
			f.Others = append(f.Others, i.Index)
			continue
		}
		var u abi.Uplink
		for _, a := range i.Addresses {
			choose(&u, a)
			f.Networks = append(f.Networks, a.Masked())
		}
		if u.V4 == none {
			u.V4 = other.V4
		}
		if u.V6 == none {
			u.V6 = other.V6
		}
		f.Uplinks[i.Index], f.Names[i.Index] = u, i.Name
	}
	f.Any = other
	return f
}

var none [16]byte

// proxyDummy is where kube-proxy in mode ipvs has put the addresses of all Services: they are not the node's.
const proxyDummy = "kube-ipvs0"

// local notes one of the node's addresses. Those of a link alone mean another node on another link, so they don't count.
func (f *Found) local(addr netip.Addr, o *Options) {
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		return
	}
	var flags uint8
	if addr.IsLoopback() {
		flags |= abi.LocalLoopback
	}
	asked := len(o.NodePortAddresses) == 0 ||
		slices.ContainsFunc(o.NodePortAddresses, func(p netip.Prefix) bool { return p.Contains(addr) })
	if asked && (!addr.IsLoopback() || o.LocalhostNodePorts) {
		flags |= abi.LocalNodePort
	}
	f.Locals[addr] = flags
}

// OfPod says whether an interface looks like the host's side of a pod's, whether or not anything is known of the pod: a
// pair into another network namespace, in no bridge, by which no route has a next hop, with no address but, as some networks
// have it, those that stand for themselves alone (the pods' gateway). It may still be down, and be without any address or route.
func (i *Interface) OfPod(o *Options) bool {
	return i.Apart && !i.Enslaved && !i.Routed && !o.named(i.Name) &&
		!slices.ContainsFunc(i.Addresses, func(a Address) bool { return a.Global && !a.IsSingleIP() })
}

// named says whether a name is one of those that options give uplinks.
func (o *Options) named(name string) bool {
	return slices.ContainsFunc(o.Uplinks, func(glob string) bool {
		matches, err := path.Match(glob, name)
		return matches && err == nil
	})
}

func (i *Interface) uplink(o *Options) bool {
	if !i.Up || i.Loopback || i.Bare || i.Name == proxyDummy || i.Name == tunnel.Name {
		return false
	}
	if len(o.Uplinks) > 0 {
		return o.named(i.Name)
	}
	return slices.ContainsFunc(i.Addresses, func(a Address) bool { return a.Global })
}

// choose takes an address to masquerade with, if there is none of its family yet.
func choose(u *abi.Uplink, a Address) {
	if !a.Global || a.Late {
		return
	}
	into := &u.V6
	if a.Addr().Is4() {
		into = &u.V4
	}
	if *into == none {
		*into = a.Addr().As16()
	}
}
