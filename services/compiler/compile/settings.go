// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Settings are what operators decide about the rows of a cluster. The zero Settings are the defaults.
type Settings struct {
	// AllowExternalIPs are the prefixes that spec.externalIPs may be from; none allows none: whoever may edit a Service
	// could else take traffic to any address (CVE-2020-8554).
	AllowExternalIPs []netip.Prefix
	// PodCIDRs and ServiceCIDRs overrule what was found out about the cluster, each if it has any.
	PodCIDRs, ServiceCIDRs []netip.Prefix
	// Forwarding is how clients from outside get to backends on other nodes, unless a Service says so itself.
	Forwarding state.Forwarding
	// Policy bounds what one policy may come to.
	Policy policy.Limits
}

// ParsePrefixes reads prefixes in CIDR notation, as operators give them.
func ParsePrefixes(texts []string) (list []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is no prefix such as 192.0.2.0/24", text)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("%s has bits after its prefix: do you mean %s?", p, p.Masked())
		}
		list = append(list, p)
	}
	return list, nil
}

// ParseNetworks reads prefixes that are the cluster's own.
func ParseNetworks(texts []string) ([]netip.Prefix, error) {
	list, err := ParsePrefixes(texts)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if err := state.CheckNetwork(p); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (s *Settings) allows(external netip.Addr) bool {
	return slices.ContainsFunc(s.AllowExternalIPs, func(p netip.Prefix) bool { return p.Contains(external) })
}
