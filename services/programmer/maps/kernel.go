// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Plane is what Kernel needs of package bpf: the opened maps, the memory-mapped positions and Maglev tables, the grace period and
// the epoch of what judges.
type Plane interface {
	Map(m abi.Map) *ebpf.Map
	// MaglevTable returns the slots of a table, to be written by atomic stores; nil for a number that none has.
	MaglevTable(number uint32) []uint32
	ReadPosition(kind model.LayerKind) (model.Position, error)
	WritePosition(kind model.LayerKind, position model.Position) error
	Grace() error
	Judge(policed bool) error
	Epoch() (uint32, error)
}

// Kernel is BPF maps. One goroutine writes; any may read.
type Kernel struct {
	plane  Plane
	ops    [abi.MapCount]batcher
	writes atomic.Uint64
}

// NewKernel returns the maps of plane, having checked that they have the layout of this program.
func NewKernel(plane Plane) (*Kernel, error) {
	k := &Kernel{plane: plane, ops: [abi.MapCount]batcher{
		abi.Frontends:    &batches[[20]byte, [8]byte]{},
		abi.Views:        &batches[[16]byte, [8]byte]{},
		abi.Sets:         &batches[[4]byte, [160]byte]{},
		abi.Slots:        &batches[[8]byte, [4]byte]{},
		abi.Backends:     &batches[[4]byte, [48]byte]{},
		abi.Nodes:        &batches[[4]byte, [40]byte]{},
		abi.MaglevIndex:  &batches[[4]byte, [4]byte]{},
		abi.Endpoints:    &batches[[16]byte, [344]byte]{},
		abi.SourceRanges: &batches[[24]byte, [4]byte]{},
		abi.Networks:     &batches[[20]byte, [4]byte]{},
		abi.HealthChecks: &batches[[4]byte, [132]byte]{},
		abi.Selves:       &batches[[4]byte, [80]byte]{},
		abi.Peers:        &batches[[16]byte, [8]byte]{},
		abi.Blocks:       &batches[[20]byte, [8]byte]{},
		abi.Verdicts:     &batches[[16]byte, [24]byte]{},
		abi.PortVerdicts: &batches[[16]byte, [16]byte]{},
		abi.RuleSets:     &batches[[8]byte, [264]byte]{},
		abi.Rules:        &batches[[8]byte, [432]byte]{},
	}}
	for i, layout := range abi.Layouts {
		m := plane.Map(abi.Map(i))
		if m == nil {
			return nil, fmt.Errorf("the programs don't have map %s", layout.Name)
		}
		if int(m.KeySize()) != layout.KeySize || int(m.ValueSize()) != layout.ValueSize {
			return nil, fmt.Errorf("map %s in the kernel has keys of %d and values of %d bytes, this program writes %d and %d: "+
				"another version made it; remove the pins with `programmer cleanup` or run that version",
				layout.Name, m.KeySize(), m.ValueSize(), layout.KeySize, layout.ValueSize)
		}
	}
	return k, nil
}

// batchMax bounds one system call: the kernel copies this many entries at a time.
const batchMax = 1024

// Write implements Maps. Writes to the same map that stand together and do the same go in one system call.
func (k *Kernel) Write(writes []Write) error {
	for len(writes) > 0 {
		n := run(writes)
		done, err := k.writeRun(writes[:n])
		k.writes.Add(uint64(done))
		if err != nil {
			return err
		}
		writes = writes[n:]
	}
	return nil
}

// run returns how many of the first writes go to one map and are all puts or all deletions.
func run(writes []Write) int {
	n := 1
	for n < len(writes) && n < batchMax && writes[n].Map == writes[0].Map &&
		(writes[n].Value == nil) == (writes[0].Value == nil) {
		n++
	}
	return n
}

func (k *Kernel) writeRun(writes []Write) (done int, err error) {
	for i := range writes {
		if err := check(&writes[i]); err != nil {
			return 0, err
		}
	}
	m := k.plane.Map(writes[0].Map)
	if len(writes) > 1 {
		if done, err = k.ops[writes[0].Map].write(m, writes); err == nil {
			return done, nil
		}
		// Where batches don't exist, or a deletion met what isn't there, go on one by one from where it stopped.
		if done > len(writes) {
			done = 0
		}
	}
	for ; done < len(writes); done++ {
		if err := writeOne(m, &writes[done]); err != nil {
			return done, explain(&writes[done], m, err)
		}
	}
	return done, nil
}

func writeOne(m *ebpf.Map, w *Write) error {
	if w.Value != nil {
		return m.Update(w.Key, w.Value, ebpf.UpdateAny)
	}
	if err := m.Delete(w.Key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func explain(w *Write, m *ebpf.Map, err error) error {
	verb := "writing"
	if w.Value == nil {
		verb = "deleting"
	} else if full(err) {
		return fmt.Errorf("writing an entry of map %s, which has room for %d: %w (%w)", w.Map, m.MaxEntries(), ErrFull, err)
	}
	return fmt.Errorf("%s an entry of map %s: %w", verb, w.Map, err)
}

// Grace implements Maps.
func (k *Kernel) Grace() error { return k.plane.Grace() }

// Read implements Maps.
func (k *Kernel) Read(which abi.Map, cursor *Cursor, limit int, each func(key, value []byte) error) (bool, error) {
	end, err := k.ops[which].read(k.plane.Map(which), cursor, limit, each)
	if err != nil {
		return false, fmt.Errorf("reading map %s: %w", which, err)
	}
	return end, nil
}

// Position implements Maps.
func (k *Kernel) Position(kind model.LayerKind) (model.Position, error) {
	return k.plane.ReadPosition(kind)
}

// SetPosition implements Maps.
func (k *Kernel) SetPosition(kind model.LayerKind, position model.Position) error {
	return k.plane.WritePosition(kind, position)
}

// Judge implements Maps.
func (k *Kernel) Judge(policed bool) error { return k.plane.Judge(policed) }

// Epoch implements Maps.
func (k *Kernel) Epoch() (uint32, error) { return k.plane.Epoch() }

// Writes implements Maps.
func (k *Kernel) Writes() uint64 { return k.writes.Load() }

// Use implements Maps. The kernel keeps no count of a hash map's entries, so they are counted by reading keys.
func (k *Kernel) Use() ([]Use, error) {
	uses := make([]Use, abi.MapCount)
	for i := range uses {
		m := abi.Map(i)
		uses[i] = Use{Map: m, Capacity: uint64(k.plane.Map(m).MaxEntries())}
		err := Dump(k, m, func(_, _ []byte) error {
			uses[i].Entries++
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return uses, nil
}
