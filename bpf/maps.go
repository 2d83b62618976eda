// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// The maps that only this package touches.
const (
	positionsMap  = "positions_v2"
	dropsMap      = "drops_v1"
	countersMap   = "counters_v1"
	localsMap     = "locals_v1"
	uplinksMap    = "uplinks_v1"
	flowsMap      = "flows_v2"
	affinitiesMap = "affinities_v1"
	fragmentsMap  = "fragments_v1"
	heldMap       = "held_v1"
	peersMap      = "sockets_v2"
)

// versioned matches the names of maps that programs share.
var versioned = regexp.MustCompile(`_v\d+$`)

// DefaultCapacities are entries. Slots and backends take some 100 bytes an entry in use and 16 for one that
// isn't; the others less.
var DefaultCapacities = map[abi.Map]uint32{
	abi.Frontends:    131072,
	abi.Sets:         131072,
	abi.Slots:        524288,
	abi.Backends:     524288,
	abi.Endpoints:    4096,
	abi.Views:        65536,
	abi.SourceRanges: 65536,
	abi.Networks:     16384,
	abi.HealthChecks: 4096,
	abi.Selves:       1,
}

const (
	// DefaultFlows is conntrack entries, some 130 bytes each, taken when the map is made.
	DefaultFlows = 131072
	// DefaultAffinities is clients times Services with affinity, some 100 bytes each, taken when the map is made.
	DefaultAffinities = 65536
	// locals and uplinkCount bound what a node has; entries take memory as they come.
	locals      = 16384
	uplinkCount = 1024
	// DefaultRefusals is answers per second and processor.
	DefaultRefusals = 1000
)

// openMaps makes the maps that programs share, or opens them where they are pinned.
func openMaps(specs specs, options Options) (_ map[string]*ebpf.Map, err error) {
	opened := map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			for _, m := range opened {
				m.Close()
			}
		}
	}()
	for name, m := range specs.shared() {
		m = m.Copy()
		if n := capacity(name, options); n != 0 {
			m.MaxEntries = n
		}
		if opened[name], err = openMap(m, options.PinDir); err != nil {
			return nil, err
		}
	}
	return opened, nil
}

// shared returns the maps that program files have in common with each other or with user space.
func (s specs) shared() map[string]*ebpf.MapSpec {
	shared := map[string]*ebpf.MapSpec{}
	for _, file := range s.all() {
		for name, m := range file.Maps {
			if versioned.MatchString(name) {
				shared[name] = m
			}
		}
	}
	return shared
}

func openMap(spec *ebpf.MapSpec, pinDir string) (*ebpf.Map, error) {
	var options ebpf.MapOptions
	if pinDir != "" {
		spec.Pinning = ebpf.PinByName
		options.PinPath = mapsDir(pinDir)
	}
	m, err := ebpf.NewMapWithOptions(spec, options)
	switch {
	case errors.Is(err, ebpf.ErrMapIncompatible):
		return nil, fmt.Errorf("the pinned map %s/%s is not as configured (%w): configure the capacity it has, "+
			"or remove the pins and start again, which ends translated connections of per-packet flows",
			mapsDir(pinDir), spec.Name, err)
	case err != nil:
		return nil, fmt.Errorf("make the map %s of %d entries: %w", spec.Name, spec.MaxEntries, err)
	}
	return m, nil
}

// capacity returns the configured size of a map, 0 for one whose size is fixed.
func capacity(name string, options Options) uint32 {
	switch name {
	case flowsMap:
		return cmp.Or(options.Flows, DefaultFlows)
	case affinitiesMap:
		return cmp.Or(options.Affinities, DefaultAffinities)
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
