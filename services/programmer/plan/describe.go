// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Expected returns the value that the maps should hold for a key; nil for a key that they should not hold.
// It is good until the next call.
func (s *State) Expected(m abi.Map, key []byte) []byte {
	switch m {
	case abi.Sets:
		id := model.SetID(binary.NativeEndian.Uint32(key))
		if row, kind := s.set(id); kind != 0 {
			return s.scratch.arena().set(row, kind, uint32(len(s.slots[id])))
		}
		return nil
	case abi.Slots:
		slots := s.slots[model.SetID(binary.NativeEndian.Uint32(key))]
		if index := binary.NativeEndian.Uint32(key[4:]); int64(index) < int64(len(slots)) {
			return s.scratch.arena().id(uint32(slots[index]))
		}
		return nil
	case abi.MaglevIndex:
		if number, has := s.maglev.numbers[model.SetID(binary.NativeEndian.Uint32(key))]; has {
			return s.scratch.arena().id(number)
		}
		return nil
	}
	return codecs[m].expected(s, key)
}

// Drift says, in words, how an entry that was read differs from what it should be; empty if it doesn't.
func (s *State) Drift(m abi.Map, key, value []byte) string {
	switch want := s.Expected(m, key); {
	case want == nil:
		return fmt.Sprintf("%s has an entry that nobody asked for: %s", m, s.describe(m, key, value))
	case !bytes.Equal(want, value):
		want = bytes.Clone(want)
		return fmt.Sprintf("%s holds %s where it should hold %s", m, s.describe(m, key, value), s.describe(m, key, want))
	}
	return ""
}

// describe names an entry as people know it.
func (s *State) describe(m abi.Map, key, value []byte) string {
	text := ""
	switch m {
	case abi.Sets:
		set, kind, count, err := s.scratch.decodeSet(key, value)
		if err == nil {
			text = fmt.Sprintf("set %d (%s) of %d backends in layer %s", set.ID, set.Service, count, word(kind))
		}
	case abi.Slots:
		set := model.SetID(binary.NativeEndian.Uint32(key))
		text = fmt.Sprintf("slot %d of set %d (%s) → backend %d", binary.NativeEndian.Uint32(key[4:]), set, s.serviceOf(set),
			binary.NativeEndian.Uint32(value))
	case abi.MaglevIndex:
		set := model.SetID(binary.NativeEndian.Uint32(key))
		text = fmt.Sprintf("set %d (%s) → Maglev table %d", set, s.serviceOf(set), binary.NativeEndian.Uint32(value))
	default:
		text = codecs[m].describe(s, key, value)
	}
	if text == "" {
		return fmt.Sprintf("key %x, value %x", key, value)
	}
	return text
}

// PolicyNames names the rows of policy among rows as people know them.
func (s *State) PolicyNames(rows *model.Rows) []string {
	return slices.Concat(ruleSets.names(s, rows), rules.names(s, rows), portVerdicts.names(s, rows),
		verdicts.names(s, rows), blocks.names(s, rows), peers.names(s, rows))
}
