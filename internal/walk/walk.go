// SPDX-License-Identifier: Apache-2.0

package walk

import (
	"cmp"
	"fmt"
	"math"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
)

// Walk is one node's way to the rows of a layer.
//
//	asking ──(all branches that differed are told)──► catching up ──(deltas from the oldest answer to the newest)──► done
//	   ▲                                                   │
//	   └────(there are no such deltas any more: again, with what was taken)
//
// What is asked for is either what differs, branch by branch, or all.
type Walk struct {
	layer model.Layer
	held  *model.Tables // as they were when the walk began, not to be changed until it ends
	tree  *model.Tree   // of held with all that was taken; nil while all rows are asked for, or it is built
	build *model.TreeBuilder

	// ask are the branches to ask about, the next ones last, so that few wait at any time.
	ask []model.Branch
	// If all, rows are asked for from the place from on, until ended.
	all, ended bool
	from       uint64

	answered       bool
	oldest, newest model.Position // of what was answered in this pass
	at             model.Position // where deltas since the oldest have led to; equal to oldest before the first

	// What turns held into the rows at the position at: first taken, of which no two rows have one key, then later ones.
	taken model.Change
	later []*model.Change

	passes, rounds, bytes, rows int
}

// The bounds of a walk. An honest source keeps to a fraction of each.
const (
	// Bytes of answers: the digests on the way to a row, and the row, take less than rowBytes.
	leastBytes, rowBytes = 1 << 20, 200
	maxRounds            = 1 << 16
	maxPasses            = 16
	// maxWaiting bounds the branches that wait to be asked about, and so memory: 16 for each that one question asks of
	// each depth.
	maxWaiting = wire.MaxAsked * model.Fanout * model.MaxDepth
)

// New returns a walk from the rows that are held, to what differs; or, if there are none, to all rows. Prepare comes before
// the first Question.
func New(l model.Layer, held *model.Tables) *Walk {
	w := &Walk{layer: l, held: held}
	if held.Len() == 0 {
		w.all = true
		return w
	}
	w.build, w.ask = model.BuildTree(held.Rows()), []model.Branch{model.Root}
	return w
}

// Prepare goes on building the tree of what is held, by about as much as so many rows take, and says whether it stands.
func (w *Walk) Prepare(rows int) (ready bool) {
	if w.build != nil {
		if w.tree = w.build.Step(rows); w.tree != nil {
			w.build = nil
		}
	}
	return w.build == nil
}

// NewOfAll returns a walk to all rows, whatever is held: if what differs could not be found.
func NewOfAll(l model.Layer, held *model.Tables) *Walk {
	return &Walk{layer: l, held: held, all: true}
}

// All says whether all rows are asked for.
func (w *Walk) All() bool { return w.all }

// Asking says that there is a Question.
func (w *Walk) Asking() bool {
	if w.all {
		return !w.ended
	}
	return len(w.ask) > 0
}

// Question returns what to ask next.
func (w *Walk) Question() model.Walk {
	if w.all {
		return model.Walk{Layer: w.layer, All: true, From: w.from}
	}
	return model.Walk{Layer: w.layer, Branches: w.ask[max(0, len(w.ask)-wire.MaxAsked):]}
}

// Done says that the rows are those of the position that Change returns.
func (w *Walk) Done() bool { return w.answered && !w.Asking() && w.at.Revision >= w.newest.Revision }

// Since returns where deltas are to begin, if the walk needs such and no more answers.
func (w *Walk) Since() (from model.Position, wanted bool) {
	return w.at, w.answered && !w.Asking() && !w.Done()
}

// Cost is what came so far.
func (w *Walk) Cost() (rounds, bytes, rows int) { return w.rounds, w.bytes, w.rows }

// Take takes an answer of so many bytes, and says whether it was one to the question. An error says that this walk leads
// nowhere. Before all is prepared there was no question.
func (w *Walk) Take(a model.Branches, size int) (useful bool, err error) {
	if w.build != nil {
		return false, nil
	}
	w.rounds++
	w.bytes += size
	if a.Layer != w.layer {
		return false, nil
	}
	if err := w.bounded(); err != nil {
		return false, err
	}
	if _, wanted := w.Since(); wanted {
		w.again()
	}
	if w.all {
		useful = w.takeAll(a.Held)
	} else {
		useful = w.takeSome(a.Held)
	}
	if useful {
		w.answeredAt(a.Position)
	}
	return useful, nil
}

func (w *Walk) bounded() error {
	rows := w.rows
	if w.tree != nil {
		rows += w.tree.Len()
	}
	switch most := (leastBytes + rowBytes*rows) * (1 + w.passes); {
	case w.rounds > maxRounds, w.passes > maxPasses:
		return fmt.Errorf("the compiler's rows were not reached by %d answers, and from the beginning %d times", w.rounds, w.passes)
	case !w.all && w.bytes > most:
		return fmt.Errorf("answers of %d bytes lead to %d rows: at most %d are to be expected", w.bytes, w.rows, most)
	case w.rows > 2*wire.MaxRows || len(w.ask) > maxWaiting:
		return fmt.Errorf("answers have %d rows, and %d branches differ: more than any layer has", w.rows, len(w.ask))
	}
	return nil
}

func (w *Walk) answeredAt(p model.Position) {
	if !w.answered {
		w.answered, w.oldest, w.newest = true, p, p
	}
	if before(p, w.oldest) {
		w.oldest = p
	}
	if before(w.newest, p) {
		w.newest = p
	}
	w.at = w.oldest
}

func before(a, b model.Position) bool {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Epoch, b.Epoch)) < 0
}

// takeAll takes the rows of branches that follow what was taken before.
func (w *Walk) takeAll(held []model.Held) (useful bool) {
	for _, h := range held {
		if w.ended || h.Digests != nil || !h.Branch.Holds(w.from) {
			continue
		}
		w.put(&model.Change{Put: h.Rows}, w.from == h.Branch.First())
		w.ended = h.Branch.Last() == math.MaxUint64
		w.from, useful = h.Branch.Last()+1, true
	}
	return useful
}

// takeSome takes what branches hold that were asked about, and asks on where that differs. Answers come in the order of
// the question, whose branches are the last ones of ask.
func (w *Walk) takeSome(held []model.Held) (useful bool) {
	asked := map[model.Branch]struct{}{}
	for _, b := range w.Question().Branches {
		asked[b] = struct{}{}
	}
	rest := len(w.ask) - len(asked)
	var further []model.Branch
	for _, h := range held {
		if _, due := asked[h.Branch]; !due {
			continue
		}
		delete(asked, h.Branch)
		useful = true
		if h.Digests != nil {
			further = w.compare(further, h)
			continue
		}
		change := &model.Change{Put: h.Rows, Remove: w.beside(h)}
		w.tree.Apply(change)
		w.put(change, w.passes == 0)
	}
	var still []model.Branch
	for _, b := range w.ask[rest:] {
		if _, due := asked[b]; due {
			still = append(still, b)
		}
	}
	w.ask = append(append(w.ask[:rest], still...), further...)
	return useful
}

// compare adds the parts of a branch that differ.
func (w *Walk) compare(ask []model.Branch, h model.Held) []model.Branch {
	ours := w.tree.Digests(h.Branch)
	for i, theirs := range h.Digests {
		if theirs != ours[i] {
			ask = append(ask, h.Branch.Part(i))
		}
	}
	return ask
}

// beside returns the keys that are in a branch here and not there.
func (w *Walk) beside(h model.Held) model.Keys {
	theirs := model.NewTree(&h.Rows)
	return w.tree.Beside(h.Branch, theirs)
}

// put adds a change, the first of its keys if apart.
func (w *Walk) put(c *model.Change, apart bool) {
	w.rows += c.Put.Len()
	if apart && len(w.later) == 0 {
		w.taken.Put.Append(&c.Put)
		w.taken.Remove.Append(&c.Remove)
		return
	}
	w.later = append(w.later, c)
}

// Delta takes a delta since the oldest answer, of so many bytes, if it continues what is there.
func (w *Walk) Delta(d *model.Delta, size int) (useful bool) {
	w.bytes += size
	if from, wanted := w.Since(); !wanted || d.Layer != w.layer || d.From != from.Revision {
		return false
	}
	if w.tree != nil {
		w.tree.Apply(&d.Change)
	}
	w.later = append(w.later, &d.Change)
	w.at = model.Position{Epoch: d.Epoch, Revision: d.To, Digest: d.DigestAfter}
	return true
}

// again begins another pass, from what was taken so far: nobody has the deltas any more that would make it one.
func (w *Walk) again() {
	if w.all {
		rows := w.change()
		tables := w.held.Clone()
		tables.Apply(rows, model.Digest{})
		all := tables.Rows()
		w.tree, w.all = model.NewTree(&all), false
		w.taken, w.later = *rows, []*model.Change{}
	}
	w.passes++
	w.answered = false
	w.ask = append(w.ask[:0], model.Root)
}

// Change returns what turns the rows that were held into those of the position, once Done. Whether it does, only the
// digest of all rows can say.
func (w *Walk) Change() (*model.Change, model.Position) {
	c := w.change()
	c.Trim(w.held)
	return c, w.at
}

func (w *Walk) change() *model.Change {
	c := model.Join(append([]*model.Change{&w.taken}, w.later...)...)
	if w.all {
		gone := w.held.Lacking(&c.Put)
		c.Remove = gone
	}
	return c
}
