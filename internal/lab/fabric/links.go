// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// mtu of every link, as a plain Ethernet has it.
const mtu = 1500

// everything is the default route of each family, in the order of BridgeAddrs and gateways.
var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// veth makes a pair of links: name here, peer in another namespace.
func veth(here *netlink.Handle, name string, there *space.Namespace, peer string) error {
	file, err := os.Open(there.Path())
	if err != nil {
		return err
	}
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	err = here.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(int(file.Fd())), PeerMTU: mtu})
	if err != nil {
		return fmt.Errorf("make links %s and %s: %w", name, peer, err)
	}
	return nil
}

func up(links *netlink.Handle, name string) error {
	link, err := links.LinkByName(name)
	if err == nil {
		err = links.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// carryWithin is how long a link may take to learn that its other end is up.
const carryWithin = 30 * time.Second

// carries waits until links send what they are given and have their addresses: they learn only a moment after they are up
// that their other ends are, too, and drop packets until then. The kernel gives IPv6 addresses to links when it has time.
func carries(links *netlink.Handle, names ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), carryWithin)
	defer cancel()
	for _, name := range names {
		err := space.Poll(ctx, time.Millisecond, func() (bool, error) {
			link, err := links.LinkByName(name)
			if err != nil || link.Attrs().OperState != netlink.OperUp {
				return false, err
			}
			addrs, err := links.AddrList(link, unix.AF_INET6)
			return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }), err
		})
		if err != nil {
			return fmt.Errorf("wait until link %s carries packets: %w", name, err)
		}
	}
	return nil
}

// addAddrs gives a link addresses that stand alone: no prefix is on the link but what routes say.
func addAddrs(links *netlink.Handle, link netlink.Link, addrs []netip.Addr) error {
	for _, addr := range addrs {
		if err := addAddr(links, link, host(addr)); err != nil {
			return err
		}
	}
	return nil
}

func addAddr(links *netlink.Handle, link netlink.Link, prefix netip.Prefix) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: ipNet(prefix).Mask}}
	if prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := links.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, prefix, err)
	}
	return nil
}

// neighbour writes down who has an address, so that the first packet needn't ask.
func neighbour(links *netlink.Handle, link netlink.Link, addr netip.Addr, mac net.HardwareAddr) error {
	err := links.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
	})
	if err != nil {
		return fmt.Errorf("set the neighbour %s on %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}

// addRoute sends a prefix through a link, to a router if via is valid. The source is the kernel's choice.
func addRoute(links *netlink.Handle, link netlink.Link, prefix netip.Prefix, via netip.Addr) error {
	return addRouteFrom(links, link, prefix, via, netip.Addr{})
}

func addRouteFrom(links *netlink.Handle, link netlink.Link, prefix netip.Prefix, via, source netip.Addr) error {
	r := routeTo(link, prefix, via)
	if source.IsValid() {
		r.Src = source.AsSlice()
	}
	if err := links.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s through %s: %w", prefix, link.Attrs().Name, err)
	}
	return nil
}

func routeTo(link netlink.Link, prefix netip.Prefix, via netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(prefix)}
	if via.IsValid() {
		r.Gw, r.Flags = via.AsSlice(), int(netlink.FLAG_ONLINK)
	} else if prefix.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

func host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ofFamily(addrs []netip.Addr, like netip.Addr) (netip.Addr, bool) {
	for _, addr := range addrs {
		if addr.Is4() == like.Is4() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func hasFamily(addrs []netip.Addr, like netip.Addr) bool {
	_, ok := ofFamily(addrs, like)
	return ok
}

func both(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
