// SPDX-License-Identifier: Apache-2.0

package state

import (
	"iter"

	"github.com/hashicorp/go-memdb"
)

// table is a memdb table with rows of one type. Errors of go-memdb come only from a wrong schema or type, which
// the types here rule out: they panic.
type table[R any] struct {
	name string
	key  func(R) string
	// indexes by name; each gives the keys under which a row is found.
	indexes map[string]func(R) []string
}

const byID = "id"

func (t *table[R]) get(txn *memdb.Txn, key string) (row R, found bool) {
	raw, err := txn.First(t.name, byID, key)
	must(err)
	if raw == nil {
		return row, false
	}
	return raw.(R), true
}

func (t *table[R]) all(txn *memdb.Txn) iter.Seq[R] {
	return t.rows(func() (memdb.ResultIterator, error) { return txn.Get(t.name, byID) })
}

func (t *table[R]) by(txn *memdb.Txn, index, key string) iter.Seq[R] {
	return t.rows(func() (memdb.ResultIterator, error) { return txn.Get(t.name, index, key) })
}

// byPrefix is by for all keys that begin with prefix.
func (t *table[R]) byPrefix(txn *memdb.Txn, index, prefix string) iter.Seq[R] {
	return t.rows(func() (memdb.ResultIterator, error) { return txn.Get(t.name, index+"_prefix", prefix) })
}

// from iterates in order of keys, starting at the first that is not less than key.
func (t *table[R]) from(txn *memdb.Txn, key string) iter.Seq[R] {
	return t.rows(func() (memdb.ResultIterator, error) { return txn.LowerBound(t.name, byID, key) })
}

func (t *table[R]) rows(start func() (memdb.ResultIterator, error)) iter.Seq[R] {
	return func(yield func(R) bool) {
		it, err := start()
		must(err)
		for raw := it.Next(); raw != nil; raw = it.Next() {
			if !yield(raw.(R)) {
				return
			}
		}
	}
}

func (t *table[R]) count(txn *memdb.Txn) (n int) {
	for range t.all(txn) {
		n++
	}
	return n
}

func (t *table[R]) put(txn *memdb.Txn, row R) { must(txn.Insert(t.name, row)) }

func (t *table[R]) remove(txn *memdb.Txn, row R) { must(txn.Delete(t.name, row)) }

func (t *table[R]) schema() *memdb.TableSchema {
	s := &memdb.TableSchema{Name: t.name, Indexes: map[string]*memdb.IndexSchema{
		byID: {Name: byID, Unique: true, Indexer: single[R]{t.key}},
	}}
	for name, keys := range t.indexes {
		s.Indexes[name] = &memdb.IndexSchema{Name: name, AllowMissing: true, Indexer: multi[R]{keys}}
	}
	return s
}

// single and multi index rows by strings. A NUL ends each key, so that no key is another's prefix.
type single[R any] struct{ key func(R) string }

func (s single[R]) FromArgs(args ...any) ([]byte, error) { return terminated(args[0].(string)), nil }

func (s single[R]) FromObject(row any) (bool, []byte, error) {
	return true, terminated(s.key(row.(R))), nil
}

type multi[R any] struct{ keys func(R) []string }

func (m multi[R]) FromArgs(args ...any) ([]byte, error) { return terminated(args[0].(string)), nil }

func (m multi[R]) PrefixFromArgs(args ...any) ([]byte, error) { return []byte(args[0].(string)), nil }

func (m multi[R]) FromObject(row any) (bool, [][]byte, error) {
	var keys [][]byte
	for _, key := range m.keys(row.(R)) {
		keys = append(keys, terminated(key))
	}
	return len(keys) > 0, keys, nil
}

func terminated(key string) []byte { return append([]byte(key), 0) }

func must(err error) {
	if err != nil {
		panic("state: go-memdb: " + err.Error())
	}
}
