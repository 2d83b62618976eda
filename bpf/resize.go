// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// resizing are the pinned maps whose place others of another size are to take, by name.
type resizing map[string]*ebpf.Map

func (r resizing) close() {
	for _, m := range r {
		m.Close()
	}
}

// resize fills the maps that were made in another size, has the programs use them, and pins them, in an order in which
// a crash at any step leaves a working plane:
//
//  1. Tables are copied: nobody writes them but this process.
//  2. Programs that adopt are put in place, one interface after the other. What they lack they take from the old flows,
//     which others still use, and what they write, they write to both.
//  3. The rest of the flows is copied.
//  4. The new maps take the pins of the old. Until here a restart begins again with the old ones, which lack nothing;
//     from here on it has the new ones.
//  5. Programs that don't adopt are put in place.
func (d *Dataplane) resize(old resizing) error {
	for _, name := range slices.Sorted(maps.Keys(old)) {
		d.log.Info("a map gets another size or layout", "map", name, "from", old[name].MaxEntries(), "to", d.maps[name].MaxEntries())
	}
	adopted := adoption{how: adoptSame, maps: map[string]*ebpf.Map{}}
	for name, current := range adoptable {
		if old[current] != nil {
			adopted.maps[name] = old[current]
		}
	}
	// Hits of rules are written by programs, too: those between the copy and the exchange are not counted.
	written := func(name string) bool { return name == flowsMap || name == affinitiesMap || name == connectionsMap }
	steps := []struct {
		name string
		do   func() error
	}{
		{"copy tables", func() error {
			return d.copyAll(old, func(name string) bool { return !written(name) })
		}},
		{"load adopting programs", func() error { return d.loadPrograms(adopted) }},
		{"exchange for adopting programs", d.exchangePrograms},
		{"copy flows", func() error { return d.copyAll(old, written) }},
		{"exchange pins", func() error { return d.repinAll(old) }},
		{"load programs", func() error { return d.loadPrograms(adoption{}) }},
		{"exchange programs", d.exchangePrograms},
	}
	for _, s := range steps {
		if err := d.at(s.name); err != nil {
			return err
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("give maps another size: %s: %w", s.name, err)
		}
	}
	return d.at("end")
}

// at is where tests end the process.
func (d *Dataplane) at(step string) error {
	if d.options.steps == nil {
		return nil
	}
	return d.options.steps(step)
}

func (d *Dataplane) copyAll(old resizing, which func(name string) bool) error {
	for name, from := range old {
		if !which(name) || isDerived(name) {
			continue
		}
		if err := copyEntries(from, d.maps[name], converterTo(name, from)); err != nil {
			return fmt.Errorf("copy map %s: %w", name, err)
		}
	}
	return nil
}

// converterTo returns what turns the values of a map into those of the one that takes its place; nil if they are alike.
func converterTo(name string, from *ebpf.Map) func(values []byte, n int) []byte {
	if before, known := earlierMaps[name]; known && from.ValueSize() == before.valueSize {
		return before.convert
	}
	return nil
}

// copyEntries writes what one map holds, converted if it has to be, to another that lacks it.
func copyEntries(from, to *ebpf.Map, convert func(values []byte, n int) []byte) error {
	for b := newBatches(from); ; {
		n, err := b.next()
		if n == 0 || err != nil {
			return err
		}
		keySize, valueSize := int(from.KeySize()), valueSize(from)
		values := b.values[:n*valueSize]
		if convert != nil {
			values = convert(values, n)
		}
		err = updateEntries(to, n, b.keys[:n*keySize], values, ebpf.UpdateNoExist, ignoreExisting)
		if err != nil {
			return err
		}
	}
}

func ignoreExisting(err error) error {
	if errors.Is(err, ebpf.ErrKeyExist) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (d *Dataplane) repinAll(old resizing) error {
	for name := range old {
		if err := repin(d.maps[name], filepath.Join(mapsDir(d.pinDir), name)); err != nil {
			return err
		}
		if err := d.at("exchanged pin " + name); err != nil {
			return err
		}
		if err := removeEarlier(name, d.pinDir); err != nil {
			return err
		}
	}
	return nil
}
