// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// The maps that only this package touches.
const (
	positionsMap  = "positions_v2"
	dropsMap      = "drops_v2"
	countersMap   = "counters_v1"
	localsMap     = "locals_v1"
	uplinksMap    = "uplinks_v1"
	flowsMap      = "flows_v2"
	halfOpenMap   = "half_open_v1"
	affinitiesMap = "affinities_v1"
	fragmentsMap  = "fragments_v1"
	heldMap       = "held_v1"
	peersMap      = "sockets_v2"
	policyMap     = "policy_v1"
	maglevMap     = "maglev_v1"
	// Pods' connections, and what rules decided.
	connectionsMap = "connections_v1"
	ruleHitsMap    = "rule_hits_v1"
	// By Service.
	serviceCountsMap = "service_counts_v1"
)

// versioned matches the names of maps that programs share.
var versioned = regexp.MustCompile(`_v\d+$`)

// DefaultCapacities are entries. A Maglev table takes 16 KiB, or four bytes for each of the slots configured, when the map is
// made. Slots and backends take some 100 bytes an entry in use and 16 for one that
// isn't; the others less. A ServicePort with a ClusterIP alone has one frontend a family and one more for all other ports.
var DefaultCapacities = map[abi.Map]uint32{
	abi.Frontends:    262144,
	abi.Sets:         131072,
	abi.Slots:        524288,
	abi.Backends:     524288,
	abi.Nodes:        8192,
	abi.MaglevIndex:  1024,
	abi.Endpoints:    4096,
	abi.Views:        65536,
	abi.SourceRanges: 65536,
	abi.Networks:     16384,
	abi.HealthChecks: 4096,
	abi.Selves:       1,
	abi.Peers:        262144,
	abi.Blocks:       65536,
	abi.Verdicts:     262144,
	abi.PortVerdicts: 131072,
	abi.RuleSets:     8192,
	abi.Rules:        65536,
}

const (
	// DefaultFlows is conntrack entries, 152 bytes each, taken when the map is made.
	DefaultFlows = 524288
	// DefaultAffinities is clients times Services with affinity, 104 bytes each, taken when the map is made.
	DefaultAffinities = 65536
	// DefaultConnections is pods' connections that policies judge, 136 bytes each, taken when the map is made.
	DefaultConnections = 262144
	// DefaultServiceCounts is Services times what is counted of each: reasons of drops, ways of flows.
	DefaultServiceCounts = 65536
	// locals and uplinkCount bound what a node has, addresses and interfaces that are no pods; entries take memory as they come.
	locals      = 16384
	uplinkCount = 4096
	// DefaultRefusals is answers per second and processor.
	DefaultRefusals = 1000
)

// openMaps makes the maps that programs share, or opens them where they are pinned. Those that are pinned in another
// size than configured are not pinned yet: they are to take the place of the pinned ones, see resize.
func openMaps(files files, options Options, log *slog.Logger) (_ map[string]*ebpf.Map, _ resizing, err error) {
	opened, resized := map[string]*ebpf.Map{}, resizing{}
	defer func() {
		if err != nil {
			resized.close()
			for _, m := range opened {
				m.Close()
			}
		}
	}()
	shared := files.shared()
	for _, name := range slices.Sorted(maps.Keys(shared)) { // Maglev's index before its tables
		spec := shared[name].Copy()
		spec.MaxEntries = cmp.Or(capacity(name, options), spec.MaxEntries)
		if name == maglevMap {
			if err := sizeMaglev(spec, options.MaglevSize, opened[abi.MaglevIndex.String()].MaxEntries()); err != nil {
				return nil, nil, err
			}
		}
		old, err := openPinned(spec, options.PinDir)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case old != nil:
			err = removeEarlier(name, options.PinDir) // a crash may have left it
		default:
			var before *ebpf.Map
			if before, err = openEarlier(spec, options.PinDir, log); before != nil {
				resized[name] = before
			}
		}
		if err != nil {
			return nil, nil, errors.Join(err, closeMap(old))
		}
		if old != nil && (old.MaxEntries() != spec.MaxEntries || old.ValueSize() != spec.ValueSize) {
			fits, err := fitsInto(old, spec.MaxEntries)
			if err != nil {
				return nil, nil, errors.Join(err, old.Close())
			}
			if fits {
				resized[name] = old
				old = nil
			} else {
				log.Warn("a map keeps its size, since what is in use does not fit into the one configured",
					"map", name, "size", old.MaxEntries(), "configured", spec.MaxEntries)
			}
		}
		if old != nil {
			opened[name] = old
			continue
		}
		if opened[name], err = makePinned(spec, options.PinDir, resized[name] == nil); err != nil {
			return nil, nil, err
		}
	}
	return opened, resized, nil
}

func closeMap(m *ebpf.Map) error {
	if m == nil {
		return nil
	}
	return m.Close()
}

// openPinned opens the map that is pinned where spec's belongs; nil if there is none. Its size may differ.
func openPinned(spec *ebpf.MapSpec, pinDir string) (*ebpf.Map, error) {
	if pinDir == "" {
		return nil, nil
	}
	path := filepath.Join(mapsDir(pinDir), spec.Name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	like := spec.Copy()
	if capacityIsConfigured(spec.Name) || isDerived(spec.Name) {
		like.MaxEntries = m.MaxEntries()
	}
	if isDerived(spec.Name) {
		like.ValueSize = m.ValueSize()
	}
	if err := like.Compatible(m); err != nil {
		return nil, errors.Join(fmt.Errorf("the pinned map %s is not one of this version's (%w): it is of a version "+
			"between releases; deltaplane cleanup removes it, which ends translated connections of per-packet flows",
			path, err), m.Close())
	}
	return m, nil
}

func makePinned(spec *ebpf.MapSpec, pinDir string, pin bool) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make the map %s of %d entries: %w", spec.Name, spec.MaxEntries, err)
	}
	if pinDir == "" || !pin {
		return m, nil
	}
	if err := m.Pin(filepath.Join(mapsDir(pinDir), spec.Name)); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the map %s: %w", spec.Name, err), m.Close())
	}
	return m, nil
}

// fitsInto says if what a map holds has room in another size. One that evicts needs some more than it holds, since it
// does so before it is full: each processor keeps some entries for itself. An array, of which all is in use, is a derived one.
func fitsInto(m *ebpf.Map, capacity uint32) (bool, error) {
	if capacity >= m.MaxEntries() || m.Type() == ebpf.Array {
		return true, nil
	}
	count, err := countEntries(m)
	if err != nil {
		return false, err
	}
	if m.Type() == ebpf.LRUHash {
		count += count/3 + 128*runtime.NumCPU()
	}
	return count <= int(capacity), nil
}

func capacityIsConfigured(name string) bool { return capacity(name, Options{}) != 0 }

// capacity returns the configured size of a map, 0 for one whose size is fixed.
func capacity(name string, options Options) uint32 {
	switch name {
	case flowsMap:
		return cmp.Or(options.Flows, DefaultFlows)
	case halfOpenMap:
		return halfOpenPlaces(options)
	case affinitiesMap:
		return cmp.Or(options.Affinities, DefaultAffinities)
	case connectionsMap:
		return cmp.Or(options.Connections, DefaultConnections)
	case ruleHitsMap:
		return capacity(abi.Rules.String(), options)
	case serviceCountsMap:
		return cmp.Or(options.ServiceCounts, DefaultServiceCounts)
	case localsMap:
		return locals
	case uplinksMap:
		return uplinkCount
	}
	for m := range abi.MapCount {
		if m.String() == name {
			return cmp.Or(options.Capacities[m], DefaultCapacities[m])
		}
	}
	return 0
}
