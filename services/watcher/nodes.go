// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"sync"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// nodes are the Nodes that the source has: one that is gone gets no credential any more.
type nodes struct {
	mu     sync.Mutex
	listed bool
	uids   map[string]string // by name
}

// take takes in what the source says.
func (n *nodes) take(in core.Input) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch in := in.(type) {
	case core.List:
		if in.Incomplete != "" || !slices.Contains(in.Kinds, convert.KindNode) {
			return
		}
		n.listed, n.uids = true, map[string]string{}
		for _, fact := range in.Facts {
			n.put(fact.GetObject())
		}
		for _, refusal := range in.Refused {
			n.put(refusal.Object)
		}
	case core.Upsert:
		n.put(in.Fact.GetObject())
	case core.Refusal:
		n.put(in.Object)
	case core.Delete:
		if in.Object.GetKind() == convert.KindNode {
			delete(n.uids, in.Object.GetName())
		}
	}
}

func (n *nodes) put(o *schemas.ObjectRef) {
	if o.GetKind() == convert.KindNode && n.uids != nil {
		n.uids[o.GetName()] = o.GetUid()
	}
}

// has says why there is no such Node. One that was made anew under the same name is another. Before Nodes were listed
// nothing is said against any.
func (n *nodes) has(proof kube.Proof) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	uid, there := n.uids[proof.Node]
	switch {
	case !n.listed:
		return nil
	case !there:
		return fmt.Errorf("the cluster has no Node %q", proof.Node)
	case uid != "" && proof.NodeUID != "" && uid != proof.NodeUID:
		return fmt.Errorf("the token is of a Node %s with UID %s: it was made anew since, with UID %s", proof.Node, proof.NodeUID, uid)
	}
	return nil
}
