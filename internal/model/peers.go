// SPDX-License-Identifier: Apache-2.0

package model

import (
	"iter"
	"net/netip"
)

// Peers are the rows of Peer of one layer. There are ten times as many as all others together, so they are held
// without pointers, in some 38 bytes each; a map of Peer takes 105. It is a map for len, make and comparing.
type Peers map[PeerKey]IdentityID

// PeerKey is a Peer's address, IPv4 mapped. Peers alone know it.
type PeerKey [16]byte

func (k PeerKey) addr() netip.Addr { return netip.AddrFrom16(k).Unmap() }

// Get returns the row of an address.
func (p Peers) Get(addr netip.Addr) (row Peer, held bool) {
	id, held := p[addr.As16()]
	if !held {
		return Peer{}, false
	}
	return Peer{Addr: addr, Identity: id}, true
}

// Put puts a row in the place of that of its address, if there is one.
func (p Peers) Put(row Peer) { p[row.Addr.As16()] = row.Identity }

// Remove removes the row of an address, if there is one.
func (p Peers) Remove(addr netip.Addr) { delete(p, addr.As16()) }

// All visits all rows.
func (p Peers) All() iter.Seq2[netip.Addr, Peer] {
	return func(yield func(netip.Addr, Peer) bool) {
		for key, id := range p {
			if addr := key.addr(); !yield(addr, Peer{Addr: addr, Identity: id}) {
				return
			}
		}
	}
}

func (p Peers) putAll(rows []Peer, sum *sum) {
	for _, row := range rows {
		old, held := p.Get(row.Addr)
		if held && old == row {
			continue
		}
		if held {
			sum.remove(old)
		}
		p.Put(row)
		sum.add(row)
	}
}

func (p Peers) removeAll(addrs []netip.Addr, sum *sum) {
	for _, addr := range addrs {
		if old, held := p.Get(addr); held {
			p.Remove(addr)
			sum.remove(old)
		}
	}
}

func diffPeers(from, to Peers) (put []Peer, remove []netip.Addr) {
	for key, id := range to {
		if old, held := from[key]; !held || old != id {
			put = append(put, Peer{Addr: key.addr(), Identity: id})
		}
	}
	for key := range from {
		if _, kept := to[key]; !kept {
			remove = append(remove, key.addr())
		}
	}
	return put, remove
}
