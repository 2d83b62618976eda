// SPDX-License-Identifier: Apache-2.0

package maglev

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// some returns n members with addresses, ports and weights drawn from seed, ids from first.
func some(n int, seed uint64, first uint32, weight func(*rand.Rand) uint16) []Member {
	random := rand.New(rand.NewPCG(seed, 0))
	taken := map[netip.AddrPort]bool{}
	var members []Member
	for len(members) < n {
		var at netip.AddrPort
		if random.IntN(2) == 0 {
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(random.IntN(64)), byte(random.IntN(256))}), 8080)
		} else {
			at = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(random.IntN(64)), 15: byte(random.IntN(256))}), 8080)
		}
		if !taken[at] {
			taken[at] = true
			members = append(members, Member{ID: first + uint32(len(members)), At: at, Weight: weight(random)})
		}
	}
	return members
}

func one(*rand.Rand) uint16           { return 1 }
func any100(random *rand.Rand) uint16 { return uint16(1 + random.IntN(100)) }
func counts(table []uint32) map[uint32]int {
	n := map[uint32]int{}
	for _, id := range table {
		n[id]++
	}
	return n
}

func TestSizesArePrimes(t *testing.T) {
	for _, size := range sizes {
		if err := CheckSize(size); err != nil {
			t.Error(err)
		}
		for d := uint32(2); d*d <= size; d++ {
			if size%d == 0 {
				t.Errorf("%d is %d times %d", size, d, size/d)
			}
		}
	}
	for _, wrong := range []uint32{0, 1, 1000, 4096, 131072} {
		if CheckSize(wrong) == nil {
			t.Errorf("%d slots are taken", wrong)
		}
	}
}

// Row 17: every slot has a backend, and one's slots are within one of its weight's share, but for what the others' first turns take.
func TestSharesFollowWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom(sizes[:4]).Draw(t, "size")
		members := some(rapid.IntRange(1, int(size)/100).Draw(t, "members"), rapid.Uint64().Draw(t, "seed"), 1,
			rapid.SampledFrom([]func(*rand.Rand) uint16{one, any100}).Draw(t, "weights"))
		var all float64
		for _, m := range members {
			all += float64(m.Weight)
		}
		n := counts(Fill(size, members))
		if n[0] > 0 {
			t.Fatalf("%d slots are empty", n[0])
		}
		for _, m := range members {
			share := float64(size) * float64(m.Weight) / all
			// A table has less than 1 % of its slots' number of backends, see above, and so have these.
			if got := float64(n[m.ID]); got > share+1 || got < share*0.99-1 {
				t.Errorf("%v of weight %d has %v slots of %d, its share is %.1f", m.At, m.Weight, got, size, share)
			}
		}
	})
}

// TestFewSlotsChangeNeedlessly holds tables to figure 12 of the paper: with more than 100 slots a backend, when 1 % of the
// backends go, some 2 % of the slots that needn't change do so; the bound here is twice that, for one backend or more.
//
// Row 17: when backends come or go, slots of the others stay, but for a few in a hundred.
func TestFewSlotsChangeNeedlessly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom(sizes[:4]).Draw(t, "size")
		n := rapid.IntRange(2, int(size)/100).Draw(t, "members")
		members := some(n, rapid.Uint64().Draw(t, "seed"), 1, rapid.SampledFrom([]func(*rand.Rand) uint16{one, any100}).Draw(t, "weights"))
		gone := rapid.IntRange(1, max(1, n/10)).Draw(t, "gone")
		before, after := Fill(size, members), Fill(size, members[gone:])
		needless := 0
		for i, id := range before {
			if id > uint32(gone) && after[i] != id {
				needless++
			}
		}
		share := float64(gone) / float64(n)
		if most := float64(size) * math.Max(0.04, 2*share); float64(needless) > most {
			t.Errorf("%d of %d backends went, and %d of %d slots changed needlessly", gone, n, needless, size)
		}
	})
}

// TestChangeIsWhatDiffers: writing what Change returns into any table makes it the one that Fill returns.
func TestChangeIsWhatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		table := Fill(sizes[0], some(rapid.IntRange(1, 20).Draw(t, "before"), seed, 1, any100))
		members := some(rapid.IntRange(1, 20).Draw(t, "after"), seed, 1, any100)
		for _, s := range Change(table, members) {
			if table[s.Index] == s.ID {
				t.Errorf("slot %d holds %d already", s.Index, s.ID)
			}
			table[s.Index] = s.ID
		}
		if diff := cmp.Diff(Fill(sizes[0], members), table); diff != "" {
			t.Error(diff)
		}
		if again := Change(table, members); len(again) > 0 {
			t.Errorf("%d slots change that are right", len(again))
		}
	})
}

// Row 17: nodes that know the backends in another order, or by other ids, have the same tables.
func TestOrderAndIDsDontMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		members := some(rapid.IntRange(1, 50).Draw(t, "members"), seed, 1, any100)
		others := slices.Clone(members)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		for i := range others {
			others[i].ID = 1_000_000 - others[i].ID
		}
		a, b := Fill(sizes[0], members), Fill(sizes[0], others)
		for i := range a {
			if a[i] != 1_000_000-b[i] {
				t.Fatalf("slot %d: backend %d here, %d there", i, a[i], 1_000_000-b[i])
			}
		}
	})
}

func TestOfNobodyThereIsNoTable(t *testing.T) {
	if table := Fill(sizes[0], nil); table != nil {
		t.Errorf("a table of nobody: %v", table)
	}
	if changed := Change(make([]uint32, sizes[0]), nil); changed != nil {
		t.Errorf("nobody's slots: %v", changed)
	}
}

// TestHashesStay holds hashes and tables to what they were when nodes first had them: nodes of different versions share
// connections.
func TestHashesStay(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, c := range []struct {
		client, service string
		protocol        uint8
		want            uint64
	}{
		{"198.51.100.7:4000", "203.0.113.1:80", 6, 0x0f2b281ecac2d307},
		{"198.51.100.7:4000", "203.0.113.1:80", 17, 0x075bb91e287b8fd4},
		{"198.51.100.7:4001", "203.0.113.1:80", 6, 0x7c8792c0a9e25d86},
		{"[2001:db8::7]:4000", "[2001:db8:1::1]:443", 132, 0xd19d5320b1e745b4},
	} {
		if got := Hash(ap(c.client), ap(c.service), c.protocol); got != c.want {
			t.Errorf("%s → %s, protocol %d: %#x, want %#x", c.client, c.service, c.protocol, got, c.want)
		}
	}
	if got, want := HashClient(netip.MustParseAddr("198.51.100.7")), uint64(0xec39a6ace1f0c922); got != want {
		t.Errorf("client: %#x, want %#x", got, want)
	}
	table := Fill(1021, []Member{{1, ap("10.1.0.1:8080"), 1}, {2, ap("10.1.0.2:8080"), 3}, {3, ap("[fd00:1::3]:8080"), 100}})
	sum := uint64(0)
	for _, id := range table {
		sum = mix(sum, uint64(id))
	}
	if want := uint64(0xe5ca52f3cca19202); sum != want {
		t.Errorf("table: %#x, want %#x", sum, want)
	}
}

// Row 17: clients spread evenly over the slots, whatever part of their addresses and ports differs.
func TestClientsSpreadEvenly(t *testing.T) {
	service := netip.MustParseAddrPort("203.0.113.1:80")
	const slots, each = 1021, 64
	for name, client := range map[string]func(i uint32) netip.AddrPort{
		"ports": func(i uint32) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(i))
		},
		"addresses": func(i uint32) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
		},
		"prefixes": func(i uint32) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 4: byte(i >> 8), 5: byte(i)}), 4000)
		},
	} {
		var square float64
		hits := make([]float64, slots)
		for i := range uint32(slots * each) {
			hits[SlotOf(Hash(client(i), service, 6), slots)]++
		}
		for _, n := range hits {
			square += (n - each) * (n - each) / each
		}
		// Chi squared of 1020 degrees of freedom: 45 is its standard deviation.
		if math.Abs(square-(slots-1)) > 5*45 {
			t.Errorf("%s: chi squared is %.0f, want some %d", name, square, slots-1)
		}
	}
}

// BenchmarkFill is what a table costs, from nothing.
func BenchmarkFill(b *testing.B) {
	for _, size := range []uint32{DefaultSize, 65521} {
		for _, n := range []int{2, 10, 100, 1000} {
			for name, weight := range map[string]func(*rand.Rand) uint16{"same": one, "weights": any100} {
				b.Run(fmt.Sprintf("slots=%d/backends=%d/%s", size, n, name), func(b *testing.B) {
					members := some(n, 1, 1, weight)
					for b.Loop() {
						Fill(size, members)
					}
				})
			}
		}
	}
}

// BenchmarkChange is what a table costs when one backend of it goes.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			members := some(n, 1, 1, one)
			table := Fill(DefaultSize, members)
			changed := 0
			for b.Loop() {
				changed = len(Change(table, members[1:]))
			}
			b.ReportMetric(float64(changed), "slots")
		})
	}
}
