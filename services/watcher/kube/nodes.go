// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/cache"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// nodes adds to the facts of Nodes which of them are lost, and is where a reflector puts the Leases that say so. Only
// what changes is emitted: of 5,000 Leases 500 are renewed each second.
type nodes struct {
	log  *slog.Logger
	emit func(core.Input)

	mu     sync.Mutex
	leases *leases
	facts  map[string]*schemas.Fact // of Nodes, without whether they are lost
}

var _ cache.TransformingStore = (*nodes)(nil)

func newNodes(lost map[string]bool, log *slog.Logger, emit func(core.Input)) *nodes {
	return &nodes{log: log, emit: emit, leases: newLeases(lost), facts: map[string]*schemas.Fact{}}
}

// see emits what was seen of Nodes, each as lost as it is.
func (n *nodes) see(in core.Input) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch in := in.(type) {
	case core.List:
		clear(n.facts)
		for i, fact := range in.Facts {
			in.Facts[i] = n.keep(fact)
		}
		n.emit(in)
	case core.Upsert:
		n.emit(core.Upsert{Fact: n.keep(in.Fact)})
	case core.Delete:
		delete(n.facts, in.Object.GetName())
		n.emit(in)
	default:
		n.emit(in)
	}
}

// keep remembers a Node's fact and returns it with whether the Node is lost.
func (n *nodes) keep(fact *schemas.Fact) *schemas.Fact {
	name := fact.GetObject().GetName()
	n.facts[name] = fact
	if !n.leases.lost(name) {
		return fact
	}
	lost := proto.CloneOf(fact)
	lost.GetNode().Lost = true
	return lost
}

// say emits the Nodes that are lost by now, or no longer.
func (n *nodes) say(changed []string) {
	for _, name := range changed {
		if n.leases.lost(name) {
			n.log.Warn("a node is lost: its Lease isn't renewed any more; nobody waits for it", "node", name)
		} else {
			n.log.Info("a node that was lost is heard of again", "node", name)
		}
		if fact := n.facts[name]; fact != nil {
			n.emit(core.Upsert{Fact: n.keep(fact)})
		}
	}
}

// Transformer keeps of Leases what says when they were renewed.
func (n *nodes) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if l, ok := object.(*coordinationv1.Lease); ok {
			return &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Name, ResourceVersion: l.ResourceVersion},
				Spec:       coordinationv1.LeaseSpec{RenewTime: l.Spec.RenewTime, LeaseDurationSeconds: l.Spec.LeaseDurationSeconds},
			}, nil
		}
		return object, nil
	}
}

// Add takes a Lease that has come.
func (n *nodes) Add(object any) error { return n.Update(object) }

// Update takes a Lease that was renewed.
func (n *nodes) Update(object any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l, ok := object.(*coordinationv1.Lease); ok {
		n.say(n.leases.see(time.Now(), l))
	}
	return nil
}

// Delete takes that a Lease has gone.
func (n *nodes) Delete(object any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	if l, ok := object.(*coordinationv1.Lease); ok && n.leases.remove(l.Name) {
		n.say([]string{l.Name})
	}
	return nil
}

// Replace takes all Leases there are.
func (n *nodes) Replace(objects []any, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, there := time.Now(), map[string]bool{}
	for _, object := range objects {
		if l, ok := object.(*coordinationv1.Lease); ok {
			there[l.Name] = true
			n.say(n.leases.see(now, l))
		}
	}
	for name := range n.leases.nodes {
		if !there[name] && n.leases.remove(name) {
			n.say([]string{name})
		}
	}
	return nil
}

// Resync does nothing: nothing is kept that could have been missed.
func (n *nodes) Resync() error { return nil }

// nodeLeases is how the Nodes' Leases are listed and watched.
func (s *Source) nodeLeases() kind {
	k := kindOf("Lease", s.Client, &coordinationv1.Lease{}, func(string) coordinationclient.LeaseInterface {
		return s.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	})
	k.minor = true
	return k
}
