// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// move is an address that has another identity after the change, or what is in a prefix and in no longer one.
type move struct {
	from, to model.IdentityID
	is4      bool
	only     netip.Addr // the only address that moves so, if it is one
}

// meets says whether an endpoint may have to do with an address that moves: with itself it hasn't.
func (m *move) meets(endpoint netip.Addr) bool { return m.is4 == endpoint.Is4() && m.only != endpoint }

// moving is all that moves of a change, each pair of identities once a family.
type moving struct {
	list         []move
	left, joined map[model.IdentityID]bool
	peers        map[netip.Addr]pair
	blocks       map[netip.Prefix]pair
}

// pair is an address's identity before and after.
type pair struct{ from, to model.IdentityID }

func (t *transaction) movesOf(s *stage) *moving {
	m := &moving{
		left: map[model.IdentityID]bool{}, joined: map[model.IdentityID]bool{},
		peers: map[netip.Addr]pair{}, blocks: map[netip.Prefix]pair{},
	}
	if !t.watched() {
		return m
	}
	find := t.lookups(s)
	at := map[move]int{}
	note := func(p pair, is4 bool, addr netip.Addr) {
		if p.from == p.to {
			return
		}
		m.left[p.from], m.joined[p.to] = true, true
		key := move{from: p.from, to: p.to, is4: is4}
		if i, seen := at[key]; seen {
			m.list[i].only = netip.Addr{}
			return
		}
		at[key] = len(m.list)
		key.only = addr
		m.list = append(m.list, key)
	}
	for _, of := range s.peers {
		p := pair{of.before.row.Identity, of.after.row.Identity}
		if of.before.kind == 0 {
			p.from = find.before(netip.PrefixFrom(of.key, of.key.BitLen()))
		}
		if of.after.kind == 0 {
			p.to = find.after(netip.PrefixFrom(of.key, of.key.BitLen()))
		}
		m.peers[of.key] = p
		note(p, of.key.Is4(), of.key)
	}
	for _, of := range s.blocks {
		p := pair{find.before(of.key), find.after(of.key)}
		m.blocks[of.key] = p
		note(p, of.key.Addr().Is4(), netip.Addr{})
	}
	return m
}

// lookups find the identity of a prefix's addresses in the blocks before and after a change.
type lookups struct {
	t       *transaction
	changed map[netip.Prefix]turn[netip.Prefix, model.Block]
	lengths [2][129]bool // that any block has, by family
}

func (t *transaction) lookups(s *stage) *lookups {
	l := &lookups{t: t, changed: map[netip.Prefix]turn[netip.Prefix, model.Block]{}}
	for family, counts := range t.uses.lengths {
		for length, n := range counts {
			l.lengths[family][length] = n > 0
		}
	}
	for _, of := range s.blocks {
		l.changed[of.key] = of
		l.lengths[familyOf(of.key)][of.key.Bits()] = true
	}
	return l
}

func (l *lookups) before(p netip.Prefix) model.IdentityID {
	return l.longest(p, func(of turn[netip.Prefix, model.Block]) was[model.Block] { return of.before })
}

func (l *lookups) after(p netip.Prefix) model.IdentityID {
	return l.longest(p, func(of turn[netip.Prefix, model.Block]) was[model.Block] { return of.after })
}

// longest returns the identity of the longest block that p is in; 0 if it is in none.
func (l *lookups) longest(p netip.Prefix, side func(turn[netip.Prefix, model.Block]) was[model.Block]) model.IdentityID {
	for bits := p.Bits(); bits >= 0; bits-- {
		if !l.lengths[familyOf(p)][bits] {
			continue
		}
		within := netip.PrefixFrom(p.Addr(), bits).Masked()
		if of, changed := l.changed[within]; changed {
			if w := side(of); w.kind != 0 {
				return w.row.Identity
			}
			continue
		}
		if row, kind := blocks.held(l.t.State, within); kind != 0 {
			return row.Identity
		}
	}
	return 0
}

// familyOf numbers families from 0.
func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}
