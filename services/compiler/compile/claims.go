// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// claims finds out which of the addresses and ports that a Service names it has: what several claim belongs to the
// oldest of them. A cluster address is claimed whole and beats others' claims to it as an external one, whatever their
// age. A NodePort, and an external address with a port and protocol, are claimed one by one, so that Services may
// share a load balancer's address.
type claims struct {
	snap     *state.Snapshot
	settings *Settings
	svc      *state.Service

	won       []netip.Addr // cluster addresses, sorted
	balancers []netip.Addr
	external  []netip.Addr
	aside     []state.SetAside
}

func (c *claims) lose(format string, args ...any) {
	c.aside = append(c.aside, setAside(c.svc, fmt.Sprintf(format, args...)))
}

// addresses finds out which addresses the Service has.
func (c *claims) addresses() {
	for _, addr := range c.svc.ClusterIPs {
		holder := oldest(c.svc, c.snap.Claims(addr))
		switch {
		case slices.Contains(c.won, addr):
		case holder == c.svc:
			c.won = append(c.won, addr)
		default:
			c.lose("its address %s belongs to Service %s, which is older: give one of them another address", addr, holder.Name)
		}
	}
	slices.SortFunc(c.won, netip.Addr.Compare)
	if len(c.svc.ClusterIPs) == 0 || len(c.svc.Ports) == 0 {
		return // no address makes a frontend
	}
	for _, addr := range c.svc.LoadBalancerIPs {
		if c.available(addr, "load balancer's") {
			c.balancers = append(c.balancers, addr)
		}
	}
	for _, addr := range c.svc.ExternalIPs {
		switch {
		case !c.available(addr, "external"), slices.Contains(c.balancers, addr):
		case !c.settings.allows(addr):
			c.lose("its external address %s is not used: it is in no range of --allow-external-ips; add one, or leave the address out", addr)
		default:
			c.external = append(c.external, addr)
		}
	}
}

// available says whether an address may be used as an external one: no Service's cluster address, and of a family
// that the Service has.
func (c *claims) available(addr netip.Addr, which string) bool {
	if slices.Contains(c.svc.ClusterIPs, addr) {
		return false // that is what it is used as
	}
	if !slices.Contains(c.svc.Families(), model.FamilyOf(addr)) {
		c.lose("its %s address %s is not used: it has no cluster address of IPv%d", which, addr, model.FamilyOf(addr))
		return false
	}
	for other := range c.snap.Claims(addr) {
		c.lose("its %s address %s is not used: it is the cluster address of Service %s", which, addr, other.Name)
		return false
	}
	return true
}

// frontends returns the frontends of one port in one family, sorted.
func (c *claims) frontends(port state.Port, family model.Family) []frontend {
	var list []frontend
	for _, addr := range ofFamily(c.won, family, itself) {
		list = append(list, frontend{exact(addr, port), model.FrontendClusterIP, c.internalFlags()})
	}
	if key := state.NodePortKey(family, port); port.NodePort != 0 {
		if c.has(key, "NodePort", "port", c.snap.NodePortClaims(key)) {
			list = append(list, frontend{key, model.FrontendNodePort, c.externalFlags()})
		}
	}
	for _, addr := range ofFamily(c.balancers, family, itself) {
		if key := exact(addr, port); c.has(key, "load balancer's address", "port", externalHolders(c.snap, c.settings, key)) {
			flags := c.externalFlags()
			if c.svc.Restricted {
				flags |= model.SourceRanges
			}
			list = append(list, frontend{key, model.FrontendLoadBalancer, flags})
		}
	}
	for _, addr := range ofFamily(c.external, family, itself) {
		if key := exact(addr, port); c.has(key, "external address", "address or port", externalHolders(c.snap, c.settings, key)) {
			list = append(list, frontend{key, model.FrontendExternalIP, c.externalFlags()})
		}
	}
	slices.SortFunc(list, compareFrontends)
	return list
}

// internalFlags are those of a cluster address: internalTrafficPolicy is about nothing else.
func (c *claims) internalFlags() (flags model.FrontendFlags) {
	if c.svc.InternalLocal {
		flags |= model.InternalLocal
	}
	return flags
}

func (c *claims) externalFlags() model.FrontendFlags {
	switch {
	case c.svc.ExternalLocal:
		return model.ExternalLocal
	case c.svc.Forwarding != state.ForwardDefault:
		return forwardFlags[c.svc.Forwarding]
	}
	return forwardFlags[c.settings.Forwarding]
}

// forwardFlags has what the ways to forward come to; the cluster's default is the tunnel if it names none either.
var forwardFlags = [...]model.FrontendFlags{
	state.ForwardDefault: model.ForwardTunnel, state.ForwardTunnel: model.ForwardTunnel, state.ForwardDSR: model.ForwardDSR,
	state.ForwardSNAT: 0,
}

// healthChecks returns the port on which nodes tell about the Service, if it has one to itself.
func (c *claims) healthChecks() []model.HealthCheck {
	port := c.svc.HealthCheck()
	if port == 0 {
		return nil
	}
	if holder := oldest(c.svc, c.snap.HealthCheckClaims(port)); holder != c.svc {
		c.lose("its healthCheckNodePort %d belongs to Service %s, which is older: give one of them another port", port, holder.Name)
		return nil
	}
	return []model.HealthCheck{{Port: port, Namespace: c.svc.Namespace, Name: c.svc.Name.Name}}
}

// has says whether the Service is the oldest of all who claim a key.
func (c *claims) has(key model.FrontendKey, what, change string, claimants iter.Seq[*state.Service]) bool {
	holder := oldest(c.svc, claimants)
	if holder == c.svc {
		return true
	}
	c.lose("its %s %s belongs to Service %s, which is older: give one of them another %s", what, readable(key), holder.Name, change)
	return false
}

// readable writes a key as its Service has it: a NodePort is a number and a protocol.
func readable(key model.FrontendKey) string {
	if key.Match != model.MatchAddress {
		return fmt.Sprintf("%d/%s", key.Port, key.Protocol)
	}
	return key.String()
}

// externalHolders iterates over the Services that claim an address with a port as an external one, and may.
func externalHolders(snap *state.Snapshot, settings *Settings, key model.FrontendKey) iter.Seq[*state.Service] {
	return func(yield func(*state.Service) bool) {
		for svc := range snap.BalancerClaims(key) {
			if !yield(svc) {
				return
			}
		}
		if !settings.allows(key.Addr) {
			return
		}
		for svc := range snap.ExternalClaims(key) {
			if !yield(svc) {
				return
			}
		}
	}
}

func exact(addr netip.Addr, port state.Port) model.FrontendKey {
	return model.FrontendKey{Addr: addr, Port: port.Number, Protocol: port.Protocol}
}

// oldest returns the oldest of some Services and svc.
func oldest(svc *state.Service, others iter.Seq[*state.Service]) *state.Service {
	first := svc
	for other := range others {
		if other != svc && older(other, first) {
			first = other
		}
	}
	return first
}

func older(a, b *state.Service) bool {
	return cmp.Or(a.Created.Compare(b.Created), a.Name.Compare(b.Name)) < 0
}

func itself(addr netip.Addr) netip.Addr { return addr }
