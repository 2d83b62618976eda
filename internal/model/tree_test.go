// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// treeRows are n rows of several tables, each with another key; what they say differs between generations.
func treeRows(generation, from, n int) (rows model.Rows) {
	for i := from; i < from+n; i++ {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		switch i % 4 {
		case 0:
			rows.Members = append(rows.Members, model.Member{Set: model.SetID(i), Backend: 1})
		case 1:
			rows.Peers = append(rows.Peers, model.Peer{Addr: addr, Identity: model.IdentityID(1 + generation)})
		case 2:
			rows.Backends = append(rows.Backends, model.Backend{
				ID: model.BackendID(i), State: model.BackendActive, BackendKey: model.BackendKey{Set: 1, Addr: addr, Port: uint16(80 + generation)},
			})
		default:
			rows.Blocks = append(rows.Blocks, model.Block{Prefix: netip.PrefixFrom(addr, 32), Identity: model.IdentityID(1 + generation)})
		}
	}
	return rows
}

// anyBranch draws a branch that few or many rows are in.
func anyBranch(t *rapid.T) model.Branch {
	b := model.Root
	for range rapid.IntRange(0, 4).Draw(t, "depth") {
		b = b.Part(rapid.IntRange(0, model.Fanout-1).Draw(t, "digit"))
	}
	return b
}

func keysOf(rows *model.Rows) (k model.Keys) {
	k.Members = append(k.Members, rows.Members...)
	for _, r := range rows.Peers {
		k.Peers = append(k.Peers, r.Addr)
	}
	for _, r := range rows.Backends {
		k.Backends = append(k.Backends, r.ID)
	}
	for _, r := range rows.Blocks {
		k.Blocks = append(k.Blocks, r.Prefix)
	}
	return k
}

// Promise P1: a tree says the same of the same rows, whether it was kept up to date change by change or built of all at once,
// in whatever steps.
func TestATreeIsTheSameHoweverItCameAbout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tables, kept := model.NewTables(), &model.Tree{}
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			n := rapid.SampledFrom([]int{1, 30, 300, 5000}).Draw(t, "rows")
			part := treeRows(rapid.IntRange(0, 1).Draw(t, "generation"), rapid.IntRange(0, 2*n).Draw(t, "from"), n)
			c := &model.Change{Put: part}
			if rapid.Bool().Draw(t, "remove") {
				c = &model.Change{Remove: keysOf(&part)}
			}
			kept.Apply(c)
			tables.Apply(c, model.Digest{})
		}
		builder, step := model.BuildTree(tables.Rows()), rapid.IntRange(1, 2*tables.Len()+1).Draw(t, "step")
		built := builder.Step(step)
		for built == nil {
			built = builder.Step(step)
		}
		if kept.Len() != tables.Len() || built.Len() != tables.Len() {
			t.Fatalf("trees of %d and %d rows, want %d", kept.Len(), built.Len(), tables.Len())
		}
		if got, want := kept.Sum(model.Root).Digest, tables.Digest()[0]; got != want {
			t.Fatalf("the root's digest is %x, that of all rows %x", got, want)
		}
		for range 20 {
			b := anyBranch(t)
			if k, m := kept.Sum(b), built.Sum(b); k != m {
				t.Fatalf("branch %x: %+v kept, %+v built", b, k, m)
			}
			if k, m := kept.Digests(b), built.Digests(b); k != m {
				t.Fatalf("branch %x: digests %v kept, %v built", b, k, m)
			}
			k, m := kept.Keys(b), built.Keys(b)
			if diff := cmp.Diff(k, m, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Fatalf("branch %x: keys (-kept +built):\n%s", b, diff)
			}
			if k.Len() != kept.Sum(b).Rows {
				t.Fatalf("branch %x: %d keys of %d rows", b, k.Len(), kept.Sum(b).Rows)
			}
			if beside := kept.Beside(b, built); beside.Len() != 0 {
				t.Fatalf("branch %x: %d rows beside the same", b, beside.Len())
			}
		}
	})
}

// The parts of a branch are all of it: digests and rows add up, and no place is in two.
func TestPartsOfABranchAddUp(t *testing.T) {
	rows := treeRows(0, 0, 6000)
	tree := model.NewTree(&rows)
	rapid.Check(t, func(t *rapid.T) {
		b := anyBranch(t)
		var sum model.Sum
		for i, digest := range tree.Digests(b) {
			part := tree.Sum(b.Part(i))
			if part.Digest != digest {
				t.Fatalf("part %d of branch %x: %x by itself, %x among its siblings", i, b, part.Digest, digest)
			}
			sum.Digest += part.Digest
			sum.Rows += part.Rows
		}
		if sum != tree.Sum(b) {
			t.Fatalf("branch %x: parts come to %+v, it to %+v", b, sum, tree.Sum(b))
		}
		if next := b.Last() + 1; next != 0 && b.Holds(next) || !b.Holds(b.First()) || !b.Holds(b.Last()) {
			t.Fatalf("branch %x doesn't end where it ends", b)
		}
	})
}

// What one tree has beside another is what the rows have, and it differs where they differ.
func TestTreesDifferWhereRowsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{10, 100, 5000}).Draw(t, "rows")
		more := treeRows(0, n, rapid.IntRange(1, 5).Draw(t, "more"))
		rows := treeRows(0, 0, n)
		theirs := model.NewTree(&rows)
		rows.Append(&more)
		ours := model.NewTree(&rows)
		want, got := keysOf(&more), ours.Beside(model.Root, theirs)
		slices.SortFunc(got.Backends, func(a, b model.BackendID) int { return int(a) - int(b) })
		sorted := cmpopts.SortSlices(func(a, b netip.Addr) bool { return a.Less(b) })
		prefixes := cmpopts.SortSlices(func(a, b netip.Prefix) bool { return a.Addr().Less(b.Addr()) })
		members := cmpopts.SortSlices(func(a, b model.Member) bool { return a.Set < b.Set })
		if diff := cmp.Diff(want, got, sorted, prefixes, members, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("beside (-want +got):\n%s", diff)
		}
		if back := theirs.Beside(model.Root, ours); back.Len() != 0 {
			t.Fatalf("%d rows the other way", back.Len())
		}
		if ours.Digests(model.Root) == theirs.Digests(model.Root) {
			t.Fatal("the digests are the same")
		}
	})
}

// An answer may name a row twice: the last counts, as where rows are put one by one.
func TestARowThatIsNamedTwiceCountsOnce(t *testing.T) {
	for _, n := range []int{3, 5000} {
		rows, again := treeRows(0, 0, n), treeRows(1, 0, n)
		rows.Append(&again)
		built, kept := model.NewTree(&rows), &model.Tree{}
		kept.Apply(&model.Change{Put: rows})
		if built.Sum(model.Root) != kept.Sum(model.Root) || built.Len() != n {
			t.Errorf("%d rows, named twice: %+v built, %+v row by row", n, built.Sum(model.Root), kept.Sum(model.Root))
		}
	}
}

// BenchmarkTree builds the tree of a million rows, at once and row by row.
func BenchmarkTree(b *testing.B) {
	rows := treeRows(0, 0, 1_000_000)
	b.Run("at once", func(b *testing.B) {
		for b.Loop() {
			model.NewTree(&rows)
		}
	})
	b.Run("row by row", func(b *testing.B) {
		for b.Loop() {
			(&model.Tree{}).Apply(&model.Change{Put: rows})
		}
	})
	tables := tablesOfRows(rows)
	b.Run("rows of tables", func(b *testing.B) {
		for b.Loop() {
			tables.Rows()
		}
	})
}

func tablesOfRows(rows model.Rows) *model.Tables {
	t := model.NewTables()
	t.Apply(&model.Change{Put: rows}, model.Digest{})
	return t
}
