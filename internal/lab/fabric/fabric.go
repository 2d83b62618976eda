// SPDX-License-Identifier: Apache-2.0

// Package fabric wires namespaces into a small network: nodes and outside clients on one bridge, pods behind their
// nodes, and routes between all of them as a plain layer 3 CNI would set them. It knows nothing of Kubernetes.
//
// It promises that an address works as soon as a call has returned: neighbours are written down rather than asked
// for, and no address waits for duplicate address detection.
package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// Addresses of what the lab itself puts on the bridge.
var (
	// BridgeAddrs are the bridge's own: where nodes reach the bus, and their default route.
	BridgeAddrs = []netip.Addr{netip.MustParseAddr("172.30.255.254"), netip.MustParseAddr("fd00:172:30::ffff:fffe")}
	// OutsideAddrs are those of the client that is no node.
	OutsideAddrs = []netip.Addr{netip.MustParseAddr("172.30.255.1"), netip.MustParseAddr("fd00:172:30::ffff:1")}
	// gateways are what pods see as their router, the same on every node.
	gateways = []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}
)

const (
	bridge = "fabric"
	// Uplink is the link of each host to the bridge, and of each pod to its node.
	Uplink = "eth0"
)

// Fabric is the bridge and what is plugged into it.
type Fabric struct {
	dir       string
	namespace *space.Namespace
	hosts     []*Host
	added     int     // how many hosts there ever were
	losses    *losses // nil until something is to be lost
}

// Host is a namespace on the bridge: a node or an outside client.
type Host struct {
	Namespace *space.Namespace
	Name      string
	Addrs     []netip.Addr
	PodCIDRs  []netip.Prefix // routed to it by all other hosts
	mac       net.HardwareAddr
	mark      int    // never that of another host
	lead      *Host  // the router of its default routes; nil is the first
	port      string // the bridge's end of its link, and that one's index
	index     int
}

// New makes the bridge. Namespaces are held by files in dir.
func New(dir string) (*Fabric, error) {
	namespace, err := space.NewNamespace(filepath.Join(dir, "fabric"))
	if err != nil {
		return nil, err
	}
	f := &Fabric{dir: dir, namespace: namespace}
	if err := f.makeBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("make the fabric: %w", err), namespace.Close())
	}
	return f, nil
}

func (f *Fabric) makeBridge() error {
	if err := f.namespace.Sysctl(plainHost); err != nil {
		return err
	}
	links, err := f.namespace.Links()
	if err != nil {
		return err
	}
	defer links.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = bridge, bridgeMAC
	snooping := false
	if err := links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return err
	}
	link, err := links.LinkByName(bridge)
	if err != nil {
		return err
	}
	return errors.Join(up(links, "lo"), up(links, bridge), addAddrs(links, link, BridgeAddrs))
}

// Namespace returns the namespace that the bridge is in.
func (f *Fabric) Namespace() *space.Namespace { return f.namespace }

// plainHost are settings of every namespace. Duplicate address detection would keep an address unusable for seconds.
var plainHost = map[string]string{
	"ipv6/conf/all/disable_ipv6": "0", "ipv6/conf/default/disable_ipv6": "0",
	"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0",
	"ipv6/conf/all/accept_ra": "0", "ipv6/conf/default/accept_ra": "0",
	"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
	// Anyone may ping and use low ports; labs have no users.
	"ipv4/ping_group_range": "0 2147483647", "ipv4/ip_unprivileged_port_start": "0",
}

// router are further settings of namespaces that forward. Redirects and rate limits only confuse observers. Packets
// whose source is not reached by the link that they come from are dropped (RFC 3704), as many distributions have it:
// what works here works there.
var router = map[string]string{
	"ipv4/conf/all/rp_filter": "1", "ipv4/conf/default/rp_filter": "1",
	"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "1",
	"ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
	"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
}

// AddHost makes a namespace on the bridge, with routes to and from every other one.
func (f *Fabric) AddHost(file, name string, addrs []netip.Addr, podCIDRs []netip.Prefix) (*Host, error) {
	namespace, err := space.NewNamespace(filepath.Join(f.dir, file))
	if err != nil {
		return nil, err
	}
	f.added++
	h := &Host{Namespace: namespace, Name: name, Addrs: addrs, PodCIDRs: podCIDRs, mark: firstMark + f.added}
	if err := f.plug(h); err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s to the fabric: %w", name, err), namespace.Close())
	}
	for _, other := range f.hosts {
		if err := errors.Join(route(h, other), route(other, h)); err != nil {
			return nil, errors.Join(fmt.Errorf("route between %s and %s: %w", name, other.Name, err), namespace.Close())
		}
	}
	f.hosts = append(f.hosts, h)
	if err := f.ways(h); err != nil {
		return nil, errors.Join(err, f.RemoveHost(h))
	}
	return h, nil
}

func (f *Fabric) plug(h *Host) error {
	settings := plainHost
	if len(h.PodCIDRs) > 0 {
		settings = both(plainHost, router)
	}
	if err := h.Namespace.Sysctl(settings); err != nil {
		return err
	}
	inFabric, err := f.namespace.Links()
	if err != nil {
		return err
	}
	defer inFabric.Close()
	inHost, err := h.Namespace.Links()
	if err != nil {
		return err
	}
	defer inHost.Close()
	h.port = fmt.Sprintf("port%d", f.added)
	if err := veth(inFabric, h.port, h.Namespace, Uplink); err != nil {
		return err
	}
	if h.index, err = join(inFabric, h.port); err != nil {
		return err
	}
	link, err := inHost.LinkByName(Uplink)
	if err != nil {
		return err
	}
	h.mac = link.Attrs().HardwareAddr
	bridgeLink, err := inFabric.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := errors.Join(up(inHost, "lo"), up(inHost, Uplink), addAddrs(inHost, link, h.Addrs)); err != nil {
		return err
	}
	if err := errors.Join(carries(inHost, Uplink), carries(inFabric, h.port, bridge)); err != nil {
		return err
	}
	for i, gateway := range BridgeAddrs {
		// Reached on the link itself, whatever prefixes the addresses are of.
		if !hasFamily(h.Addrs, gateway) {
			continue
		}
		err := errors.Join(
			neighbour(inHost, link, gateway, bridgeLink.Attrs().HardwareAddr),
			addRoute(inHost, link, host(gateway), netip.Addr{}),
			addRoute(inHost, link, everything[i], gateway))
		if err != nil {
			return err
		}
	}
	for _, addr := range h.Addrs {
		if err := errors.Join(neighbour(inFabric, bridgeLink, addr, h.mac), addRoute(inFabric, bridgeLink, host(addr), netip.Addr{})); err != nil {
			return err
		}
	}
	return nil
}

// join puts a port into the bridge and returns its index.
func join(links *netlink.Handle, port string) (int, error) {
	link, err := links.LinkByName(port)
	if err != nil {
		return 0, err
	}
	master, err := links.LinkByName(bridge)
	if err != nil {
		return 0, err
	}
	if err := links.LinkSetMaster(link, master); err != nil {
		return 0, fmt.Errorf("put %s into the bridge: %w", port, err)
	}
	return link.Attrs().Index, links.LinkSetUp(link)
}

// route lets from reach to's addresses on the bridge, and its pods through them.
func route(from, to *Host) error {
	links, err := from.Namespace.Links()
	if err != nil {
		return err
	}
	defer links.Close()
	link, err := links.LinkByName(Uplink)
	if err != nil {
		return err
	}
	for _, addr := range to.Addrs {
		if !hasFamily(from.Addrs, addr) {
			continue
		}
		if err := errors.Join(neighbour(links, link, addr, to.mac), addRoute(links, link, host(addr), netip.Addr{})); err != nil {
			return err
		}
	}
	for _, cidr := range to.PodCIDRs {
		if via, ok := ofFamily(to.Addrs, cidr.Addr()); ok && hasFamily(from.Addrs, via) {
			if err := addRoute(links, link, cidr, via); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveHost takes a host off the bridge. Its links go with it; the others lose their routes to it.
func (f *Fabric) RemoveHost(h *Host) error {
	f.hosts = slices.DeleteFunc(f.hosts, func(o *Host) bool { return o == h })
	for _, other := range f.hosts {
		if err := errors.Join(unroute(other, h), f.unway(other, h)); err != nil {
			return err
		}
	}
	return h.Namespace.Close()
}

func unroute(from, to *Host) error {
	links, err := from.Namespace.Links()
	if err != nil {
		return err
	}
	defer links.Close()
	link, err := links.LinkByName(Uplink)
	if err != nil {
		return err
	}
	prefixes := to.PodCIDRs
	for _, addr := range to.Addrs {
		prefixes = append(prefixes, host(addr))
	}
	for _, prefix := range prefixes {
		err := links.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(prefix)})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route to %s: %w", prefix, err)
		}
	}
	return nil
}
