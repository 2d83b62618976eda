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
	Set    model.SetID // the one that was picked from
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
	who.Set = d.Set.ID
	had, asked := a[who]
	if !asked || now-had.Seen >= d.Set.Affinity {
		return
	}
	b, lives := n.backend(had.Backend)
	if !lives || b.Set != d.Root.ID || b.State != model.BackendActive && d.Set.Flags&model.Fallback == 0 {
		return
	}
	d.Candidates = []model.Backend{b}
}

// Note remembers what a client got.
func (a Affinities) Note(d Decision, who AffinityKey, b model.Backend, now uint32) {
	if d.Set != nil && d.Set.Affinity != 0 {
		who.Set = d.Set.ID
		a[who] = Affinity{b.ID, now}
	}
}
