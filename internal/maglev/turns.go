// SPDX-License-Identifier: Apache-2.0

package maglev

// turns is whose turn it is to claim a slot. Every claimant has its first turn at time 0 and its nth at (n-1)/weight; who
// claim at the same time do so in their order. So a claimant's share goes by its weight, each has one slot before any has
// two, and when a turn comes depends on nobody else.
type turns struct {
	claimants []claimant
	waiting   []turn // a heap: none is before the one at half its place
}

// turn is the next one of a claimant.
type turn struct {
	time  uint64 // 32 bits behind the point: times that differ do so by 1/10,000 at least
	count uint64 // turns that it has had
	index int
}

func turnsOf(claimants []claimant) turns {
	t := turns{claimants: claimants, waiting: make([]turn, len(claimants))}
	for i := range t.waiting {
		t.waiting[i].index = i
	}
	return t
}

func (t *turns) next() *claimant {
	now := &t.waiting[0]
	c := &t.claimants[now.index]
	now.count++
	now.time = now.count << 32 / uint64(c.weight)
	t.sink()
	return c
}

func (a *turn) before(b *turn) bool {
	return a.time < b.time || a.time == b.time && a.index < b.index
}

// sink moves the first down to its place.
func (t *turns) sink() {
	w := t.waiting
	for at := 0; ; {
		first := at
		for child := 2*at + 1; child <= 2*at+2 && child < len(w); child++ {
			if w[child].before(&w[first]) {
				first = child
			}
		}
		if first == at {
			return
		}
		w[at], w[first] = w[first], w[at]
		at = first
	}
}
