// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batcher does batch operations on one map. The ebpf library wants slices of a type as large as a key or a value,
// so there is one instance of batches for each pair of sizes.
type batcher interface {
	// write makes writes, which are all puts or all deletions, and says how many were made before any error.
	write(m *ebpf.Map, writes []Write) (int, error)
	read(m *ebpf.Map, cursor *Cursor, limit int, each func(key, value []byte) error) (end bool, err error)
}

// batches keeps its buffers from call to call, so only one goroutine at a time may write with it. Reads have
// their own.
type batches[K, V any] struct {
	keys   []K
	values []V
}

func (b *batches[K, V]) write(m *ebpf.Map, writes []Write) (int, error) {
	b.keys, b.values = b.keys[:0], b.values[:0]
	for i := range writes {
		b.keys = append(b.keys, fromBytes[K](writes[i].Key))
		if writes[i].Value != nil {
			b.values = append(b.values, fromBytes[V](writes[i].Value))
		}
	}
	if len(b.values) == 0 {
		return m.BatchDelete(b.keys, nil)
	}
	return m.BatchUpdate(b.keys, b.values, nil)
}

// scan is the cursor of a batches: the kernel's, or the last key read where the kernel has no batches.
type scan[K any] struct {
	batch  ebpf.MapBatchCursor
	single bool
	last   *K
}

func (b *batches[K, V]) read(m *ebpf.Map, cursor *Cursor, limit int, each func(key, value []byte) error) (bool, error) {
	at, ok := cursor.state.(*scan[K])
	if !ok {
		at = &scan[K]{}
		cursor.state = at
	}
	if at.single {
		return b.readSingly(m, at, limit, each)
	}
	// A batch must have room for the fullest bucket.
	keys, values := make([]K, max(limit, 256)), make([]V, max(limit, 256))
	n, err := m.BatchLookup(&at.batch, keys, values, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		at.single = true
		return b.readSingly(m, at, limit, each)
	}
	end := errors.Is(err, ebpf.ErrKeyNotExist)
	if err != nil && !end {
		return false, err
	}
	for i := range n {
		if err := each(asBytes(&keys[i]), asBytes(&values[i])); err != nil {
			return false, err
		}
	}
	return end, nil
}

func (b *batches[K, V]) readSingly(m *ebpf.Map, at *scan[K], limit int, each func(key, value []byte) error) (bool, error) {
	for range max(limit, 1) {
		var from any
		if at.last != nil {
			from = asBytes(at.last)
		}
		key, err := m.NextKeyBytes(from)
		if err != nil || key == nil {
			return key == nil, err
		}
		last := fromBytes[K](key)
		at.last = &last
		value, err := m.LookupBytes(key)
		if err != nil {
			return false, err
		}
		if value == nil {
			continue // deleted meanwhile
		}
		if err := each(key, value); err != nil {
			return false, err
		}
	}
	return false, nil
}

// asBytes returns the memory of a fixed-size byte array.
func asBytes[A any](a *A) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(a)), unsafe.Sizeof(*a))
}

func fromBytes[A any](b []byte) (a A) {
	copy(asBytes(&a), b)
	return a
}

// full says whether the kernel refused a new entry for lack of room (E2BIG from hash maps, ENOSPC from tries).
func full(err error) bool { return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) }
