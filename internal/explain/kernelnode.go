// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// mostLoaded is how many nodes have programs and maps at the same time: each is some megabytes of the kernel's, and the
// better part of a second of its verifier. A question about another one ends those of the node that wasn't asked about for
// longest.
const mostLoaded = 32

// wrappedIn is the network that nodes wrap packets in.
const wrappedIn = 1

// usualRows is what maps have room for in any case, so that they serve for other nodes of other worlds.
const usualRows = 2000

// loadedNode is programs and maps that hold the rows of one node.
type loadedNode struct {
	*kernelnode.Node
	world *World
	name  string
	// number is the node's, which programs are loaded with; nodes of other worlds may have it too.
	number model.NodeID
	room   int            // for rows
	held   *refmodel.Node // what the maps say, read back
	own    *model.Tables  // the rows of policy among that
	runs   uint16         // since the connections were last forgotten
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
	cluster, own := w.layers(name)
	rows, number := cluster.Len()+own.Len(), model.NodeIDOf(name)
	i := slices.IndexFunc(k.nodes, func(n *loadedNode) bool { return n.world == w && n.name == name })
	if i < 0 {
		i = slices.IndexFunc(k.nodes, func(n *loadedNode) bool { return n.world != w && n.number == number && n.room >= rows })
	}
	if i < 0 {
		if err := k.load(rows, number); err != nil {
			return nil, err
		}
		i = len(k.nodes) - 1
	}
	n := k.nodes[i]
	copy(k.nodes[1:i+1], k.nodes[:i])
	k.nodes[0] = n
	return n, n.fill(w, name)
}

// load adds programs of a node with empty maps.
func (k *Kernel) load(rows int, number model.NodeID) error {
	if len(k.nodes) == mostLoaded {
		k.nodes[mostLoaded-1].Close()
		k.nodes = k.nodes[:mostLoaded-1]
	}
	room := max(usualRows, rows)
	loaded, err := kernelnode.Small(room, bpf.Options{MasqueradeAll: k.masqueradeAll, Node: number, Tunnel: bpf.Tunnel{VNI: wrappedIn}})
	if err != nil {
		return err
	}
	k.nodes = append(k.nodes, &loadedNode{Node: loaded, number: number, room: room})
	return loaded.TellTunnel(uplink)
}

// fill takes the maps to the rows and the addresses of a node.
func (n *loadedNode) fill(w *World, name string) error {
	if n.world == w && n.name == name {
		return nil
	}
	other := n.world != w
	n.world = nil
	cluster, own := w.layers(name)
	if w.live != nil { // their kinds tell apart what the cluster has
		cluster, own = own, cluster
	}
	var err error
	if other { // the rows of its node might be the cluster's here
		err = n.Set(model.LayerNode, &model.Tables{})
	}
	if err = errors.Join(err, n.Set(model.LayerCluster, cluster), n.Set(model.LayerNode, own)); err != nil {
		return fmt.Errorf("fill the maps of node %s: %w", name, err)
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

// unpoliced gives a frame to the program of what pods send, as if there were no policies.
func (n *loadedNode) unpoliced(frame []byte) (verdict bpf.Verdict, out []byte, err error) {
	err = n.WithoutPolicies(func() (err error) {
		verdict, out, err = n.FromPod(frame)
		return err
	})
	return verdict, out, err
}

// mostRuns is how many connections are left to the programs before they are forgotten together, which takes longer than a
// packet: fewer than their tables have room for.
const mostRuns = 50

// run sends the first packet of a connection, which no earlier one was like: each has a port of its own, unless whoever
// asks named one.
func (n *loadedNode) run(hook func(frame []byte) (bpf.Verdict, []byte, error), protocol model.Protocol, source, target netip.AddrPort) (r run, err error) {
	if n.runs++; n.runs == mostRuns || source.Port() != clientPort {
		n.runs = 0
		if err := n.Forget(); err != nil {
			return run{}, err
		}
	}
	source = netip.AddrPortFrom(source.Addr(), source.Port()+n.runs)
	if r.verdict, r.out, err = hook(refmodel.FirstPacket(protocol, source, target)); err != nil || r.verdict == bpf.Pass {
		return r, err
	}
	events, err := n.Drops()
	if len(events) > 0 {
		r.reason = model.DropReason(events[len(events)-1].Reason)
	}
	return r, err
}
