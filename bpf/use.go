// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
)

// Use is how full a map is.
type Use struct {
	Map      string
	Entries  int
	Capacity int
	// Evicts says that the least recently used entries make room for new ones, where others refuse them.
	Evicts bool
}

// counts are the entries of maps that programs write, as the last sweep found them.
type counts struct {
	mu      sync.Mutex
	entries map[string]int
}

func (d *Dataplane) remember(name string, entries int) {
	d.counts.mu.Lock()
	defer d.counts.mu.Unlock()
	d.counts.entries[name] = entries
}

// counted returns what the last sweep found in a map, if there was one.
func (d *Dataplane) counted(name string) (int, bool) {
	d.counts.mu.Lock()
	defer d.counts.mu.Unlock()
	entries, ok := d.counts.entries[name]
	return entries, ok
}

// Use returns how full each map is whose size is a matter of configuration, in the order of names. Flows and
// affinities are as the last sweep found them; others are counted, at some 0.2 µs an entry, so it is not for every
// second.
func (d *Dataplane) Use() ([]Use, error) {
	var list []Use
	for name, m := range d.maps {
		switch m.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie:
		default:
			continue
		}
		entries, known := d.counted(name)
		if !known {
			var err error
			if entries, err = countEntries(m); err != nil {
				return nil, fmt.Errorf("count the entries of map %s: %w", name, err)
			}
		}
		list = append(list, Use{Map: name, Entries: entries, Capacity: int(m.MaxEntries()), Evicts: m.Type() == ebpf.LRUHash})
	}
	slices.SortFunc(list, func(a, b Use) int { return strings.Compare(a.Map, b.Map) })
	return list, nil
}
