// SPDX-License-Identifier: Apache-2.0

package state

import (
	"iter"
	"net/netip"
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Snapshot is the state at one moment. It never changes and may be read by any goroutine.
type Snapshot struct {
	txn *memdb.Txn
}

// Complete says that everything of a source was in STATE at Trigger.
type Complete struct {
	Name
	Source  string
	Objects uint64
	Trigger time.Time
	Epoch   uint64 // of STATE
}

// Service returns the Service of that name.
func (s *Snapshot) Service(name Name) (*Service, bool) { return services.get(s.txn, name.key()) }

// Services iterates over all Services in order of their names.
func (s *Snapshot) Services() iter.Seq[*Service] { return services.all(s.txn) }

// ServicesFrom iterates over the Services in order of their names, from the first that is not before name.
func (s *Snapshot) ServicesFrom(name Name) iter.Seq[*Service] {
	return services.from(s.txn, name.key())
}

// SlicesOf iterates over the slices of a Service in order of their names.
func (s *Snapshot) SlicesOf(service Name) iter.Seq[*Slice] {
	return endpointSlices.by(s.txn, byService, service.key())
}

// PodsOn iterates over the Pods of a node in order of their names.
func (s *Snapshot) PodsOn(node string) iter.Seq[*Pod] { return pods.by(s.txn, byNode, node) }

// Pods iterates over all Pods in order of their names.
func (s *Snapshot) Pods() iter.Seq[*Pod] { return pods.all(s.txn) }

// Pod returns the Pod of that name.
func (s *Snapshot) Pod(name Name) (*Pod, bool) { return pods.get(s.txn, name.key()) }

// PodsIn iterates over the Pods of a namespace in order of their names.
func (s *Snapshot) PodsIn(namespace string) iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for p := range pods.from(s.txn, namespace+"/") {
			if p.Namespace != namespace || !yield(p) {
				return
			}
		}
	}
}

// Namespaces iterates over all Namespaces in order of their names.
func (s *Snapshot) Namespaces() iter.Seq[*Namespace] { return namespaces.all(s.txn) }

// NamespaceLabels returns the labels of a namespace. One that isn't known, or not yet, has NamespaceLabel alone.
func (s *Snapshot) NamespaceLabels(name string) Labels {
	if n, found := namespaces.get(s.txn, Name{Name: name}.key()); found {
		return n.Labels
	}
	return packLabels(map[string]string{NamespaceLabel: name})
}

// Policies iterates over all policies: those of the cluster, then by namespace and name.
func (s *Snapshot) Policies() iter.Seq[*Policy] { return policies.all(s.txn) }

// PoliciesIn iterates over the NetworkPolicies of a namespace; without one, over the ClusterNetworkPolicies.
func (s *Snapshot) PoliciesIn(namespace string) iter.Seq[*Policy] {
	return func(yield func(*Policy) bool) {
		for p := range policies.from(s.txn, namespace+"/") {
			if p.Namespace != namespace || !yield(p) {
				return
			}
		}
	}
}

// Policy returns the policy of that name. A ClusterNetworkPolicy that is in the other tier now isn't found.
func (s *Snapshot) Policy(name model.PolicyName) (*Policy, bool) {
	p, found := policies.get(s.txn, name.Namespace+"/"+name.Name)
	if !found || p.PolicyName != name {
		return nil, false
	}
	return p, true
}

// Policed says that there are policies, be they understood or not.
func (s *Snapshot) Policed() bool {
	for range policies.all(s.txn) {
		return true
	}
	return false
}

// Nodes iterates over all Nodes in order of their names.
func (s *Snapshot) Nodes() iter.Seq[*Node] { return nodes.all(s.txn) }

// Node returns the Node of that name.
func (s *Snapshot) Node(name string) (*Node, bool) { return nodes.get(s.txn, Name{Name: name}.key()) }

// Cluster returns what was found out about the cluster, or nil.
func (s *Snapshot) Cluster() *schemas.Cluster {
	for c := range clusters.all(s.txn) {
		return c.Fact
	}
	return nil
}

// Clusters iterates over all that was found out about the cluster; there is one at most, unless a watcher is wrong.
func (s *Snapshot) Clusters() iter.Seq[*Cluster] { return clusters.all(s.txn) }

// NodesWith iterates over the Nodes whose Pods have addresses out of a prefix.
func (s *Snapshot) NodesWith(podCIDR netip.Prefix) iter.Seq[*Node] {
	return nodes.by(s.txn, byNetwork, podCIDR.String())
}

// NodesNumbered iterates over the Nodes that have a number: one, or several whose names come to the same.
func (s *Snapshot) NodesNumbered(number model.NodeID) iter.Seq[*Node] {
	return nodes.by(s.txn, byNumber, numberKey(number))
}

// Complete says whether a complete list of everything has been announced. Until then what is absent may only
// not have been told yet, so nothing may be compiled.
func (s *Snapshot) Complete() bool {
	for range completes.all(s.txn) {
		return true
	}
	return false
}

// CompleteIn is Complete for a list that the watcher announced in an epoch of STATE, or a later one, and after a time;
// zero is any. A watcher of an older version names no epoch.
func (s *Snapshot) CompleteIn(epoch uint64, after time.Time) bool {
	for c := range completes.all(s.txn) {
		if (c.Epoch == 0 || c.Epoch >= epoch) && (after.IsZero() || c.Trigger.After(after)) {
			return true
		}
	}
	return false
}

// Announced returns the newest epoch of STATE in which a list was announced as complete; 0 if there is none.
func (s *Snapshot) Announced() (epoch uint64) {
	for c := range completes.all(s.txn) {
		epoch = max(epoch, c.Epoch)
	}
	return epoch
}

// SetAside iterates over the objects whose Facts are invalid, in order of kind and name.
func (s *Snapshot) SetAside() iter.Seq[*SetAside] { return setAside.all(s.txn) }

// Counts returns the number of rows by table. It walks all of them.
func (s *Snapshot) Counts() map[string]int {
	return map[string]int{
		services.name: services.count(s.txn), endpointSlices.name: endpointSlices.count(s.txn),
		pods.name: pods.count(s.txn), nodes.name: nodes.count(s.txn), namespaces.name: namespaces.count(s.txn),
		policies.name: policies.count(s.txn), setAside.name: setAside.count(s.txn),
	}
}
