// SPDX-License-Identifier: Apache-2.0

package model

import (
	"maps"
	"net/netip"
	"testing"
)

// TestPeersAreTheRowsThatWerePut puts, replaces and removes rows of both families: what is read is what was put, and the
// digest is the sum of the rows.
func TestPeersAreTheRowsThatWerePut(t *testing.T) {
	want := map[netip.Addr]Peer{}
	tables := NewTables()
	var digest Digest
	apply := func(c *Change) {
		digest = tables.Apply(c, digest)
		for _, row := range c.Put.Peers {
			want[row.Addr] = row
		}
		for _, addr := range c.Remove.Peers {
			delete(want, addr)
		}
		if got := maps.Collect(tables.Peers.All()); !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		sum := newSum(Digest{})
		for _, row := range want {
			sum.add(row)
		}
		if digest != sum.Digest || tables.Digest() != digest {
			t.Fatalf("digests %s and %s, want %s", digest, tables.Digest(), sum.Digest)
		}
		if again := Diff(&Tables{}, tables); len(again.Put.Peers) != len(want) || Diff(tables, tables.Clone()).Put.Len() != 0 {
			t.Fatalf("differs from nothing by %v", again.Put.Peers)
		}
	}
	var rows []Peer
	for i, text := range []string{"10.0.0.1", "255.255.255.255", "0.0.0.0", "::", "::1", "2001:db8::1"} {
		rows = append(rows, Peer{netip.MustParseAddr(text), IdentityID(i + 1)})
	}
	apply(&Change{Put: Rows{Peers: rows}})
	apply(&Change{Put: Rows{Peers: []Peer{{rows[0].Addr, 9}, rows[1]}}, Remove: Keys{Peers: []netip.Addr{rows[3].Addr}}})
	apply(&Change{Remove: Keys{Peers: []netip.Addr{rows[2].Addr, netip.MustParseAddr("10.9.9.9")}}})
}
