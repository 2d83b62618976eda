// SPDX-License-Identifier: Apache-2.0

// Package maps is what the programmer writes to: the node's maps of rows as byte keys and values, with the position
// that each layer has reached. Kernel has them in BPF, Memory in this process (for nodes without BPF, and for
// tests), Faulty wraps either and fails on demand. All three keep the same promises, which one contract test holds
// them to.
//
// The one thing to know: a Write call may stop at any entry. What came before that entry is in the maps, what
// comes after is not, and an entry itself is never half written. All repair rests on this.
package maps

import (
	"errors"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Maps is a node's maps.
type Maps interface {
	// Write makes the writes in order and stops at the first that fails. Deleting what isn't there is no failure.
	Write(writes []Write) error
	// Fill writes the slots of Maglev tables that differ from what they should be. The index that leads to tables is a map.
	Fill(tables []Table) error
	// Grace returns once no program that ran when it was called is still running.
	Grace() error
	// Read reads on from cursor, at least one entry if there are any and about limit, and says whether that was
	// the end. An entry that is written meanwhile may be seen twice or not at all. Keys and values are only valid
	// during the call of each.
	Read(m abi.Map, cursor *Cursor, limit int, each func(key, value []byte) error) (end bool, err error)
	// Use says how full each map is.
	Use() ([]Use, error)
	// Position returns what SetPosition recorded last; the zero position if nothing was.
	Position(kind model.LayerKind) (model.Position, error)
	// SetPosition records how far a layer has come. It costs no map write.
	SetPosition(kind model.LayerKind, position model.Position) error
	// Judge has the programs judge every connection of a pod again at its next packet; if policed is false there is no
	// policy, and they judge nothing. It costs no map write.
	Judge(policed bool) error
	// Epoch returns how often what judges has changed; 0 if nothing is judged.
	Epoch() (uint32, error)
	// Writes counts the entries written or deleted, and the slots of Maglev tables, since the maps were opened.
	Writes() uint64
}

// Write is one entry to put or, without a Value, to delete.
type Write struct {
	Map   abi.Map
	Key   []byte
	Value []byte
}

// Use is how full a map is.
type Use struct {
	Map      abi.Map
	Entries  uint64
	Capacity uint64
}

// Cursor is where a Read got to. The zero value is the start.
type Cursor struct {
	state any // of whoever implements Maps
}

// ErrFull is a put of a new key into a map that has no room.
var ErrFull = errors.New("the map is full")

// Dump reads a whole map.
func Dump(from Maps, m abi.Map, each func(key, value []byte) error) error {
	var cursor Cursor
	for {
		end, err := from.Read(m, &cursor, 4096, each)
		if err != nil || end {
			return err
		}
	}
}

// check refuses writes that don't have the layout of their map.
func check(w *Write) error {
	if w.Map >= abi.MapCount {
		return fmt.Errorf("there is no map number %d", w.Map)
	}
	layout := abi.Layouts[w.Map]
	if len(w.Key) != layout.KeySize || w.Value != nil && len(w.Value) != layout.ValueSize {
		return fmt.Errorf("map %s takes keys of %d and values of %d bytes, not %d and %d",
			layout.Name, layout.KeySize, layout.ValueSize, len(w.Key), len(w.Value))
	}
	return nil
}
