// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// Pod is a namespace behind a node.
type Pod struct {
	Namespace *space.Namespace
	Link      string // the node's end of the pod's link
	fabric    *Fabric
	node      *Host
	strays    []netip.Addr // addresses out of the node's prefixes: routed one by one
}

// AddPod makes a namespace behind a node. name makes the names of the namespace's file and of the link.
func (f *Fabric) AddPod(file, name string, node *Host, addrs []netip.Addr) (*Pod, error) {
	namespace, err := space.NewNamespace(filepath.Join(f.dir, file))
	if err != nil {
		return nil, err
	}
	p := &Pod{Namespace: namespace, Link: LinkName(name), fabric: f, node: node}
	err = p.wire(addrs)
	for _, addr := range addrs {
		if err == nil && !node.holds(addr) {
			err = p.routeStray(addr)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect pod %s to node %s: %w", name, node.Name, err), p.Close())
	}
	return p, nil
}

// LinkName returns the name of the node's end of a pod's link: at most 15 characters, the same for the same pod.
func LinkName(pod string) string {
	sum := sha256.Sum256([]byte(pod))
	return fmt.Sprintf("pod%x", sum[:5])
}

func (p *Pod) wire(addrs []netip.Addr) error {
	if err := p.Namespace.Sysctl(plainHost); err != nil {
		return err
	}
	inNode, err := p.node.Namespace.Links()
	if err != nil {
		return err
	}
	defer inNode.Close()
	inPod, err := p.Namespace.Links()
	if err != nil {
		return err
	}
	defer inPod.Close()
	if err := veth(inNode, p.Link, p.Namespace, Uplink); err != nil {
		return err
	}
	nodeEnd, err := inNode.LinkByName(p.Link)
	if err != nil {
		return err
	}
	podEnd, err := inPod.LinkByName(Uplink)
	if err != nil {
		return err
	}
	if err := errors.Join(up(inPod, "lo"), up(inPod, Uplink), up(inNode, p.Link)); err != nil {
		return err
	}
	if err := p.routesInPod(inPod, podEnd, nodeEnd, addrs); err != nil {
		return err
	}
	if err := p.routesInNode(inNode, nodeEnd, podEnd, addrs); err != nil {
		return err
	}
	return errors.Join(carries(inPod, Uplink), carries(inNode, p.Link))
}

func (p *Pod) routesInPod(links *netlink.Handle, podEnd, nodeEnd netlink.Link, addrs []netip.Addr) error {
	if err := addAddrs(links, podEnd, addrs); err != nil {
		return err
	}
	for i, gateway := range gateways {
		if !hasFamily(addrs, gateway) {
			continue
		}
		err := errors.Join(neighbour(links, podEnd, gateway, nodeEnd.Attrs().HardwareAddr), addRoute(links, podEnd, everything[i], gateway))
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Pod) routesInNode(links *netlink.Handle, nodeEnd, podEnd netlink.Link, addrs []netip.Addr) error {
	err := p.node.Namespace.Sysctl(map[string]string{"ipv4/conf/" + p.Link + "/proxy_arp": "1"})
	if err != nil {
		return err
	}
	// Pods that ask who fe80::1 is get an answer too.
	if err := addAddr(links, nodeEnd, netip.PrefixFrom(gateways[1], 64)); err != nil {
		return err
	}
	for _, addr := range addrs {
		source, _ := ofFamily(p.node.Addrs, addr)
		err := errors.Join(neighbour(links, nodeEnd, addr, podEnd.Attrs().HardwareAddr), addRouteFrom(links, nodeEnd, host(addr), netip.Addr{}, source))
		if err != nil {
			return err
		}
	}
	return nil
}

// holds says whether the others' routes to the host's pods cover an address.
func (h *Host) holds(addr netip.Addr) bool {
	return slices.ContainsFunc(h.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// routeStray tells all other hosts where an address is that their routes don't cover.
func (p *Pod) routeStray(addr netip.Addr) error {
	via, ok := ofFamily(p.node.Addrs, addr)
	if !ok {
		return nil
	}
	p.strays = append(p.strays, addr)
	return p.others(func(links *netlink.Handle, link netlink.Link) error { return addRoute(links, link, host(addr), via) })
}

func (p *Pod) unrouteStrays() error {
	return p.others(func(links *netlink.Handle, link netlink.Link) error {
		for _, addr := range p.strays {
			err := links.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(host(addr))})
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the route to %s: %w", addr, err)
			}
		}
		return nil
	})
}

// others calls do for each host but the pod's.
func (p *Pod) others(do func(*netlink.Handle, netlink.Link) error) error {
	for _, h := range p.fabric.hosts {
		if h == p.node {
			continue
		}
		links, err := h.Namespace.Links()
		if err != nil {
			return err
		}
		link, err := links.LinkByName(Uplink)
		if err == nil {
			err = do(links, link)
		}
		links.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Close removes the pod's link and lets its namespace go.
func (p *Pod) Close() error {
	if len(p.strays) > 0 {
		if err := p.unrouteStrays(); err != nil {
			return errors.Join(err, p.Namespace.Close())
		}
	}
	links, err := p.node.Namespace.Links()
	if err != nil {
		return errors.Join(err, p.Namespace.Close())
	}
	defer links.Close()
	link, err := links.LinkByName(p.Link)
	if err == nil {
		err = links.LinkDel(link)
	}
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone || errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return errors.Join(err, p.Namespace.Close())
}
