// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"sync"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// DefaultCapacities are the entries that each map has room for unless configured.
var DefaultCapacities = [abi.MapCount]uint32{
	abi.Frontends:    131_072,
	abi.Views:        65_536,
	abi.Sets:         131_072,
	abi.Slots:        524_288,
	abi.Backends:     524_288,
	abi.Nodes:        8_192,
	abi.MaglevIndex:  1_024,
	abi.Endpoints:    4_096,
	abi.SourceRanges: 65_536,
	abi.Networks:     16_384,
	abi.HealthChecks: 4_096,
	abi.Selves:       1,
	abi.Peers:        262_144,
	abi.Blocks:       65_536,
	abi.Verdicts:     262_144,
	abi.PortVerdicts: 131_072,
	abi.RuleSets:     8_192,
	abi.Rules:        65_536,
}

// Memory is maps in this process. It may be used from several goroutines.
type Memory struct {
	mu         sync.Mutex
	tables     [abi.MapCount]table
	capacities [abi.MapCount]uint32
	positions  map[model.LayerKind]model.Position
	maglev     map[uint32][]uint32 // tables by number
	slots      uint32              // of each
	writes     uint64
	epoch      uint32 // of what judges, and
	judging    bool
}

// table keeps its entries in an order, so that reading on from a cursor works while entries come and go.
type table struct {
	entries []entry
	index   map[string]int
}

type entry struct {
	key   string
	value []byte
}

// NewMemory returns empty maps; a capacity of 0 stands for the default one.
func NewMemory(capacities [abi.MapCount]uint32) *Memory {
	m := &Memory{capacities: capacities, positions: map[model.LayerKind]model.Position{}, maglev: map[uint32][]uint32{}, slots: memorySlots}
	for i := range m.tables {
		m.tables[i].index = map[string]int{}
		if m.capacities[i] == 0 {
			m.capacities[i] = DefaultCapacities[i]
		}
	}
	return m
}

// Write implements Maps.
func (m *Memory) Write(writes []Write) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range writes {
		if err := m.write(&writes[i]); err != nil {
			return err
		}
		m.writes++
	}
	return nil
}

func (m *Memory) write(w *Write) error {
	if err := check(w); err != nil {
		return err
	}
	t := &m.tables[w.Map]
	if w.Value == nil {
		t.remove(string(w.Key))
		return nil
	}
	if _, held := t.index[string(w.Key)]; !held && len(t.entries) >= int(m.capacities[w.Map]) {
		return fmt.Errorf("writing an entry of map %s, which has room for %d: %w", w.Map, m.capacities[w.Map], ErrFull)
	}
	t.put(string(w.Key), append([]byte(nil), w.Value...))
	return nil
}

func (t *table) put(key string, value []byte) {
	if i, held := t.index[key]; held {
		t.entries[i].value = value
		return
	}
	t.index[key] = len(t.entries)
	t.entries = append(t.entries, entry{key, value})
}

func (t *table) remove(key string) {
	i, held := t.index[key]
	if !held {
		return
	}
	last := len(t.entries) - 1
	t.entries[i] = t.entries[last]
	t.index[t.entries[i].key] = i
	t.entries = t.entries[:last]
	delete(t.index, key)
}

// Grace implements Maps: nothing reads these maps without the lock.
func (m *Memory) Grace() error { return nil }

// Read implements Maps.
func (m *Memory) Read(which abi.Map, cursor *Cursor, limit int, each func(key, value []byte) error) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := m.tables[which].entries
	from, _ := cursor.state.(int)
	to := min(from+max(limit, 1), len(entries))
	for i := from; i < to; i++ {
		if err := each([]byte(entries[i].key), entries[i].value); err != nil {
			return false, err
		}
	}
	cursor.state = to
	return to >= len(entries), nil
}

// Use implements Maps.
func (m *Memory) Use() ([]Use, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	uses := make([]Use, abi.MapCount)
	for i := range uses {
		uses[i] = Use{abi.Map(i), uint64(len(m.tables[i].entries)), uint64(m.capacities[i])}
	}
	return uses, nil
}

// Position implements Maps.
func (m *Memory) Position(kind model.LayerKind) (model.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.positions[kind], nil
}

// SetPosition implements Maps.
func (m *Memory) SetPosition(kind model.LayerKind, position model.Position) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.positions[kind] = position
	return nil
}

// Judge implements Maps.
func (m *Memory) Judge(policed bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.judging = policed; policed {
		m.epoch++
	}
	return nil
}

// Epoch implements Maps.
func (m *Memory) Epoch() (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.judging {
		return 0, nil
	}
	return m.epoch, nil
}

// Writes implements Maps.
func (m *Memory) Writes() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

// Lookup returns the value of one key, as a packet's path would find it.
func (m *Memory) Lookup(which abi.Map, key []byte) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &m.tables[which]
	i, held := t.index[string(key)]
	if !held {
		return nil, false
	}
	return t.entries[i].value, true
}
