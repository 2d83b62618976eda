// SPDX-License-Identifier: Apache-2.0

// Package bpf is the part of the data plane that runs in the kernel, and what user space needs to load it, attach
// it and look into it. The programs decide, translate and refuse; user space writes the tables they read.
//
// It promises that nothing that works stops working: maps and links are pinned, a restart takes up the pinned
// ones and exchanges programs in place, and programs that find no table entry let the packet pass.
//
// Before changing a map's key or value read include/abi.h: a changed layout is a new map name. After changing C,
// run go generate and commit the objects with it.
package bpf

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// Options say how Load makes the data plane. The zero value makes one that ends with the process.
type Options struct {
	// PinDir is a directory on a bpffs for maps and links, see MountBPFFS. Empty pins nothing.
	PinDir string
	// Capacities are the most entries of each map; DefaultCapacities for those that are missing.
	Capacities map[abi.Map]uint32
	// Flows is the most conntrack entries, two a flow; DefaultFlows if 0.
	Flows uint32
	// Affinities is the most clients with session affinity that have a backend; DefaultAffinities if 0.
	Affinities uint32
	// NodePorts is the range of NodePorts, to which nothing is masqueraded; DefaultNodePorts if zero.
	NodePorts PortRange
	// MasqueradeAll gives the node's address to all that leaves for a backend elsewhere, whoever sent it.
	MasqueradeAll bool
	// RefusalsPerSecond bounds the RST and ICMP answers per processor; DefaultRefusals if 0.
	RefusalsPerSecond uint32
	// forTests are switches that only tests of this package set.
	forTests map[string]any
	// Log is told what deserves a look. Nil discards it.
	Log *slog.Logger
}

// Dataplane is the loaded programs and their maps. Its methods may be called from any goroutine, those that
// attach from one at a time.
type Dataplane struct {
	log       *slog.Logger
	pinDir    string
	maps      map[string]*ebpf.Map
	positions *ebpf.Memory
	sockets   *ebpf.Collection
	pods      *ebpf.Collection
	uplinks   *ebpf.Collection
	hooks     []hook  // the socket hooks, attached or not
	ports     *ports  // the interfaces
	walker    *walker // of sockets whose backend is gone
	counts    counts
}

// Load opens the pinned maps, or makes them, and loads the programs. It attaches nothing and writes to no map.
// On an error nothing stays behind but the maps that were pinned.
func Load(options Options) (_ *Dataplane, err error) {
	d := &Dataplane{log: options.Log, pinDir: options.PinDir, counts: counts{entries: map[string]int{}}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	// Needed before Linux 5.11 only, and refused in containers without CAP_SYS_RESOURCE.
	if err := rlimit.RemoveMemlock(); err != nil {
		d.log.Warn("the limit of locked memory stays; on kernels before 5.11 maps may not fit", "error", err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := d.makePinDirs(); err != nil {
		return nil, err
	}
	if err := d.loadPrograms(options); err != nil {
		return nil, err
	}
	if d.positions, err = d.maps[positionsMap].Memory(); err != nil {
		return nil, fmt.Errorf("map the positions into memory: %w", err)
	}
	networks, err := d.serviceNetworksInTable()
	if err != nil {
		return nil, err
	}
	if err := d.SetServiceNetworks(networks); err != nil {
		return nil, err
	}
	d.hooks = socketHooks()
	d.ports, err = openPorts(d)
	return d, err
}

func (d *Dataplane) loadPrograms(options Options) error {
	specs, err := readSpecs()
	if err != nil {
		return err
	}
	if err := setSwitches(specs, options); err != nil {
		return err
	}
	if err := d.setSocketSwitches(specs); err != nil {
		return err
	}
	if d.maps, err = openMaps(specs, options); err != nil {
		return err
	}
	if d.sockets, err = d.loadCollection(specs.sockets); err != nil {
		if missing := missingHook(probeHook); missing != nil {
			return missing
		}
		return fmt.Errorf("load the socket programs: %w", err)
	}
	if d.pods, err = d.loadCollection(specs.pods); err != nil {
		return fmt.Errorf("load the pod programs: %w", err)
	}
	if d.uplinks, err = d.loadCollection(specs.uplinks); err != nil {
		return fmt.Errorf("load the uplink programs: %w", err)
	}
	d.walker = d.openWalker(specs.iterators)
	return nil
}

// specs are the program files.
type specs struct{ sockets, pods, uplinks, iterators *ebpf.CollectionSpec }

func readSpecs() (specs, error) {
	var s specs
	for _, file := range []struct {
		name string
		into **ebpf.CollectionSpec
		load func() (*ebpf.CollectionSpec, error)
	}{{"socket", &s.sockets, loadSockets}, {"pod", &s.pods, loadPods}, {"uplink", &s.uplinks, loadUplinks}, {"iterator", &s.iterators, loadIterators}} {
		spec, err := file.load()
		if err != nil {
			return specs{}, fmt.Errorf("read the %s programs: %w", file.name, err)
		}
		*file.into = spec
	}
	return s, nil
}

func (s specs) all() []*ebpf.CollectionSpec {
	return []*ebpf.CollectionSpec{s.sockets, s.pods, s.uplinks, s.iterators}
}

// loadCollection loads a program file with the shared maps in place of its own.
func (d *Dataplane) loadCollection(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	shared := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if ours, ok := d.maps[name]; ok {
			m.MaxEntries = ours.MaxEntries()
			shared[name] = ours
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if refusal, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		return nil, fmt.Errorf("the kernel's verifier refuses: %w", refusal)
	}
	return c, err
}

// Map returns the map that user space writes. It is closed with the Dataplane.
func (d *Dataplane) Map(m abi.Map) *ebpf.Map { return d.maps[m.String()] }

func (d *Dataplane) collections() []*ebpf.Collection {
	all := []*ebpf.Collection{d.sockets, d.pods, d.uplinks}
	if d.walker != nil && d.walker.programs != nil {
		all = append(all, d.walker.programs)
	}
	return all
}

// program returns a program by its name, which is unique among the files.
func (d *Dataplane) program(name string) *ebpf.Program {
	for _, c := range d.collections() {
		if p := c.Programs[name]; p != nil {
			return p
		}
	}
	panic("no program " + name)
}

// Close lets go of everything. What is pinned goes on working, what is not ends.
func (d *Dataplane) Close() {
	if d == nil {
		return
	}
	if d.ports != nil {
		d.ports.close()
	}
	if d.walker != nil {
		d.walker.close()
	}
	for i := range d.hooks {
		d.hooks[i].close()
	}
	for _, c := range d.collections() {
		if c != nil {
			c.Close()
		}
	}
	for _, m := range d.maps {
		m.Close()
	}
}

func (d *Dataplane) makePinDirs() error {
	if d.pinDir == "" {
		return nil
	}
	if err := checkBPFFS(d.pinDir); err != nil {
		return err
	}
	for _, dir := range []string{d.pinDir, mapsDir(d.pinDir), linksDir(d.pinDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the directory of pins: %w", err)
		}
	}
	return nil
}
