// SPDX-License-Identifier: Apache-2.0

// Package state holds the cluster as the compiler sees it: one typed row for each object that a Fact told of,
// in go-memdb, which is wrapped here once.
//
// It promises that what DB holds is a function of the last Fact of each object, in whatever order and grouping
// they came; that a Snapshot never changes; and that an object which can't be compiled is set aside by name,
// with the reason, while all others are used. Before changing a row know that rows are shared by all
// snapshots, and that an EndpointSlice is one row with its endpoints packed (go-memdb costs some hundred bytes
// a row: a million endpoints must not be a million rows).
package state

import (
	"net/netip"

	"github.com/hashicorp/go-memdb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// The Kubernetes kinds that Facts have, and deltaplane's own two.
const (
	KindService              = "Service"
	KindEndpointSlice        = "EndpointSlice"
	KindPod                  = "Pod"
	KindNode                 = "Node"
	KindNamespace            = "Namespace"
	KindNetworkPolicy        = "NetworkPolicy"
	KindClusterNetworkPolicy = "ClusterNetworkPolicy"
	KindCluster              = "Cluster"
	KindComplete             = "Complete"
)

// Name names an object within its kind.
type Name struct {
	Namespace string // empty for what has none
	Name      string
}

// String returns "namespace/name", or "name" for what has no namespace.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// Compare orders names by namespace, then name.
func (n Name) Compare(m Name) int {
	switch a, b := n.key(), m.key(); {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (n Name) key() string { return n.Namespace + "/" + n.Name }

// DB is the cluster's present state. One goroutine applies; Snapshots may be read by any.
type DB struct {
	db *memdb.MemDB
}

// New returns an empty DB.
func New() *DB {
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		panic("state: the schema of go-memdb is wrong: " + err.Error())
	}
	return &DB{db: db}
}

// Snapshot returns a view of the present state that never changes.
func (d *DB) Snapshot() *Snapshot { return &Snapshot{txn: d.db.Txn(false)} }

// Changes is what a call of Apply brought about.
type Changes struct {
	// Touched has one entry for each fact that changed what is compiled.
	Touched []Touch
	// Completed says that a complete list of everything was announced.
	Completed bool
	// SetAside are the objects that Apply set aside anew, or for another reason than before.
	SetAside []SetAside
	// Unchanged counts facts that said nothing new.
	Unchanged int
}

// Touch is one object's change with the units that have to be compiled again because of it.
type Touch struct {
	Cause    model.Cause
	Services []Name
	Nodes    []string
	Networks []netip.Prefix
	Numbers  []model.NodeID
	Policy   Policed
}

// Policed is what changed of that which policies are about.
type Policed struct {
	Pods       []Name   // that came, went, moved, or have other addresses, labels, ports or uids
	Nodes      []string // that came, went, or have other addresses or labels
	Namespaces []string // that came, went, or have other labels
	Policies   []model.PolicyName
}

// Empty says that nothing changed.
func (p *Policed) Empty() bool {
	return len(p.Pods)+len(p.Nodes)+len(p.Namespaces)+len(p.Policies) == 0
}

func (t *Touch) empty() bool {
	return len(t.Services)+len(t.Nodes)+len(t.Networks)+len(t.Numbers) == 0 && t.Policy.Empty()
}

// SetAside is an object that isn't compiled, or of which a part isn't, and why.
type SetAside struct {
	Object *schemas.ObjectRef
	Reason string
}

func (s *SetAside) key() string {
	return s.Object.GetKind() + "/" + s.Object.GetNamespace() + "/" + s.Object.GetName()
}
