// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"sync/atomic"

	"github.com/deltaplane/deltaplane/internal/maglev"
)

// Table is a Maglev table to be filled: its slots are to be those of its members.
type Table struct {
	Number  uint32
	Members []maglev.Member // one at least
}

// fill writes the slots of a table that differ, each at once, so that who reads meanwhile finds one of before or one of after in
// each. It returns how many.
func (t *Table) fill(slots []uint32) (written int, err error) {
	if slots == nil {
		return 0, fmt.Errorf("filling Maglev table %d: there are not so many", t.Number)
	}
	changed := maglev.Change(slots, t.Members)
	for _, s := range changed {
		atomic.StoreUint32(&slots[s.Index], s.ID)
	}
	return len(changed), nil
}

// Fill implements Maps.
func (k *Kernel) Fill(tables []Table) error {
	for i := range tables {
		written, err := tables[i].fill(k.plane.MaglevTable(tables[i].Number))
		k.writes.Add(uint64(written))
		if err != nil {
			return err
		}
	}
	return nil
}

// memorySlots is the slots of a table in memory unless set, which only tests ask: the fewest.
const memorySlots = 1021

// SetTableSlots says how many slots Maglev tables have that aren't there yet.
func (m *Memory) SetTableSlots(slots uint32) { m.slots = slots }

// Fill implements Maps.
func (m *Memory) Fill(tables []Table) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range tables {
		number := tables[i].Number
		if m.maglev[number] == nil {
			m.maglev[number] = make([]uint32, m.slots)
		}
		written, err := tables[i].fill(m.maglev[number])
		m.writes += uint64(written)
		if err != nil {
			return err
		}
	}
	return nil
}

// Slots returns what a Maglev table holds.
func (m *Memory) Slots(number uint32) []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]uint32(nil), m.maglev[number]...)
}

// Fill implements Maps: each table is an operation.
func (f *Faulty) Fill(tables []Table) error {
	for i := range tables {
		if err := f.operation(); err != nil {
			return fmt.Errorf("filling Maglev table %d: %w", tables[i].Number, err)
		}
		if err := f.Maps.Fill(tables[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}
