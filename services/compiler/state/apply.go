// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Apply takes in facts, in one transaction, and says what has to be compiled again. A fact whose object is
// invalid counts as the object's absence, and sets it aside by name. The error names facts that could not
// even be set aside because they name no object; all others are applied.
func (d *DB) Apply(facts ...*schemas.Fact) (Changes, error) {
	txn := d.db.Txn(true)
	defer txn.Commit()
	var (
		changes  Changes
		nameless error
	)
	for i, fact := range facts {
		if fact.GetObject().GetKind() == "" {
			nameless = errors.Join(nameless, fmt.Errorf("fact %d of %d names no object: it is ignored", i+1, len(facts)))
			continue
		}
		changes.apply(txn, fact)
	}
	return changes, nameless
}

func (c *Changes) apply(txn *memdb.Txn, fact *schemas.Fact) {
	touch, changed, err := applyFact(txn, fact)
	c.aside(txn, fact.GetObject(), err)
	if !changed {
		c.Unchanged++
		return
	}
	if fact.GetComplete() != nil {
		c.Completed = true
	}
	if !touch.empty() {
		touch.Cause = causeOf(fact)
		c.Touched = append(c.Touched, touch)
	}
}

// aside records or takes back that an object is set aside.
func (c *Changes) aside(txn *memdb.Txn, object *schemas.ObjectRef, err error) {
	row := &SetAside{Object: object}
	old, was := setAside.get(txn, row.key())
	if err == nil {
		if was {
			setAside.remove(txn, old)
		}
		return
	}
	row.Reason = err.Error()
	if !was || old.Reason != row.Reason {
		setAside.put(txn, row)
		c.SetAside = append(c.SetAside, *row)
	}
}

func causeOf(fact *schemas.Fact) model.Cause {
	o := fact.GetObject()
	var trigger time.Time // zero if the source doesn't know it
	if fact.GetTriggerTime() != nil {
		trigger = fact.GetTriggerTime().AsTime()
	}
	return model.Cause{
		Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUid(),
		ResourceVersion: o.GetResourceVersion(), Manager: fact.GetManager(),
		Trigger: trigger, Deleted: fact.State == nil,
	}
}

// applyFact changes one row. It returns what is touched, and whether the row has changed.
func applyFact(txn *memdb.Txn, fact *schemas.Fact) (touch Touch, changed bool, err error) {
	kind, n := fact.GetObject().GetKind(), Name{fact.GetObject().GetNamespace(), fact.GetObject().GetName()}
	switch kind {
	case KindService:
		old, now, err := update(txn, services, kind, n, fact, fact.GetService(), parseService)
		changed = !same(old, now, sameService)
		if changed {
			touch = rivals(txn, n, old, now)
		}
		return touch, changed, err
	case KindEndpointSlice:
		old, now, err := update(txn, endpointSlices, kind, n, fact, fact.GetEndpointSlice(), parseSlice)
		changed = !same(old, now, sameSlice)
		if changed {
			touch.Services = owners(old, now)
		}
		return touch, changed, err
	case KindPod:
		parse := func(n Name, m *schemas.Pod) (*Pod, error) { return parsePod(n, fact.GetObject().GetUid(), m) }
		old, now, err := update(txn, pods, kind, n, fact, fact.GetPod(), parse)
		changed = !same(old, now, samePod)
		if changed {
			touch.Nodes, touch.Policy.Pods = hosts(old, now), []Name{n}
		}
		return touch, changed, err
	case KindNode:
		old, now, err := update(txn, nodes, kind, n, fact, fact.GetNode(), parseNode)
		touch.Nodes, touch.Networks, touch.Policy.Nodes = selves(old, now), changedNetworks(old, now), peers(old, now)
		touch.Numbers = numbers(old, now)
		return touch, !same(old, now, sameNode), err
	case KindNamespace:
		old, now, err := update(txn, namespaces, kind, n, fact, fact.GetNamespace(), parseNamespace)
		changed = !same(old, now, func(a, b *Namespace) bool { return *a == *b })
		if changed {
			touch.Policy.Namespaces = []string{n.Name}
		}
		return touch, changed, err
	case KindNetworkPolicy, KindClusterNetworkPolicy:
		touch.Policy.Policies, err = applyPolicy(txn, kind, n, fact)
		return touch, len(touch.Policy.Policies) > 0, err
	case KindCluster:
		old, now, err := update(txn, clusters, "", n, fact, fact.GetCluster(), parseCluster)
		touch.Networks = union(old.networks(), now.networks())
		return touch, !same(old, now, sameCluster), err
	case KindComplete:
		return touch, applyComplete(txn, n, fact), nil
	}
	if fact.State == nil {
		return touch, false, nil
	}
	return touch, false, fmt.Errorf("kind %q is none that this compiler knows: is the watcher newer?", kind)
}

// applyComplete remembers that a complete list was announced. That it was stays true when the announcement is
// gone, since nothing that was told is forgotten.
func applyComplete(txn *memdb.Txn, n Name, fact *schemas.Fact) bool {
	m := fact.GetComplete()
	if m == nil {
		return false
	}
	completes.put(txn, &Complete{n, m.GetSource(), m.GetObjects(), fact.GetTriggerTime().AsTime(), m.GetEpoch()})
	return true
}

// update replaces, adds or removes the row that fact is about and returns it before and after, nil for absent.
// An empty kind allows any name; under one that the kind can't have there is nothing, or another kind's row. A parser that returns a row beside an error sets only a part of the object aside.
func update[R any, M interface {
	comparable
	proto.Message
}](
	txn *memdb.Txn, t *table[*R], kind string, n Name, fact *schemas.Fact, message M, parse func(Name, M) (*R, error),
) (old, now *R, err error) {
	if kind != "" {
		if err = checkName(kind, n); err != nil && fact.State != nil {
			return nil, nil, err
		} else if err != nil {
			return nil, nil, nil
		}
	}
	old, _ = t.get(txn, n.key())
	var none M
	switch {
	case fact.State != nil && message == none:
		err = fmt.Errorf("its fact holds a %T", fact.State)
	case message != none:
		now, err = parse(n, message)
	}
	switch {
	case now != nil:
		t.put(txn, now)
	case old != nil:
		t.remove(txn, old)
	}
	return old, now, err
}

// applyPolicy replaces a policy and returns its names before and after, if it changed: a ClusterNetworkPolicy has
// another in another tier. A policy whose fact holds something else is refused: it doesn't open by being unreadable.
func applyPolicy(txn *memdb.Txn, kind string, n Name, fact *schemas.Fact) (changed []model.PolicyName, err error) {
	var old, now *Policy
	network, cluster := fact.GetNetworkPolicy(), fact.GetClusterNetworkPolicy()
	strange := fmt.Sprintf("its fact holds a %T", fact.State)
	switch kind {
	case KindNetworkPolicy:
		if fact.State != nil && network == nil {
			network = &schemas.NetworkPolicy{Refused: strange}
		}
		old, now, err = update(txn, policies, kind, n, fact, network, parseNetworkPolicy)
	default:
		if fact.State != nil && cluster == nil {
			cluster = &schemas.ClusterNetworkPolicy{Refused: strange}
		}
		old, now, err = update(txn, policies, kind, n, fact, cluster, parseClusterNetworkPolicy)
	}
	if same(old, now, samePolicy) {
		return nil, err
	}
	for _, p := range []*Policy{old, now} {
		if p != nil {
			changed = append(changed, p.PolicyName)
		}
	}
	return slices.Compact(changed), err
}

func same[R any](old, now *R, equal func(a, b *R) bool) bool {
	if old == nil || now == nil {
		return old == now
	}
	return equal(old, now)
}

func owners(states ...*Slice) []Name {
	var names []Name
	for _, s := range states {
		if s != nil && s.Service != "" {
			names = append(names, s.ServiceName())
		}
	}
	return slices.Compact(names)
}

// hosts returns the nodes whose hostPorts, or claims to addresses, change when a pod does.
func hosts(old, now *Pod) []string {
	if old != nil && now != nil && old.Node == now.Node && slices.Equal(old.Attached(), now.Attached()) &&
		slices.Equal(old.HostPorts, now.HostPorts) {
		return nil
	}
	var names []string
	for _, p := range []*Pod{old, now} {
		if p != nil && p.Node != "" && len(p.Attached()) > 0 {
			names = append(names, p.Node)
		}
	}
	return slices.Compact(names)
}

// selves returns the node if what it knows of itself changes.
func selves(old, now *Node) []string {
	switch {
	case same(old, now, func(a, b *Node) bool { return a.Zone == b.Zone && a.Draining == b.Draining }):
		return nil
	case old != nil:
		return []string{old.Name.Name}
	}
	return []string{now.Name.Name}
}

// peers returns the node if policies may see it otherwise than before.
func peers(old, now *Node) []string {
	switch {
	case same(old, now, func(a, b *Node) bool { return a.Labels == b.Labels && slices.Equal(a.Addresses, b.Addresses) }):
		return nil
	case old != nil:
		return []string{old.Name.Name}
	}
	return []string{now.Name.Name}
}

// numbers returns the node's number if other nodes reach it otherwise than before.
func numbers(old, now *Node) []model.NodeID {
	switch {
	case same(old, now, func(a, b *Node) bool { return slices.Equal(a.Internal, b.Internal) }):
		return nil
	case old != nil:
		return []model.NodeID{old.Number()}
	}
	return []model.NodeID{now.Number()}
}

func (n *Node) networks() []netip.Prefix {
	if n == nil {
		return nil
	}
	return n.PodCIDRs
}

func (c *Cluster) networks() []netip.Prefix {
	if c == nil {
		return nil
	}
	return slices.Concat(c.PodCIDRs, c.ServiceCIDRs)
}

// changedNetworks returns the prefixes that a Node gains or loses, with those it keeps.
func changedNetworks(old, now *Node) []netip.Prefix {
	if slices.Equal(old.networks(), now.networks()) {
		return nil
	}
	return union(old.networks(), now.networks())
}

func union(a, b []netip.Prefix) []netip.Prefix {
	all := slices.Concat(a, b)
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
