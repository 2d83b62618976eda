// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// node is what one node comes to: the endpoints on it, in order of their addresses.
type node struct {
	endpoints []model.Endpoint
	aside     []state.SetAside
}

// compileNode compiles one node's own layer. An address that two pods of the node claim goes to the first by
// name: which of them has it can't be known from the objects, but every compiler must say the same.
func compileNode(snap *state.Snapshot, name string) node {
	var unit node
	for pod := range snap.PodsOn(name) {
		for _, addr := range pod.Attached() {
			unit.endpoints = append(unit.endpoints, model.Endpoint{Addr: addr, Pod: pod.Name.String()})
		}
	}
	slices.SortFunc(unit.endpoints, func(a, b model.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Pod, b.Pod))
	})
	kept := unit.endpoints[:0]
	for _, e := range unit.endpoints {
		if n := len(kept); n > 0 && kept[n-1].Addr == e.Addr {
			if kept[n-1].Pod != e.Pod {
				unit.aside = append(unit.aside, podAside(e, kept[n-1].Pod, name))
			}
			continue
		}
		kept = append(kept, e)
	}
	unit.endpoints = kept
	return unit
}

func podAside(e model.Endpoint, holder, node string) state.SetAside {
	namespace, name := cutPod(e.Pod)
	return state.SetAside{
		Object: &schemas.ObjectRef{Kind: state.KindPod, Namespace: namespace, Name: name},
		Reason: fmt.Sprintf("its address %s is also Pod %s's on node %s: one of them is out of date", e.Addr, holder, node),
	}
}
