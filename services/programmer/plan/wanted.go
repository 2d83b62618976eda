// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// wanting is what the rows of policy lead to, so that it can be told what a rule set needs: its verdicts, their tables of
// ports and rules, and all that tells the addresses of their identities apart from others.
type wanting struct {
	*model.Tables
	verdicts map[model.RuleSetID][]model.Verdict
	ports    map[model.PortsID][]model.PortVerdict
	peers    map[model.IdentityID][]netip.Addr   // that have an identity, or would have it from a block
	trees    map[model.IdentityID][]int          // of blocks with an identity
	blocks   [][]netip.Prefix                    // by tree: a block with all that are in it
	sizes    map[model.RuleSetID]int             // verdicts and ports, as if no other rule set had the same ports
	pods     map[model.RuleSetID][]netip.Addr    // endpoints that are to be judged by a rule set
	closes   map[model.RuleSetID]model.RuleSetID // what closes those endpoints if it is left out
	closers  map[model.RuleSetID]bool            // all of these
}

func newWanting(t *model.Tables) *wanting {
	w := &wanting{
		Tables:   t,
		verdicts: map[model.RuleSetID][]model.Verdict{},
		ports:    map[model.PortsID][]model.PortVerdict{},
		peers:    map[model.IdentityID][]netip.Addr{},
		trees:    map[model.IdentityID][]int{},
		sizes:    map[model.RuleSetID]int{},
		pods:     map[model.RuleSetID][]netip.Addr{},
		closes:   map[model.RuleSetID]model.RuleSetID{},
		closers:  map[model.RuleSetID]bool{},
	}
	for _, v := range t.PortVerdicts {
		w.ports[v.Ports] = append(w.ports[v.Ports], v)
	}
	for _, v := range t.Verdicts {
		w.verdicts[v.RuleSet] = append(w.verdicts[v.RuleSet], v)
		w.sizes[v.RuleSet] += 1 + len(w.ports[v.Ports])
	}
	for _, e := range t.Endpoints {
		for _, id := range []model.RuleSetID{e.Ingress, e.Egress} {
			if id != 0 {
				w.pods[id] = append(w.pods[id], e.Addr)
			}
		}
	}
	w.grow()
	return w
}

// closed returns the id that has no verdicts and stands for a rule set that is left out.
func (w *wanting) closed(id model.RuleSetID) model.RuleSetID {
	if other, named := w.closes[id]; named {
		return other
	}
	other := max(^id, 1)
	for _, taken := w.RuleSets[other]; taken; _, taken = w.RuleSets[other] {
		other = max(other+1, 1)
	}
	w.closes[id], w.closers[other] = other, true
	return other
}

// span is a prefix as the tries know it: families are not apart there.
type span struct {
	addr netip.Addr // 16 bytes
	bits int
}

func spanOf(p netip.Prefix) span { return span{netip.AddrFrom16(p.Addr().As16()), int(bits(p))} }

// grow sorts blocks into trees, and finds the block that each peer is in.
func (w *wanting) grow() {
	type item struct {
		span
		block model.Block
		peer  model.Peer
	}
	items := make([]item, 0, len(w.Blocks)+len(w.Peers))
	for _, b := range w.Blocks {
		items = append(items, item{span: spanOf(b.Prefix), block: b})
	}
	for _, p := range w.Peers.All() {
		// Longer than any block, so that it comes after that of its address alone.
		items = append(items, item{span: span{spanOf(netip.PrefixFrom(p.Addr, p.Addr.BitLen())).addr, 129}, peer: p})
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.bits, b.bits))
	})
	var around []item
	for _, i := range items {
		for len(around) > 0 && !covers(around[len(around)-1].span, i.span) {
			around = around[:len(around)-1]
		}
		if i.bits > 128 {
			w.peers[i.peer.Identity] = append(w.peers[i.peer.Identity], i.peer.Addr)
			if len(around) > 0 {
				under := around[len(around)-1].block.Identity
				w.peers[under] = append(w.peers[under], i.peer.Addr)
			}
			continue
		}
		if len(around) == 0 {
			w.blocks = append(w.blocks, nil)
		}
		tree := len(w.blocks) - 1
		w.blocks[tree] = append(w.blocks[tree], i.block.Prefix)
		w.trees[i.block.Identity] = append(w.trees[i.block.Identity], tree)
		around = append(around, i)
	}
}

// covers says whether a prefix covers another: netip's own Contains keeps mapped addresses apart.
func covers(s, o span) bool {
	if s.bits > o.bits {
		return false
	}
	a, b := s.addr.As16(), o.addr.As16()
	for i := range s.bits {
		if (a[i/8]^b[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}
