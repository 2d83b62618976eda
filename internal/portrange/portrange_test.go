// SPDX-License-Identifier: Apache-2.0

package portrange

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPrefixes(t *testing.T) {
	for _, test := range []struct {
		first, last uint16
		want        []Prefix
	}{
		{0, 65535, []Prefix{{0, 0}}},
		{80, 80, []Prefix{{80, 16}}},
		{65535, 65535, []Prefix{{65535, 16}}},
		{8000, 8010, []Prefix{{8000, 13}, {8008, 15}, {8010, 16}}},
		{2, 1, []Prefix{}},
	} {
		if diff := cmp.Diff(test.want, Prefixes(test.first, test.last)); diff != "" {
			t.Errorf("%d to %d (-want +got):\n%s", test.first, test.last, diff)
		}
	}
}

// TestPrefixesAreExactlyTheRange, and no range needs more than 30.
//
// Policy row 10: port ranges are prefixes, at most 30 of them.
// Trap 43: an endPort makes many entries.
func TestPrefixesAreExactlyTheRange(t *testing.T) {
	if n := Count(1, 65534); n != 30 {
		t.Errorf("1 to 65534 is %d prefixes, want the most there can be: 30", n)
	}
	rapid.Check(t, func(t *rapid.T) {
		first, last := rapid.Uint16().Draw(t, "first"), rapid.Uint16().Draw(t, "last")
		list := Prefixes(first, last)
		if len(list) > 30 {
			t.Fatalf("%d prefixes", len(list))
		}
		next := uint32(first)
		for _, p := range list {
			length := uint32(1) << (16 - p.Bits)
			if uint32(p.Port) != next || next%length != 0 {
				t.Fatalf("%v does not go on at %d", p, next)
			}
			next += length
		}
		if want := max(uint32(first), uint32(last)+1); next != want {
			t.Fatalf("the prefixes end before %d, want %d", next, want)
		}
	})
}
