// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"slices"

	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
)

// steady leaves the one candidate that every node picks for a client from outside, so that a connection survives that the
// network moves to another node (Eisenbud et al., "Maglev", NSDI 2016, section 3.4): by a hash of the packet, and of a Service
// with session affinity of the client's address alone, since other nodes don't know whom it had.
func (n *Node) steady(who Dialler, p Packet, d *Decision) {
	if n.MaglevSize == 0 || d.Verdict != Forward || d.Set == nil || d.Set.Flags&model.External == 0 || n.Inside(who) || len(d.Candidates) < 2 {
		return
	}
	var members []maglev.Member
	for _, id := range n.members(d.Set.ID) {
		b, _ := n.backend(id)
		members = append(members, maglev.Member{ID: uint32(id), At: AddrPort(b), Weight: b.Share()})
	}
	hash := maglev.Hash(p.Source, p.Destination, uint8(p.Protocol))
	if d.Set.Affinity != 0 {
		hash = maglev.HashClient(p.Source.Addr())
	}
	picked := model.BackendID(maglev.Fill(n.MaglevSize, members)[maglev.SlotOf(hash, n.MaglevSize)])
	d.Candidates = slices.DeleteFunc(slices.Clone(d.Candidates), func(b model.Backend) bool { return b.ID != picked })
}
