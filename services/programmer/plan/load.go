// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Load reads the state of maps in whatever condition they are. dump calls each for every entry of one map.
func Load(dump func(m abi.Map, each func(key, value []byte) error) error) (*State, error) {
	l := loader{State: Empty(), counts: map[model.SetID]uint32{}}
	for m := range abi.MapCount {
		err := dump(m, func(key, value []byte) error {
			layout := abi.Layouts[m]
			if len(key) != layout.KeySize || len(value) != layout.ValueSize {
				return fmt.Errorf("map %s has an entry of %d and %d bytes", m, len(key), len(value))
			}
			l.entries[m]++
			if l.read(m, key, value) != nil {
				l.foreign[entryKey{m, string(key)}] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading what the maps hold: %w", err)
		}
	}
	l.arrange()
	for _, kind := range kinds {
		for _, f := range l.tables[kind].Frontends {
			add(l.pointersTo, f.Set, 1)
		}
		for _, v := range l.tables[kind].Views {
			add(l.pointersTo, v.Target, 1)
		}
		l.uses.rows(l.tables[kind])
		l.digests[kind] = l.tables[kind].Digest()
	}
	l.maglev.unsure = len(l.maglev.numbers) > 0 || l.hasExternal()
	l.judging, l.stale.all = l.policed(), true
	return l.State, nil
}

type loader struct {
	*State
	counts map[model.SetID]uint32
	found  []foundSlot
}

type foundSlot struct {
	slot
	backend model.BackendID
}

func (l *loader) read(m abi.Map, key, value []byte) error {
	switch m {
	case abi.Sets:
		row, kind, count, err := l.scratch.decodeSet(key, value)
		if err != nil {
			return err
		}
		l.tables[kind].Sets[row.ID] = row
		l.counts[row.ID] = count
		return nil
	case abi.Slots:
		l.found = append(l.found, foundSlot{
			slot{model.SetID(binary.NativeEndian.Uint32(key)), binary.NativeEndian.Uint32(key[4:])},
			model.BackendID(binary.NativeEndian.Uint32(value)),
		})
		return nil
	case abi.MaglevIndex:
		return l.table(model.SetID(binary.NativeEndian.Uint32(key)), binary.NativeEndian.Uint32(value))
	}
	return codecs[m].load(l, key, value)
}

// hasExternal says whether clients from outside get to any set.
func (l *loader) hasExternal() bool {
	for _, row := range l.tables[model.LayerCluster].Sets {
		if row.Flags&model.External != 0 {
			return true
		}
	}
	return false
}

// table notes the number of a set's Maglev table. No two sets have one.
func (l *loader) table(id model.SetID, number uint32) error {
	if other, taken := l.maglev.taken[number]; taken {
		return fmt.Errorf("set %d has Maglev table %d, which is that of set %d", id, number, other)
	}
	l.maglev.give(id, number)
	return nil
}

// arrange sorts the slots that were found into their sets. A set never gets a longer array than it has slots,
// whatever its count claims.
func (l *loader) arrange() {
	perSet := map[model.SetID]uint32{}
	for _, f := range l.found {
		perSet[f.set]++
	}
	for id, count := range l.counts {
		l.slots[id] = make([]model.BackendID, min(count, perSet[id]))
	}
	for _, f := range l.found {
		if slots := l.slots[f.set]; int64(f.index) < int64(len(slots)) {
			slots[f.index] = f.backend
		} else {
			l.stray[f.slot] = struct{}{}
		}
	}
	for id, slots := range l.slots {
		members := l.tables[l.layerOfSet(id)].Members
		whole := int(l.counts[id]) == len(slots)
		for _, b := range slots {
			if b == 0 {
				whole = false
				continue
			}
			m := model.Member{Set: id, Backend: b}
			if _, twice := members[m]; twice {
				whole = false
			}
			members[m] = m
			l.slotsOf[b]++
		}
		if !whole {
			l.damaged[id] = l.counts[id]
		}
	}
}
