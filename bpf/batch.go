// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Batch operations, include/uapi/linux/bpf.h. Package ebpf wants slices of a type for keys and values; here they are
// bytes, since entries are copied whatever they mean, and flows are read in place.
const (
	lookUpBatch = 24 // BPF_MAP_LOOKUP_BATCH
	updateBatch = 26 // BPF_MAP_UPDATE_BATCH
	deleteBatch = 27 // BPF_MAP_DELETE_BATCH
)

// errNotSupp is ENOTSUPP, include/linux/errno.h, which is not for user space but comes here.
const errNotSupp = syscall.Errno(524)

// batchAttr is the part of union bpf_attr that batch operations use.
type batchAttr struct {
	in, out      unsafe.Pointer // where to begin, and where the next one does
	keys, values unsafe.Pointer
	count        uint32
	mapFD        uint32
	elemFlags    uint64
	flags        uint64
}

// errNoBatches says that a kernel has no batch operations for a kind of map: those of hashes came with Linux 5.6, those
// of tries with 5.13.
var errNoBatches = errors.New("no batch operations")

// call does a batch operation on n entries and returns how many were done.
func (a *batchAttr) call(command uintptr, m *ebpf.Map, n int, keys, values []byte) (int, error) {
	a.keys, a.values = pointer(keys), pointer(values)
	a.count, a.mapFD = uint32(n), uint32(m.FD())
	_, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	runtime.KeepAlive(keys)
	runtime.KeepAlive(values)
	switch errno {
	case 0:
		return int(a.count), nil
	case errNotSupp, unix.EOPNOTSUPP:
		return 0, errNoBatches
	}
	return int(a.count), errno
}

// updateEntries writes n entries; flags are as for one. An entry that is refused is left out: others says what to do
// about its error, nil passes over it.
func updateEntries(m *ebpf.Map, n int, keys, values []byte, flags ebpf.MapUpdateFlags, others func(error) error) error {
	keySize, valueSize := int(m.KeySize()), valueSize(m)
	for n > 0 {
		attr := batchAttr{elemFlags: uint64(flags)}
		done, err := attr.call(updateBatch, m, n, keys, values)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errNoBatches), errors.Is(err, unix.EINVAL):
			done = 0
			err = m.Update(keys[:keySize], values[:valueSize], flags)
		}
		if done < n && err != nil {
			if err := others(err); err != nil {
				return err
			}
		}
		done = min(done+1, n) // past the one that was refused, or written alone
		keys, values, n = keys[done*keySize:], values[done*valueSize:], n-done
	}
	return nil
}

// deleteEntries deletes n entries; one that is gone already is fine.
func deleteEntries(m *ebpf.Map, n int, keys []byte) error {
	keySize := int(m.KeySize())
	for n > 0 {
		var attr batchAttr
		done, err := attr.call(deleteBatch, m, n, keys, nil)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errNoBatches), errors.Is(err, unix.EINVAL):
			done = 0
			err = m.Delete(keys[:keySize])
		}
		if err := ignoreMissing(err); err != nil {
			return err
		}
		done = min(done+1, n)
		keys, n = keys[done*keySize:], n-done
	}
	return nil
}

// pointer returns where bytes lie, for the kernel.
func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

// view reads n keys or values as what they are. T has no pointers and no padding of the compiler's, as all types of
// package abi; what the kernel fills is aligned for any.
func view[T any](b []byte, n int) []T { return unsafe.Slice((*T)(pointer(b)), n) }

// bytesOf is the memory of a key or value.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// ignoreMissing passes over what deleting says of an entry that is gone already.
func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
