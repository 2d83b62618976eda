// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Affinities remember which backend a client got (API: sessionAffinity ClientIP). A full table, which forgets what it
// likes, is not modelled.
type Affinities map[AffinityKey]Affinity

// AffinityKey is who asked whom: packets have a client address, sockets the cookie of their network namespace, which
// is the pod's or the node's.
type AffinityKey struct {
	Client netip.Addr
	Cookie uint64
	Set    model.SetID // the one that was picked from; its root if Scope is not 0
	Scope  model.Scope // ScopeLocal or ScopeNode: parts that come and go with policies and hints; else 0
}

// of returns the key for a client that picks from a set.
func (k AffinityKey) of(set *model.BackendSet) AffinityKey {
	k.Set = set.ID
	if set.Scope == model.ScopeLocal || set.Scope == model.ScopeNode {
		k.Set, k.Scope = set.Root, set.Scope
	}
	return k
}

// Affinity is what it got, and when it asked last.
type Affinity struct {
	Backend model.BackendID
	Seen    uint32 // seconds of the clock that flows are aged by
}

// Narrow leaves the one candidate that a client of a set with affinity has had, if it asked within the time that the
// Service allows and the backend still takes new connections, or nobody does. Every new connection counts as asking
// again (API: ClientIPConfig.timeoutSeconds; kube-proxy's iptables "recent" lists with --rsource --reap, nftables'
// "update @affinity").
func (a Affinities) Narrow(n *Node, d *Decision, who AffinityKey, now uint32) {
	if d.Verdict != Forward || d.Set == nil || d.Set.Affinity == 0 {
		return
	}
	had, asked := a.recall(who.of(d.Set), d.Set.Affinity, now)
	for _, scope := range []model.Scope{model.ScopeLocal, model.ScopeNode} {
		if !asked && d.Set.ID == d.Root.ID {
			who.Set, who.Scope = d.Root.ID, scope
			had, asked = a.recall(who, d.Set.Affinity, now)
		}
	}
	if !asked {
		return
	}
	b, lives := n.backend(had.Backend)
	if !lives || b.Set != d.Root.ID || b.State != model.BackendActive && d.Set.Flags&model.Fallback == 0 {
		return
	}
	d.Candidates = []model.Backend{b}
}

// recall returns what a client got within the time that the Service allows.
func (a Affinities) recall(who AffinityKey, seconds, now uint32) (Affinity, bool) {
	had, asked := a[who]
	return had, asked && now-had.Seen <= seconds
}

// Note remembers what a client got.
func (a Affinities) Note(d Decision, who AffinityKey, b model.Backend, now uint32) {
	if d.Set != nil && d.Set.Affinity != 0 {
		a[who.of(d.Set)] = Affinity{b.ID, now}
	}
}
