// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/maglev"
)

// sizeMaglev gives the map of Maglev tables the configured slots, and as many tables as the map that leads to them has entries.
func sizeMaglev(spec *ebpf.MapSpec, slots, tables uint32) error {
	slots = cmp.Or(slots, maglev.DefaultSize)
	if err := maglev.CheckSize(slots); err != nil {
		return err
	}
	spec.ValueSize, spec.MaxEntries = slots*uint32(unsafe.Sizeof(uint32(0))), tables
	return nil
}

// isDerived says if nothing is lost where a map of another size is made anew: who fills it does so anyhow. Until then
// programs find no Maglev table, and pick at random; and half-open flows of before are bounded by their number then alone.
func isDerived(name string) bool { return name == maglevMap || name == halfOpenMap }

// maglevTables are the tables as programs read them.
type maglevTables struct {
	memory      []byte
	slots, room uint32 // of a table: those in use, and the bytes from one to the next
	tables      uint32
}

func openMaglev(m *ebpf.Map) (*maglevTables, error) {
	t := &maglevTables{slots: m.ValueSize() / 4, room: (m.ValueSize() + 7) / 8 * 8, tables: m.MaxEntries()}
	page := os.Getpagesize()
	length := (int(t.room)*int(t.tables) + page - 1) / page * page
	var err error
	if t.memory, err = unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map %d Maglev tables of %d slots into memory: %w", t.tables, t.slots, err)
	}
	return t, nil
}

func (t *maglevTables) close() {
	if t != nil && t.memory != nil {
		unix.Munmap(t.memory) //nolint:errcheck // it is mapped
		t.memory = nil
	}
}

// MaglevTable returns the slots of a Maglev table, backends by id, in memory that programs read: write them by atomic stores.
// It is nil for a number that no table has, and good until Close.
func (d *Dataplane) MaglevTable(number uint32) []uint32 {
	t := d.maglev
	if number >= t.tables {
		return nil
	}
	return view[uint32](t.memory[int(number)*int(t.room):], int(t.slots))
}
