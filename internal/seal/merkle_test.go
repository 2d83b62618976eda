// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"testing"

	"pgregory.net/rapid"
)

// The trees of Certificate Transparency's own tests (google/certificate-transparency, merkletree_test).
func TestTreesAreThoseOfCertificateTransparency(t *testing.T) {
	inputs := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var leaves []hash
	for i, input := range inputs {
		data, err := hex.DecodeString(input)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, sha256.Sum256(append([]byte{leafPrefix}, data...)))
		if root := treeOf(leaves).root(); hex.EncodeToString(root[:]) != roots[i] {
			t.Errorf("the root over %d leaves is %x, want %s", i+1, root, roots[i])
		}
	}
}

// rootOf is RFC 9162's definition of a Merkle tree (section 2.1.1), read aloud.
func rootOf(leaves []hash) hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1 << (bits.Len(uint(len(leaves)-1)) - 1) // the largest power of two below
	left, right := rootOf(leaves[:k]), rootOf(leaves[k:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

func TestEachLeafLeadsToTheRootAndNoOtherDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leaves := make([]hash, rapid.IntRange(1, 300).Draw(t, "leaves"))
		for i := range leaves {
			leaves[i] = sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		}
		whole := treeOf(leaves)
		if whole.root() != rootOf(leaves) {
			t.Fatalf("the root over %d leaves isn't the definition's", len(leaves))
		}
		m := mark{index: uint32(rapid.IntRange(0, len(leaves)-1).Draw(t, "index")), count: uint32(len(leaves))}
		whole.path(&m)
		if root, ok := m.rootBy(leaves[m.index]); !ok || root != whole.root() {
			t.Fatalf("leaf %d of %d leads to %x, %t", m.index, m.count, root, ok)
		}
		at := m.index
		m.index = uint32(rapid.IntRange(0, len(leaves)-1).Draw(t, "wrong"))
		if root, ok := m.rootBy(leaves[at]); m.index != at && ok && root == whole.root() {
			t.Fatalf("leaf %d leads to the root by the way of leaf %d, too", at, m.index)
		}
	})
}
