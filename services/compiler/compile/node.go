// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// compileNode compiles one node's own rows: what it is, the endpoints on it and their hostPorts. An address that two
// pods of the node claim goes to the first by name: which of them has it can't be known from the objects, but every
// compiler must say the same.
func compileNode(snap *state.Snapshot, settings *Settings, name string) content {
	var c content
	if node, found := snap.Node(name); found {
		c.selves = []model.Self{{Zone: node.Zone, Draining: node.Draining}}
	}
	for pod := range snap.PodsOn(name) {
		for _, addr := range pod.Attached() {
			c.endpoints = append(c.endpoints, model.Endpoint{Addr: addr, Pod: pod.Name.String()})
		}
	}
	slices.SortFunc(c.endpoints, func(a, b model.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Pod, b.Pod))
	})
	holders := map[netip.Addr]string{}
	kept := c.endpoints[:0]
	for _, e := range c.endpoints {
		if n := len(kept); n > 0 && kept[n-1].Addr == e.Addr {
			if kept[n-1].Pod != e.Pod {
				c.aside = append(c.aside, podAside(podName(e.Pod), fmt.Sprintf(
					"its address %s is also Pod %s's on node %s: one of them is out of date", e.Addr, kept[n-1].Pod, name)))
			}
			continue
		}
		kept = append(kept, e)
		holders[e.Addr] = e.Pod
	}
	c.endpoints = kept
	ports := hostPorts{snap: snap, settings: settings, node: name, holders: holders}
	ports.compile()
	c.parts, c.aside = ports.parts, append(c.aside, ports.aside...)
	return c
}

func podName(pod string) state.Name {
	namespace, name, _ := strings.Cut(pod, "/")
	return state.Name{Namespace: namespace, Name: name}
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
