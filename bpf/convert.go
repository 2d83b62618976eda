// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// earlier is a map of the same layout of tables whose values had other bytes: what they meant can be said in those of
// today, one by one. It is exchanged for today's map as one of another size is; see resize.
type earlier struct {
	name               string
	keySize, valueSize uint32
	convert            func(values []byte, n int) []byte
}

// earlierMaps are by the names of today's.
var earlierMaps = map[string]earlier{
	abi.Backends.String(): {"backends_v2", 4, 40, convertBackends},
}

// backendV2 is struct backend of backends_v2.
type backendV2 struct {
	Addr  [16]byte
	Place uint64
	Set   uint32
	Port  [2]byte
	State uint8
	Layer uint8
	Twin  uint32
	_     uint32
}

// convertBackends says of backends what was known of them: where they are wasn't, and all had the same weight. So the rows
// that a node holds are those that it held, with the same digest.
func convertBackends(values []byte, n int) []byte {
	to := make([]byte, 0, n*abi.Layouts[abi.Backends].ValueSize)
	for _, old := range view[backendV2](values, n) {
		to = append(to, bytesOf(&abi.Backend{
			Addr: old.Addr, Place: old.Place, Set: old.Set, Twin: old.Twin, Port: old.Port, Weight: 1,
			State: old.State, Layer: old.Layer,
		})...)
	}
	return to
}

// openEarlier opens the map that is pinned in place of spec's, with the values that it had before; nil if there is none.
// Today's gets the room that its entries need, whatever is configured.
func openEarlier(spec *ebpf.MapSpec, pinDir string, log *slog.Logger) (*ebpf.Map, error) {
	before, known := earlierMaps[spec.Name]
	if !known || pinDir == "" {
		return nil, nil
	}
	path := filepath.Join(mapsDir(pinDir), before.name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	if m.KeySize() != before.keySize || m.ValueSize() != before.valueSize {
		return nil, errors.Join(fmt.Errorf("the pinned map %s has keys of %d and values of %d bytes, where every version of it had %d and %d; "+
			"deltaplane cleanup removes it, which ends translated connections of per-packet flows",
			path, m.KeySize(), m.ValueSize(), before.keySize, before.valueSize), m.Close())
	}
	fits, err := fitsInto(m, spec.MaxEntries)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if !fits {
		log.Warn("a map keeps its size, since what is in use does not fit into the one configured",
			"map", spec.Name, "size", m.MaxEntries(), "configured", spec.MaxEntries)
		spec.MaxEntries = m.MaxEntries()
	}
	return m, nil
}

// removeEarlier removes the pin of what a map took the place of; what is gone already is fine.
func removeEarlier(name, pinDir string) error {
	before, known := earlierMaps[name]
	if !known || pinDir == "" {
		return nil
	}
	path := filepath.Join(mapsDir(pinDir), before.name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the pin %s: %w", path, err)
	}
	return nil
}
