// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// small is the room of every map in these tests. The kernel's hash maps keep it exactly when preallocated.
const small = 3000

func TestMemoryKeepsTheContract(t *testing.T) {
	contract(t, func(*testing.T) Maps { return NewMemory(capacities()) })
}

func capacities() (all [abi.MapCount]uint32) {
	for i := range all {
		all[i] = small
	}
	return all
}

func TestFaultyThatNeverFailsKeepsTheContract(t *testing.T) {
	contract(t, func(*testing.T) Maps {
		return &Faulty{Maps: NewMemory(capacities())}
	})
}

func TestKernelKeepsTheContract(t *testing.T) {
	testkit.NeedKernel(t)
	contract(t, func(t *testing.T) Maps {
		t.Helper()
		k, err := NewKernel(newPlane(t))
		if err != nil {
			t.Fatal(err)
		}
		return k
	})
}

func TestTriesAreReadOneByOneWhereTheKernelHasNoBatchesForThem(t *testing.T) {
	testkit.NeedKernel(t)
	k, err := NewKernel(newPlane(t))
	if err != nil {
		t.Fatal(err)
	}
	write(t, k, put(abi.SourceRanges, 1, 10), put(abi.SourceRanges, 2, 20), put(abi.SourceRanges, 3, 30))
	got := map[uint32]bool{}
	cursor := Cursor{state: &scan[[24]byte]{single: true}}
	for end := false; !end; {
		if end, err = k.Read(abi.SourceRanges, &cursor, 2, func(key, _ []byte) error {
			got[number(key)] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[uint32]bool{1: true, 2: true, 3: true}, got); diff != "" {
		t.Error(diff)
	}
}

// plane is the maps without any program.
type plane struct {
	maps      [abi.MapCount]*ebpf.Map
	positions map[model.LayerKind]model.Position

	epoch, last uint32
	tables      map[uint32][]uint32
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{positions: map[model.LayerKind]model.Position{}, tables: map[uint32][]uint32{}}
	for i, layout := range abi.Layouts {
		spec := &ebpf.MapSpec{
			Name: layout.Name, Type: ebpf.Hash, MaxEntries: small,
			KeySize: uint32(layout.KeySize), ValueSize: uint32(layout.ValueSize),
		}
		if trie(abi.Map(i)) {
			spec.Type, spec.Flags = ebpf.LPMTrie, unix.BPF_F_NO_PREALLOC
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		p.maps[i] = m
	}
	return p
}

func (p *plane) Map(m abi.Map) *ebpf.Map { return p.maps[m] }
func (p *plane) Grace() error            { return nil }
func (p *plane) Judge(policed bool) error {
	p.last++
	if p.epoch = p.last; !policed {
		p.epoch = 0
	}
	return nil
}

func (p *plane) MaglevTable(number uint32) []uint32 {
	if number >= small {
		return nil
	}
	if p.tables[number] == nil {
		p.tables[number] = make([]uint32, memorySlots)
	}
	return p.tables[number]
}

func (p *plane) Epoch() (uint32, error) { return p.epoch, nil }

func (p *plane) ReadPosition(kind model.LayerKind) (model.Position, error) {
	return p.positions[kind], nil
}

func (p *plane) WritePosition(kind model.LayerKind, position model.Position) error {
	p.positions[kind] = position
	return nil
}

func put(m abi.Map, n, value int) Write {
	w := remove(m, n)
	w.Value = make([]byte, abi.Layouts[m].ValueSize)
	binary.BigEndian.PutUint32(w.Value, uint32(value))
	return w
}

// remove puts n into the last bytes of the key. A trie's begins with the length of its prefix.
func remove(m abi.Map, n int) Write {
	key := make([]byte, abi.Layouts[m].KeySize)
	if trie(m) {
		binary.NativeEndian.PutUint32(key, uint32(8*(len(key)-4)))
	}
	binary.BigEndian.PutUint32(key[len(key)-4:], uint32(n))
	return Write{Map: m, Key: key}
}

func trie(m abi.Map) bool {
	return m == abi.SourceRanges || m == abi.Networks || m == abi.Blocks || m == abi.PortVerdicts
}

func number(key []byte) uint32 { return binary.BigEndian.Uint32(key[len(key)-4:]) }

func contents(t *testing.T, from Maps, m abi.Map) map[uint32]uint32 {
	t.Helper()
	got := map[uint32]uint32{}
	err := Dump(from, m, func(key, value []byte) error {
		got[number(key)] = binary.BigEndian.Uint32(value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func contract(t *testing.T, open func(*testing.T) Maps) {
	t.Helper()
	for which := range abi.MapCount {
		t.Run("a written entry is read, replaced and deleted in "+which.String(), func(t *testing.T) {
			m := open(t)
			write(t, m, put(which, 1, 10), put(which, 2, 20), put(which, 1, 11), remove(which, 2), put(which, 3, 30))
			if diff := cmp.Diff(map[uint32]uint32{1: 11, 3: 30}, contents(t, m, which)); diff != "" {
				t.Error(diff)
			}
			if m.Writes() != 5 {
				t.Errorf("counted %d writes of 5", m.Writes())
			}
		})
	}
	t.Run("a large batch is all there, and dumps end", func(t *testing.T) {
		m := open(t)
		var batch []Write
		want := map[uint32]uint32{}
		for i := range small {
			batch = append(batch, put(abi.Backends, i, i*3))
			want[uint32(i)] = uint32(i * 3)
		}
		write(t, m, batch...)
		if diff := cmp.Diff(want, contents(t, m, abi.Backends)); diff != "" {
			t.Error(diff)
		}
		uses, err := m.Use()
		if err != nil {
			t.Fatal(err)
		}
		if uses[abi.Backends] != (Use{abi.Backends, small, small}) || uses[abi.Sets] != (Use{abi.Sets, 0, small}) {
			t.Errorf("got %v", uses)
		}
	})
	t.Run("what is missing is deleted without complaint", func(t *testing.T) {
		m := open(t)
		write(t, m, put(abi.Sets, 1, 1), put(abi.Sets, 3, 3), put(abi.Sets, 5, 5))
		write(t, m, remove(abi.Sets, 1), remove(abi.Sets, 2), remove(abi.Sets, 3), remove(abi.Sets, 4))
		if diff := cmp.Diff(map[uint32]uint32{5: 5}, contents(t, m, abi.Sets)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a full map refuses new keys by name and still takes old ones", func(t *testing.T) {
		m := open(t)
		var batch []Write
		for i := range small + 10 {
			batch = append(batch, put(abi.Slots, i, 1))
		}
		err := m.Write(batch)
		want := fmt.Sprintf("writing an entry of map slots_v1, which has room for %d: the map is full", small)
		if !errors.Is(err, ErrFull) || err.Error()[:len(want)] != want {
			t.Fatalf("got error %v, want %s", err, want)
		}
		if got := contents(t, m, abi.Slots); len(got) != small {
			t.Errorf("%d entries are there, want the %d before the failing one", len(got), small)
		}
		write(t, m, put(abi.Slots, 0, 2))
		write(t, m, remove(abi.Slots, 1), put(abi.Slots, small+1, 2))
	})
	t.Run("foreign sizes are refused", func(t *testing.T) {
		m := open(t)
		err := m.Write([]Write{{Map: abi.Sets, Key: []byte{1}, Value: make([]byte, 160)}})
		want := "map sets_v2 takes keys of 4 and values of 160 bytes, not 1 and 160"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	for _, which := range []abi.Map{abi.Backends, abi.SourceRanges} {
		t.Run("reading in slices sees every entry of "+which.String(), func(t *testing.T) { readInSlices(t, open(t), which) })
	}
	t.Run("a position is what was recorded", func(t *testing.T) { recorded(t, open(t)) })
}

func readInSlices(t *testing.T, m Maps, which abi.Map) {
	t.Helper()
	var batch []Write
	for i := range 2000 {
		batch = append(batch, put(which, i, i))
	}
	write(t, m, batch...)
	seen := map[uint32]bool{}
	var cursor Cursor
	for calls := 1; ; calls++ {
		end, err := m.Read(which, &cursor, 256, func(key, _ []byte) error {
			seen[number(key)] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if end {
			break
		}
		if calls > 2000 {
			t.Fatal("reading does not end")
		}
	}
	if len(seen) != 2000 {
		t.Errorf("saw %d of 2000 entries", len(seen))
	}
}

func recorded(t *testing.T, m Maps) {
	t.Helper()
	want := model.Position{Epoch: 3, Revision: 7, Digest: model.Digest{1, 2}}
	if err := m.SetPosition(model.LayerNode, want); err != nil {
		t.Fatal(err)
	}
	got, err := m.Position(model.LayerNode)
	if err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if got, err := m.Position(model.LayerCluster); err != nil || got != (model.Position{}) {
		t.Errorf("the other layer's position: got %v, %v", got, err)
	}
	if m.Writes() != 0 {
		t.Errorf("recording a position counted as %d writes", m.Writes())
	}
}

func write(t *testing.T, m Maps, writes ...Write) {
	t.Helper()
	if err := m.Write(writes); err != nil {
		t.Fatal(err)
	}
}
