// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
	"unique"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func parsePod(n Name, uid string, m *schemas.Pod) (*Pod, error) {
	p := &Pod{
		Name: n, Node: m.GetNode(), HostNetwork: m.GetHostNetwork(), Finished: m.GetFinished(),
		Incarnation: model.IncarnationOf(uid),
	}
	if err := checkNode(p.Node); err != nil {
		return nil, err
	}
	var err error
	if p.Labels, err = NewLabels(m.GetLabels()); err != nil {
		return nil, err
	}
	if p.Ports, err = namedPorts(m.GetPorts()); err != nil {
		return nil, err
	}
	if p.Addresses, err = addresses("addresses", m.GetAddresses(), MaxAddresses); err != nil {
		return nil, err
	}
	if len(m.GetHostPorts()) > MaxPorts {
		return nil, fmt.Errorf("it has %d hostPorts: the bound is %d", len(m.GetHostPorts()), MaxPorts)
	}
	var wrong []error
	for i, h := range m.GetHostPorts() {
		port, err := parseHostPort(h)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("hostPorts[%d] is not used: %w", i, err))
			continue
		}
		p.HostPorts = append(p.HostPorts, port)
	}
	return p, together(wrong...)
}

// namedPorts returns the ports that have a name and a number, ordered. Of two with one name and protocol the first
// counts (as in Kubernetes' FindPort, which asks the containers in order).
func namedPorts(list []*schemas.EndpointPort) (ports []Port, err error) {
	if len(list) > MaxPorts {
		return nil, fmt.Errorf("it has %d ports: the bound is %d", len(list), MaxPorts)
	}
	for i, m := range list {
		port, err := parsePort(m.GetName(), m.GetProtocol(), m.GetPort())
		if err != nil {
			return nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		if len(port.Name) > maxPortName || strings.ContainsFunc(port.Name, unprintable) || !utf8.ValidString(port.Name) {
			return nil, fmt.Errorf("ports[%d]: %.64q is no port's name", i, port.Name)
		}
		if port.Name != "" && port.Number != 0 {
			port.Name = unique.Make(port.Name).Value()
			ports = append(ports, port)
		}
	}
	named := func(a, b Port) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol))
	}
	slices.SortStableFunc(ports, named)
	return slices.CompactFunc(ports, func(a, b Port) bool { return named(a, b) == 0 }), nil
}

func parseHostPort(m *schemas.HostPort) (HostPort, error) {
	on, err := parsePort("", m.GetProtocol(), m.GetHostPort())
	if err != nil {
		return HostPort{}, err
	}
	in, err := parsePort("", m.GetProtocol(), m.GetContainerPort())
	if err != nil {
		return HostPort{}, err
	}
	h := HostPort{Protocol: on.Protocol, Port: on.Number, Container: in.Number}
	if h.Port == 0 || h.Container == 0 {
		return h, fmt.Errorf("%d to %d: 0 is no port", h.Port, h.Container)
	}
	if len(m.GetHostIp()) == 0 {
		return h, nil
	}
	if all, ok := netip.AddrFromSlice(m.GetHostIp()); ok && all.IsUnspecified() {
		h.HostIP = all
		return h, nil
	}
	h.HostIP, err = address(m.GetHostIp())
	return h, err
}

func parseNode(n Name, m *schemas.Node) (*Node, error) {
	addrs, err := addresses("addresses", m.GetAddresses(), MaxAddresses)
	if err != nil {
		return nil, err
	}
	node := &Node{Name: n, Addresses: addrs, Zone: m.GetZone(), Draining: m.GetDraining(), Lost: m.GetLost()}
	if node.Internal, err = addresses("internalIPs", m.GetInternalIps(), MaxAddresses); err != nil {
		return nil, err
	}
	if node.Labels, err = NewLabels(m.GetLabels()); err != nil {
		return nil, err
	}
	var noZone, noNetwork error
	if len(node.Zone) > maxLabel || strings.ContainsFunc(node.Zone, forbidden) {
		noZone = fmt.Errorf("its zone %.64q is not used: it names none", node.Zone)
		node.Zone = ""
	}
	if len(m.GetPodCidrs()) > MaxAddresses {
		return nil, fmt.Errorf("it has %d podCIDRs: the bound is %d", len(m.GetPodCidrs()), MaxAddresses)
	}
	node.PodCIDRs, noNetwork = networks("podCIDRs", m.GetPodCidrs())
	return node, together(noZone, noNetwork)
}

// Number returns the number by which packets name the node.
func (n *Node) Number() model.NodeID { return model.NodeIDOf(n.Name.Name) }

func numberKey(number model.NodeID) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(number)))
}

func sameNode(a, b *Node) bool {
	return a.Zone == b.Zone && a.Draining == b.Draining && a.Lost == b.Lost && a.Labels == b.Labels && slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.PodCIDRs, b.PodCIDRs) && slices.Equal(a.Internal, b.Internal)
}

func samePod(a, b *Pod) bool {
	return a.Node == b.Node && a.HostNetwork == b.HostNetwork && a.Finished == b.Finished &&
		a.Labels == b.Labels && a.Incarnation == b.Incarnation && slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.HostPorts, b.HostPorts)
}

func parseCluster(n Name, m *schemas.Cluster) (*Cluster, error) {
	c := &Cluster{Name: n, Fact: m}
	var noPods, noServices error
	c.PodCIDRs, noPods = networks("podCIDRs", values(m.GetPodCidrs()))
	c.ServiceCIDRs, noServices = networks("serviceCIDRs", values(m.GetServiceCidrs()))
	return c, together(noPods, noServices)
}

func sameCluster(a, b *Cluster) bool { return proto.Equal(a.Fact, b.Fact) }

func values(found []*schemas.Found) []string {
	list := make([]string, len(found))
	for i, f := range found {
		list[i] = f.GetValue()
	}
	return list
}

// The shortest prefixes that are believed to be a cluster's: what is in one is dropped where no frontend stands for
// it, or counts as inside.
const (
	shortestIPv4 = 8
	shortestIPv6 = 16
)

// CheckNetwork refuses a prefix that can't be a cluster's own.
func CheckNetwork(p netip.Prefix) error {
	shortest := shortestIPv4
	if model.FamilyOf(p.Addr()) == model.IPv6 {
		shortest = shortestIPv6
	}
	if p.Bits() < shortest {
		return fmt.Errorf("%s is more than a cluster's own: want /%d or longer", p, shortest)
	}
	return nil
}

// networks reads prefixes of a cluster. It returns them once each, in order, and what is wrong with the others.
func networks(field string, texts []string) (list []netip.Prefix, wrong error) {
	all, wrong := prefixes(field, texts)
	for _, p := range all {
		if err := CheckNetwork(p); err != nil {
			wrong = together(wrong, fmt.Errorf("%s: %w", field, err))
			continue
		}
		list = append(list, p)
	}
	return list, wrong
}

// prefixes reads prefixes in CIDR notation, as Kubernetes does: spaces around them, and bits after them, don't
// matter. It returns them once each, in order, and what is wrong with the others.
func prefixes(field string, texts []string) (list []netip.Prefix, wrong error) {
	var errs []error
	for i, text := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("%s[%d] is not used: %.64q is no prefix such as 192.0.2.0/24", field, i, text))
			continue
		}
		list = append(list, p.Masked())
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list), together(errs...)
}

// together makes one error of those that aren't nil, in one line; nil of none.
func together(errs ...error) error {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}
