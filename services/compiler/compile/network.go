// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// compileNetwork compiles one prefix of the cluster. One that is given for Services and for pods is the Services'.
func compileNetwork(snap *state.Snapshot, settings *Settings, prefix netip.Prefix) []model.Network {
	switch {
	case hasPrefix(snap, settings.ServiceCIDRs, prefix, func(c *state.Cluster) []netip.Prefix { return c.ServiceCIDRs }):
		return []model.Network{{Prefix: prefix, Kind: model.NetworkServices}}
	case hasPrefix(snap, settings.PodCIDRs, prefix, func(c *state.Cluster) []netip.Prefix { return c.PodCIDRs }),
		len(settings.PodCIDRs) == 0 && isNodes(snap, prefix):
		return []model.Network{{Prefix: prefix, Kind: model.NetworkPods}}
	}
	return nil
}

// hasPrefix says whether a prefix is among those of the settings; if these have none, among those found.
func hasPrefix(snap *state.Snapshot, given []netip.Prefix, prefix netip.Prefix, found func(*state.Cluster) []netip.Prefix) bool {
	if len(given) > 0 {
		return slices.Contains(given, prefix)
	}
	for c := range snap.Clusters() {
		if slices.Contains(found(c), prefix) {
			return true
		}
	}
	return false
}

func isNodes(snap *state.Snapshot, prefix netip.Prefix) bool {
	for range snap.NodesWith(prefix) {
		return true
	}
	return false
}

// networks returns all prefixes there may be rows for, in order.
func networks(snap *state.Snapshot, settings *Settings) []netip.Prefix {
	all := slices.Concat(settings.PodCIDRs, settings.ServiceCIDRs)
	for c := range snap.Clusters() {
		all = slices.Concat(all, c.PodCIDRs, c.ServiceCIDRs)
	}
	for node := range snap.Nodes() {
		all = append(all, node.PodCIDRs...)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
