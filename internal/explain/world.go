// SPDX-License-Identifier: Apache-2.0

// Package explain answers what becomes of a connection, and why, in words and names: it resolves pods, Services and
// nodes to addresses, asks the reference model or the real BPF programs, and says who caused the entries involved.
//
// It promises that the same objects give the same answer whichever engine decides, and that a question never changes
// anything. The fields of Answer are read by scripts: a changed or removed field is a breaking change.
package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/refmodel/policy"
	"github.com/deltaplane/deltaplane/schemas"
)

// World is a cluster to ask about: what was said about its objects, and the rows that nodes hold. It never changes
// once made, but that the rows of a live cluster's node are read when a question is first about it.
type World struct {
	pods     map[string]*schemas.Fact // by "namespace/name"
	services map[string]*schemas.Fact // by "namespace/name"
	nodes    map[string]*schemas.Fact // by name
	slices   map[string][]*schemas.Fact
	owners   map[netip.Addr]owner
	nearby   map[string]map[netip.Addr]bool // by node, what EndpointSlices say is there
	vips     map[netip.Addr]string          // the Service that has the cluster IP, as "namespace/name"
	cluster  *refmodel.Layer
	local    map[string]*refmodel.Layer // by node
	rows     map[model.Layer]*model.Tables
	config   Config

	policies    *policy.Cluster
	policyFacts map[model.PolicyName]*schemas.Fact
	// live asks a node of a running cluster for all of its rows; nil if rows has them all.
	live func(node string) (*model.Rows, error)
}

// owner is whose address one is; exactly one of pod and node is set.
type owner struct {
	pod  string // "namespace/name"
	node string
}

// NewWorld joins objects and rows. layers has the cluster layer and those of the nodes that may be asked about; a node
// without a layer of its own has no local rows. config says what nodes are told besides rows.
func NewWorld(facts []*schemas.Fact, layers map[model.Layer]*model.Tables, config Config) *World {
	w := &World{
		pods: map[string]*schemas.Fact{}, services: map[string]*schemas.Fact{}, nodes: map[string]*schemas.Fact{},
		slices: map[string][]*schemas.Fact{}, owners: map[netip.Addr]owner{}, vips: map[netip.Addr]string{}, nearby: map[string]map[netip.Addr]bool{},
		local: map[string]*refmodel.Layer{}, rows: layers, config: config,
		policies: policy.New(facts, nil), policyFacts: map[model.PolicyName]*schemas.Fact{},
	}
	for _, fact := range facts {
		w.add(fact)
	}
	for layer, tables := range layers {
		if layer == model.ClusterLayer {
			w.cluster = refmodel.NewLayer(tables)
		} else {
			w.local[layer.Name] = refmodel.NewLayer(tables)
		}
	}
	if w.cluster == nil {
		w.cluster = refmodel.NewLayer(&model.Tables{})
	}
	return w
}

func (w *World) add(fact *schemas.Fact) {
	name := objectName(fact.GetObject())
	switch state := fact.GetState().(type) {
	case *schemas.Fact_Pod:
		w.pods[name] = fact
		if !state.Pod.GetHostNetwork() && !state.Pod.GetFinished() {
			for _, a := range addresses(state.Pod.GetAddresses()) {
				if other, taken := w.owners[a]; !taken || other.pod == "" || name < other.pod { // as the compiler has it
					w.owners[a] = owner{pod: name}
				}
			}
		}
	case *schemas.Fact_Service:
		w.services[name] = fact
		for _, a := range addresses(state.Service.GetClusterIps()) {
			if taken, ok := w.vips[a]; !ok || name < taken {
				w.vips[a] = name
			}
		}
	case *schemas.Fact_EndpointSlice:
		service := fact.GetObject().GetNamespace() + "/" + state.EndpointSlice.GetService()
		w.slices[service] = append(w.slices[service], fact)
		for _, e := range state.EndpointSlice.GetEndpoints() {
			w.addNearby(e.GetNode(), e.GetAddress())
		}
	case *schemas.Fact_Node:
		w.nodes[name] = fact
		for _, a := range addresses(state.Node.GetAddresses()) {
			if w.owners[a].pod == "" {
				w.owners[a] = owner{node: name}
			}
		}
	case *schemas.Fact_NetworkPolicy, *schemas.Fact_ClusterNetworkPolicy:
		w.policyFacts[policy.Name(fact)] = fact
	}
}

func (w *World) addNearby(node string, raw []byte) {
	if w.nearby[node] == nil {
		w.nearby[node] = map[netip.Addr]bool{}
	}
	for _, a := range addresses([][]byte{raw}) {
		w.nearby[node][a] = true
	}
}

// load reads a node's rows if that hasn't been done.
func (w *World) load(node string) error {
	if w.live == nil || w.rows[model.NodeLayer(node)] != nil {
		return nil
	}
	rows, err := w.live(node)
	if err != nil {
		return fmt.Errorf("read the rows of node %s: %w", node, err)
	}
	tables := model.NewTables()
	tables.Apply(&model.Change{Put: *rows}, model.Digest{})
	w.rows[model.NodeLayer(node)], w.local[node] = tables, refmodel.NewLayer(tables)
	return nil
}

// layers are the rows that a node has in common with all others, and its own. Those of a live node's are all taken for
// its own.
func (w *World) layers(node string) (cluster, own *model.Tables) {
	cluster, own = w.rows[model.ClusterLayer], w.rows[model.NodeLayer(node)]
	if cluster == nil {
		cluster = &model.Tables{}
	}
	if own == nil {
		own = &model.Tables{}
	}
	return cluster, own
}

// node returns what the rules look at on one node.
func (w *World) node(name string) *refmodel.Node {
	layers := []*refmodel.Layer{w.cluster}
	if local := w.local[name]; local != nil {
		layers = append(layers, local)
	}
	return refmodel.New(layers...).In(w.surroundings(name))
}

// surroundings are what the node's programmer would find there, as far as objects tell.
func (w *World) surroundings(node string) refmodel.Surroundings {
	s := w.config.surroundings(addresses(w.nodes[node].GetNode().GetAddresses()))
	s.Nearby = w.nearby[node]
	s.Number, s.Tunnel = model.NodeIDOf(node), true
	return s
}

// tables returns all rows of one node.
func (w *World) tables(node string) *model.Tables {
	all := model.NewTables()
	cluster, own := w.layers(node)
	for _, rows := range []*model.Tables{cluster, own} {
		all.Apply(&model.Change{Put: rows.Rows()}, model.Digest{})
	}
	return all
}

// Nodes returns the names of all nodes, sorted: those of Node objects and those that only pods name.
func (w *World) Nodes() []string {
	var names []string
	for name := range w.nodes {
		names = append(names, name)
	}
	for _, pod := range w.pods {
		if node := pod.GetPod().GetNode(); node != "" {
			names = append(names, node)
		}
	}
	for name := range w.local {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// describe names an address for people: the pod or node that has it, and where that is.
func (w *World) describe(a netip.Addr) string {
	o, known := w.owners[a]
	switch {
	case known && o.pod != "":
		return fmt.Sprintf("pod %s on %s", o.pod, w.pods[o.pod].GetPod().GetNode())
	case known:
		return "node " + o.node
	}
	return "no pod or node that is known"
}

// objectName returns "namespace/name", or the name alone for what has no namespace.
func objectName(ref *schemas.ObjectRef) string {
	if ref.GetNamespace() == "" {
		return ref.GetName()
	}
	return ref.GetNamespace() + "/" + ref.GetName()
}

// addresses reads addresses of 4 or 16 bytes and leaves out what is neither.
func addresses(raw [][]byte) []netip.Addr {
	var all []netip.Addr
	for _, b := range raw {
		if a, ok := netip.AddrFromSlice(b); ok {
			all = append(all, a.Unmap())
		}
	}
	return all
}
