// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A client has a way through each router, for what no host has as its own address: Services. Sockets choose by their
// mark (SO_MARK), whose number is also that of a routing table; those without one go through the first router.
const (
	firstMark    = 1000
	rulePriority = 100 // before the main table
)

// Mark returns what a client's sockets are marked with to go through this host.
func (h *Host) Mark() int { return h.mark }

// router says whether others' packets go through the host.
func (h *Host) router() bool { return len(h.PodCIDRs) > 0 }

// ways gives a host that is new its ways, or the others theirs through it.
func (f *Fabric) ways(h *Host) error {
	for _, other := range f.hosts {
		var err error
		switch {
		case h.router() && !other.router():
			err = errors.Join(way(other, h), f.firstWay(other))
		case other.router() && !h.router():
			err = errors.Join(way(h, other), f.firstWay(h))
		}
		if err != nil {
			return fmt.Errorf("ways between %s and %s: %w", h.Name, other.Name, err)
		}
	}
	return nil
}

// way lets a client's marked sockets go through a router.
func way(client, router *Host) error {
	return onUplink(client, func(links *netlink.Handle, link netlink.Link) error {
		for i, prefix := range everything {
			via, ok := ofFamily(router.Addrs, BridgeAddrs[i])
			if !ok || !hasFamily(client.Addrs, via) {
				continue
			}
			rule := ruleOf(router, via)
			if err := links.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("rule for mark %d: %w", router.mark, err)
			}
			route := routeTo(link, prefix, via)
			route.Table = router.mark
			if err := links.RouteReplace(route); err != nil {
				return fmt.Errorf("route marked sockets through %s: %w", via, err)
			}
		}
		return nil
	})
}

func ruleOf(router *Host, like netip.Addr) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = unix.AF_INET
	if like.Is6() {
		rule.Family = unix.AF_INET6
	}
	rule.Priority, rule.Mark, rule.Table = rulePriority, uint32(router.mark), router.mark
	return rule
}

// unway takes a client's way through a router that goes away; the routes go with the router's link or stay unused.
func (f *Fabric) unway(client, router *Host) error {
	if client.router() || !router.router() {
		return nil
	}
	err := onUplink(client, func(links *netlink.Handle, _ netlink.Link) error {
		for _, gateway := range BridgeAddrs {
			if !hasFamily(router.Addrs, gateway) || !hasFamily(client.Addrs, gateway) {
				continue
			}
			if err := links.RuleDel(ruleOf(router, gateway)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove the rule for mark %d: %w", router.mark, err)
			}
		}
		return nil
	})
	return errors.Join(err, f.firstWay(client))
}

// Lead sends a client's packets through a router from now on, those of open connections too: what a network does when
// it finds another way. Marked sockets keep theirs.
func (f *Fabric) Lead(client, router *Host) error {
	if client.router() || !router.router() {
		return fmt.Errorf("lead %s through %s: want a client and a router", client.Name, router.Name)
	}
	client.lead = router
	return f.firstWay(client)
}

// firstWay sets a client's default routes: where it is led, else through the first router, or to the bridge if there is
// none.
func (f *Fabric) firstWay(client *Host) error {
	routers := f.hosts
	if slices.Contains(f.hosts, client.lead) {
		routers = []*Host{client.lead}
	}
	return onUplink(client, func(links *netlink.Handle, link netlink.Link) error {
		for i, via := range BridgeAddrs {
			if !hasFamily(client.Addrs, via) {
				continue
			}
			for _, h := range routers {
				if addr, ok := ofFamily(h.Addrs, via); ok && h.router() {
					via = addr
					break
				}
			}
			if err := addRoute(links, link, everything[i], via); err != nil {
				return err
			}
		}
		return nil
	})
}

// onUplink calls do with the host's link to the bridge.
func onUplink(h *Host, do func(*netlink.Handle, netlink.Link) error) error {
	links, err := h.Namespace.Links()
	if err != nil {
		return err
	}
	defer links.Close()
	link, err := links.LinkByName(Uplink)
	if err != nil {
		return err
	}
	return do(links, link)
}
