// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// mostLoaded is how many nodes have programs and maps at the same time: each is some megabytes of the kernel's. A
// question about another one takes those of the node that wasn't asked about for longest.
const mostLoaded = 16

// loadedNode is programs and maps that hold the rows of one node.
type loadedNode struct {
	*kernelnode.Node
	world *World
	name  string
	held  *refmodel.Node // what the maps say, read back
	own   *model.Tables  // the rows of policy among that
	drops map[model.DropReason]uint64
}

// run is what became of a packet.
type run struct {
	verdict bpf.Verdict
	reason  model.DropReason
	out     []byte
}

// on returns the programs with a node's rows.
func (k *Kernel) on(w *World, name string) (*loadedNode, error) {
	if err := w.load(name); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(k.nodes, func(n *loadedNode) bool { return n.world == w && n.name == name })
	if i < 0 {
		i = slices.IndexFunc(k.nodes, func(n *loadedNode) bool { return n.world != w })
	}
	if i < 0 && len(k.nodes) == mostLoaded {
		i = mostLoaded - 1
	}
	if i < 0 {
		var err error
		if i, err = k.load(); err != nil {
			return nil, err
		}
	}
	n := k.nodes[i]
	copy(k.nodes[1:i+1], k.nodes[:i])
	k.nodes[0] = n
	return n, n.fill(w, name)
}

// load adds programs with empty maps.
func (k *Kernel) load() (int, error) {
	loaded, err := kernelnode.Small(k.rows, k.masqueradeAll)
	if err != nil {
		return 0, err
	}
	k.nodes = append(k.nodes, &loadedNode{Node: loaded})
	return len(k.nodes) - 1, nil
}

// fill takes the maps to the rows and the addresses of a node.
func (n *loadedNode) fill(w *World, name string) error {
	if n.world == w && n.name == name {
		return nil
	}
	n.world = nil
	cluster, own := w.layers(name)
	if w.live != nil { // their kinds tell apart what the cluster has
		cluster, own = own, cluster
	}
	for _, step := range []struct {
		kind model.LayerKind
		rows *model.Tables
	}{
		{model.LayerNode, &model.Tables{}}, // of another world, they might be the cluster's here
		{model.LayerCluster, cluster},
		{model.LayerNode, own},
	} {
		if err := n.Set(step.kind, step.rows); err != nil {
			return fmt.Errorf("fill the maps of node %s: %w", name, err)
		}
	}
	around := w.surroundings(name)
	if err := n.Surround(around); err != nil {
		return fmt.Errorf("fill the maps of node %s: %w", name, err)
	}
	var layers []*refmodel.Layer
	for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
		rows, err := n.Rows(kind)
		if err != nil {
			return err
		}
		layers = append(layers, refmodel.NewLayer(rows))
		if (kind == model.LayerNode) == (w.live == nil) {
			n.own = rows
		}
	}
	n.world, n.name, n.held = w, name, refmodel.New(layers...).In(around)
	return nil
}

// run sends a packet as the first of its connection and client.
func (n *loadedNode) run(hook func(frame []byte) (bpf.Verdict, []byte, error), frame []byte) (r run, err error) {
	if err := n.Forget(); err != nil {
		return run{}, err
	}
	if r.verdict, r.out, err = hook(frame); err != nil || r.verdict == bpf.Pass {
		return r, err
	}
	before := n.drops
	if n.drops, err = n.DropCounts(); err != nil {
		return run{}, err
	}
	for reason, count := range n.drops {
		if count != before[reason] {
			r.reason = reason
		}
	}
	return r, nil
}
