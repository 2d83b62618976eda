// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// State is what a node's maps hold: the rows of each layer, and where this node has put a set's members. The order
// of members has no meaning on the bus; slots are the node's own.
//
// Invariants, once repaired: the slots of a set are its members in some order, none twice; slotsOf and frontendsOf
// count what points at a row; entries counts what the maps hold.
type State struct {
	tables      [model.LayerNode + 1]*model.Tables
	slots       map[model.SetID][]model.BackendID
	frontendsOf map[model.SetID]int32
	slotsOf     map[model.BackendID]int32
	entries     [abi.MapCount]int
	digests     [model.LayerNode + 1]model.Digest
	scratch     scratch

	// What a crash, a failed write or a person left behind. All are empty once a plan has been carried out.
	stray   map[slot]struct{}      // slots that no set counts
	foreign map[entryKey]struct{}  // entries that can't be read as rows
	damaged map[model.SetID]uint32 // sets whose slots aren't members, each once, and the count in the map
}

type slot struct {
	set   model.SetID
	index uint32
}

type entryKey struct {
	in  abi.Map
	key string
}

// kinds are the layers that a node holds.
var kinds = []model.LayerKind{model.LayerCluster, model.LayerNode}

// Empty returns the state of empty maps.
func Empty() *State {
	s := &State{
		slots:       map[model.SetID][]model.BackendID{},
		frontendsOf: map[model.SetID]int32{},
		slotsOf:     map[model.BackendID]int32{},
		stray:       map[slot]struct{}{},
		foreign:     map[entryKey]struct{}{},
		damaged:     map[model.SetID]uint32{},
	}
	for _, kind := range kinds {
		s.tables[kind] = model.NewTables()
	}
	return s
}

// Load reads the state of maps in whatever condition they are. dump calls each for every entry of one map.
func Load(dump func(m abi.Map, each func(key, value []byte) error) error) (*State, error) {
	l := loader{State: Empty(), counts: map[model.SetID]uint32{}}
	for _, m := range []abi.Map{abi.Sets, abi.Slots, abi.Backends, abi.Frontends, abi.Endpoints} {
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
		l.digests[kind] = l.tables[kind].Digest()
	}
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
	case abi.Slots:
		l.found = append(l.found, foundSlot{
			slot{model.SetID(binary.NativeEndian.Uint32(key)), binary.NativeEndian.Uint32(key[4:])},
			model.BackendID(binary.NativeEndian.Uint32(value)),
		})
	case abi.Backends:
		row, kind, err := l.scratch.decodeBackend(key, value)
		if err != nil {
			return err
		}
		l.tables[kind].Backends[row.ID] = row
	case abi.Frontends:
		row, kind, err := l.scratch.decodeFrontend(key, value)
		if err != nil {
			return err
		}
		l.tables[kind].Frontends[row.FrontendKey] = row
		l.frontendsOf[row.Set]++
	case abi.Endpoints:
		row, kind, err := l.scratch.decodeEndpoint(key, value)
		if err != nil {
			return err
		}
		l.tables[kind].Endpoints[row.Addr] = row
	}
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

func (s *State) layerOfSet(id model.SetID) model.LayerKind {
	if _, held := s.tables[model.LayerNode].Sets[id]; held {
		return model.LayerNode
	}
	return model.LayerCluster
}

// Tables returns the rows of one layer, to be read only.
func (s *State) Tables(kind model.LayerKind) *model.Tables { return s.tables[kind] }

// Digest returns the digest of the rows of one layer.
func (s *State) Digest(kind model.LayerKind) model.Digest { return s.digests[kind] }

// Entries returns how many entries each map holds.
func (s *State) Entries() [abi.MapCount]int { return s.entries }

// Whole says that the maps hold the rows and nothing else: nothing was left behind.
func (s *State) Whole() bool { return len(s.stray)+len(s.foreign)+len(s.damaged) == 0 }

// set returns a set's row and layer; layer 0 if there is no such set.
func (s *State) set(id model.SetID) (model.BackendSet, model.LayerKind) {
	for _, kind := range kinds {
		if row, held := s.tables[kind].Sets[id]; held {
			return row, kind
		}
	}
	return model.BackendSet{}, 0
}

// backend returns a backend's row and layer; layer 0 if there is no such backend.
func (s *State) backend(id model.BackendID) (model.Backend, model.LayerKind) {
	for _, kind := range kinds {
		if row, held := s.tables[kind].Backends[id]; held {
			return row, kind
		}
	}
	return model.Backend{}, 0
}

// Expected returns the value that the maps should hold for a key; nil for a key that they should not hold.
// It is good until the next call.
func (s *State) Expected(m abi.Map, key []byte) []byte {
	a := s.scratch.arena()
	switch m {
	case abi.Frontends:
		k := model.FrontendKey{
			Addr: abi.Addr([16]byte(key)), Port: binary.BigEndian.Uint16(key[16:]), Protocol: model.Protocol(key[18]),
		}
		for _, kind := range kinds {
			if row, held := s.tables[kind].Frontends[k]; held && key[19] == 0 {
				return a.frontend(row, kind)
			}
		}
	case abi.Sets:
		id := model.SetID(binary.NativeEndian.Uint32(key))
		if row, kind := s.set(id); kind != 0 {
			return a.set(row, kind, uint32(len(s.slots[id])))
		}
	case abi.Slots:
		slots := s.slots[model.SetID(binary.NativeEndian.Uint32(key))]
		if index := binary.NativeEndian.Uint32(key[4:]); int64(index) < int64(len(slots)) {
			return a.id(uint32(slots[index]))
		}
	case abi.Backends:
		if row, kind := s.backend(model.BackendID(binary.NativeEndian.Uint32(key))); kind != 0 {
			return a.backend(row, kind)
		}
	case abi.Endpoints:
		for _, kind := range kinds {
			if row, held := s.tables[kind].Endpoints[abi.Addr([16]byte(key))]; held {
				return a.endpoint(row, kind)
			}
		}
	}
	return nil
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
	switch m {
	case abi.Frontends:
		f, kind, err := s.scratch.decodeFrontend(key, value)
		if err == nil {
			return fmt.Sprintf("frontend %s → set %d (%s) of layer %s", f.FrontendKey, f.Set, s.serviceOf(f.Set), word(kind))
		}
	case abi.Sets:
		set, kind, count, err := s.scratch.decodeSet(key, value)
		if err == nil {
			return fmt.Sprintf("set %d (%s) of %d backends in layer %s", set.ID, set.Service, count, word(kind))
		}
	case abi.Slots:
		set := model.SetID(binary.NativeEndian.Uint32(key))
		return fmt.Sprintf("slot %d of set %d (%s) → backend %d", binary.NativeEndian.Uint32(key[4:]), set, s.serviceOf(set),
			binary.NativeEndian.Uint32(value))
	case abi.Backends:
		b, kind, err := s.scratch.decodeBackend(key, value)
		if err == nil {
			return fmt.Sprintf("backend %d (%s port %d, state %d) of %s in layer %s", b.ID, b.Addr, b.Port, b.State,
				s.serviceOf(b.Set), word(kind))
		}
	case abi.Endpoints:
		e, kind, err := s.scratch.decodeEndpoint(key, value)
		if err == nil {
			return fmt.Sprintf("endpoint %s of pod %s in layer %s", e.Addr, e.Pod, word(kind))
		}
	}
	return fmt.Sprintf("key %x, value %x", key, value)
}

func (s *State) serviceOf(id model.SetID) string {
	if row, kind := s.set(id); kind != 0 {
		return row.Service.String()
	}
	return "no Service"
}

// Service returns the ServicePort of a set, if there is such a set.
func (s *State) Service(id model.SetID) (port model.ServicePort, held bool) {
	row, kind := s.set(id)
	return row.Service, kind != 0
}

func word(kind model.LayerKind) string { return model.Layer{Kind: kind, Name: "this"}.String() }
