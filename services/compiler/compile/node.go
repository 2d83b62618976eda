// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// compileNode compiles one node's own rows: what it is, and the hostPorts of the pods on it. Their endpoints are the
// policies' (see package policy). An address that two pods of the node claim goes to the first by name: which of them
// has it can't be known from the objects, but every compiler must say the same.
func compileNode(snap *state.Snapshot, settings *Settings, name string) content {
	var c content
	holders := map[netip.Addr]string{}
	for pod := range snap.PodsOn(name) { // in order of names
		for _, addr := range pod.Attached() {
			holder, held := holders[addr]
			switch {
			case !held:
				holders[addr] = pod.Name.String()
			case holder != pod.Name.String():
				c.aside = append(c.aside, podAside(pod.Name, fmt.Sprintf(
					"its address %s is also Pod %s's on node %s: one of them is out of date", addr, holder, name)))
			}
		}
	}
	c.selves = compileSelf(snap, name, len(holders) > 0)
	ports := hostPorts{snap: snap, settings: settings, node: name, holders: holders}
	ports.compile()
	c.parts, c.aside = ports.parts, append(c.aside, ports.aside...)
	return c
}

// compileSelf returns what a node must know of itself. While there are policies it must know that, even if its Node
// isn't known or is set aside: its pods pass nothing until they are judged.
func compileSelf(snap *state.Snapshot, name string, hasPods bool) []model.Self {
	node, found := snap.Node(name)
	policed := snap.Policed()
	switch {
	case found:
		return []model.Self{{Zone: node.Zone, Draining: node.Draining, Policed: policed}}
	case policed && hasPods:
		return []model.Self{{Policed: true}}
	}
	return nil
}

func podAside(pod state.Name, reason string) state.SetAside {
	return state.SetAside{
		Object: &schemas.ObjectRef{Kind: state.KindPod, Namespace: pod.Namespace, Name: pod.Name}, Reason: reason,
	}
}

// nodeNames returns the names of all Nodes, and of all nodes that Pods are on.
func nodeNames(snap *state.Snapshot) []string {
	names := map[string]bool{}
	for node := range snap.Nodes() {
		names[node.Name.Name] = true
	}
	for pod := range snap.Pods() {
		if pod.Node != "" {
			names[pod.Node] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
