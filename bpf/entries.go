// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batchEntries is how many entries one system call reads, unless a bucket of the kernel's hash, which is read as a
// whole, has more.
const batchEntries = 1024

// batches reads a map from its beginning to its end.
type batches struct {
	m            *ebpf.Map
	keys, values []byte
	attr         batchAttr
	cursors      [2][]byte // where the last batch began, and ended
	singles      *ebpf.MapIterator
	ended        bool
}

func newBatches(m *ebpf.Map) *batches {
	// A hash's cursor is the number of a bucket, a trie's is a key.
	size := max(int(m.KeySize()), 4)
	b := &batches{m: m, cursors: [2][]byte{make([]byte, size), make([]byte, size)}}
	b.room(batchEntries)
	return b
}

func (b *batches) room(n int) {
	b.keys, b.values = make([]byte, n*int(b.m.KeySize())), make([]byte, n*valueSize(b.m))
}

// valueSize returns the bytes of a value as the kernel hands it out: of a per-processor map one of each processor that
// may ever be, each rounded up to 8.
func valueSize(m *ebpf.Map) int {
	size := int(m.ValueSize())
	switch m.Type() {
	case ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.PerCPUArray:
		return (size + 7) / 8 * 8 * ebpf.MustPossibleCPU()
	}
	return size
}

// next returns how many entries have come into keys and values; 0 is the end. Entries that come or go meanwhile may be
// seen or not, some twice.
func (b *batches) next() (int, error) {
	for !b.ended && b.singles == nil {
		size := len(b.keys) / int(b.m.KeySize())
		b.attr.out = pointer(b.cursors[1])
		n, err := b.attr.call(lookUpBatch, b.m, size, b.keys, b.values)
		switch {
		case errors.Is(err, unix.ENOSPC):
			b.room(2 * size)
			continue
		case b.attr.in == nil && (errors.Is(err, errNoBatches) || errors.Is(err, unix.EINVAL)):
			b.singles = b.m.Iterate()
			continue
		case errors.Is(err, unix.ENOENT):
			b.ended = true
		case err != nil:
			return 0, fmt.Errorf("read map %s: %w", nameOf(b.m), err)
		}
		b.cursors[0], b.cursors[1] = b.cursors[1], b.cursors[0]
		b.attr.in = pointer(b.cursors[0])
		if n > 0 {
			return n, nil
		}
	}
	if b.singles == nil {
		return 0, nil
	}
	return b.nextByOne()
}

// nextByOne is for kernels without batch operations for this kind of map.
func (b *batches) nextByOne() (n int, err error) {
	keySize, valueSize := int(b.m.KeySize()), valueSize(b.m)
	key, value := make([]byte, keySize), make([]byte, valueSize)
	for n < batchEntries && b.singles.Next(&key, &value) {
		copy(b.keys[n*keySize:], key)
		copy(b.values[n*valueSize:], value)
		n++
	}
	if err := b.singles.Err(); err != nil {
		return n, fmt.Errorf("read map %s: %w", nameOf(b.m), err)
	}
	return n, nil
}

// eachEntry calls each with every entry until it returns an error. The slices are used again.
func eachEntry(m *ebpf.Map, each func(key, value []byte) error) error {
	b := newBatches(m)
	keySize, valueSize := int(m.KeySize()), valueSize(m)
	for {
		n, err := b.next()
		if n == 0 || err != nil {
			return err
		}
		for i := range n {
			if err := each(b.keys[i*keySize:(i+1)*keySize], b.values[i*valueSize:(i+1)*valueSize]); err != nil {
				return err
			}
		}
	}
}

// countEntries counts what a map holds: some 0.1 µs an entry.
func countEntries(m *ebpf.Map) (int, error) {
	b := newBatches(m)
	count := 0
	for {
		n, err := b.next()
		if n == 0 || err != nil {
			return count, err
		}
		count += n
	}
}

// nameOf returns a map's name, which the kernel cuts to 15 letters: only for people.
func nameOf(m *ebpf.Map) string {
	info, err := m.Info()
	if err != nil {
		return m.Type().String()
	}
	return info.Name
}
