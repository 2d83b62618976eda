// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"iter"
	"maps"

	"github.com/deltaplane/deltaplane/internal/model"
)

// table is where the rows of one table are, in tables and in changes of them.
type table[K comparable, R row[K]] struct {
	of      func(*model.Tables) store[K, R]
	puts    func(*model.Rows) *[]R
	removes func(*model.Keys) *[]K
}

// store is the rows of one table of a layer.
type store[K comparable, R row[K]] interface {
	Get(key K) (row R, held bool)
	Put(row R)
	All() iter.Seq2[K, R]
}

// plain is a table that is a map of its rows.
type plain[K comparable, R row[K]] map[K]R

func (p plain[K, R]) Get(key K) (row R, held bool) { row, held = p[key]; return row, held }
func (p plain[K, R]) Put(row R)                    { p[row.Key()] = row }
func (p plain[K, R]) All() iter.Seq2[K, R]         { return maps.All(p) }

// The tables that have no codec: what a map holds of a set has the count of its slots too.
var (
	sets = &table[model.SetID, model.BackendSet]{
		of: func(t *model.Tables) store[model.SetID, model.BackendSet] {
			return plain[model.SetID, model.BackendSet](t.Sets)
		},
		puts:    func(r *model.Rows) *[]model.BackendSet { return &r.Sets },
		removes: func(k *model.Keys) *[]model.SetID { return &k.Sets },
	}
	members = &table[model.Member, model.Member]{
		of: func(t *model.Tables) store[model.Member, model.Member] {
			return plain[model.Member, model.Member](t.Members)
		},
		puts:    func(r *model.Rows) *[]model.Member { return &r.Members },
		removes: func(k *model.Keys) *[]model.Member { return &k.Members },
	}
)

// history is what a change does to one table, for callers to whom its types don't matter.
type history interface {
	// take adds to diff what of a change isn't already so.
	take(o *overlap, change, diff *model.Change)
	// undo adds to back what takes away the rows that were put and brings back those before.
	undo(back *model.Change, put *model.Rows, kind model.LayerKind)
}

type since[K comparable, R row[K]] struct {
	*table[K, R]
	before map[K]was[R] // the rows before, of keys that are changed or removed
}

func (t *table[K, R]) since(before map[K]was[R]) history { return &since[K, R]{t, before} }

func (s *since[K, R]) take(o *overlap, change, diff *model.Change) {
	own, others := s.of(o.t.tables[o.kind]), s.of(o.t.tables[otherThan(o.kind)])
	removes := s.removes(&diff.Remove)
	for _, key := range *s.removes(&change.Remove) {
		if old, held := own.Get(key); held {
			s.before[key] = was[R]{old, o.kind}
			*removes = append(*removes, key)
		}
	}
	put := *s.puts(&change.Put)
	puts := make([]R, 0, len(put))
	for _, r := range put {
		old, held := own.Get(r.Key())
		if held && old == r {
			continue
		}
		puts = append(puts, r)
		if held {
			s.before[r.Key()] = was[R]{old, o.kind}
			continue
		}
		o.added++
		if old, held := others.Get(r.Key()); held {
			s.before[r.Key()] = was[R]{old, otherThan(o.kind)}
			o.refuse(r.Key())
			taken := s.removes(&o.taken.Remove)
			*taken = append(*taken, r.Key())
		}
	}
	*s.puts(&diff.Put) = puts
}

func (s *since[K, R]) undo(back *model.Change, put *model.Rows, kind model.LayerKind) {
	removes := s.removes(&back.Remove)
	for _, r := range *s.puts(put) {
		*removes = append(*removes, r.Key())
	}
	puts := s.puts(&back.Put)
	for _, w := range s.before {
		if w.kind == kind {
			*puts = append(*puts, w.row)
		}
	}
}

// refuse notes that a key is held by the other layer, unless it may be taken from there.
func (o *overlap) refuse(key any) {
	if !o.mayTake && o.refused == nil {
		o.refused = refuse("rows", "the change of layer %s puts %v, which layer %s holds", word(o.kind), key, word(otherThan(o.kind)))
	}
}
