// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// compileNumber compiles how other nodes reach the one that has a number. If several have it none is reached: packets
// that carry the number could be any one's. A node without an InternalIP that others can send to has no row either;
// clients of its backends come with another node's address.
func compileNumber(snap *state.Snapshot, number model.NodeID) (c content) {
	all := slices.Collect(snap.NodesNumbered(number))
	if len(all) > 1 {
		for i, node := range all {
			c.aside = append(c.aside, nodeAside(node, number, all[(i+1)%len(all)]))
		}
		return c
	}
	for _, node := range all {
		row := model.Node{ID: number, V4: internal(node, model.IPv4), V6: internal(node, model.IPv6)}
		if row.V4.IsValid() || row.V6.IsValid() {
			c.nodes = []model.Node{row}
		}
	}
	return c
}

// internal returns the first address of a family that other nodes can send to.
func internal(node *state.Node, family model.Family) netip.Addr {
	for _, addr := range node.Internal {
		if model.FamilyOf(addr) == family && addr.IsGlobalUnicast() {
			return addr
		}
	}
	return netip.Addr{}
}

func nodeAside(node *state.Node, number model.NodeID, other *state.Node) state.SetAside {
	return state.SetAside{
		Object: &schemas.ObjectRef{Kind: state.KindNode, Name: node.Name.Name},
		Reason: fmt.Sprintf("its name comes to the number 0x%08x, as that of Node %s does: clients from outside reach the backends of both "+
			"with the address of the node that they dialled; give one of them another name", uint32(number), other.Name),
	}
}

// nodeNumbers returns the numbers of all nodes, in order.
func nodeNumbers(snap *state.Snapshot) []model.NodeID {
	var all []model.NodeID
	for node := range snap.Nodes() {
		all = append(all, node.Number())
	}
	slices.Sort(all)
	return slices.Compact(all)
}
