// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// files are the program files.
type files struct{ sockets, pods, uplinks, tunnel, wire, iterators *ebpf.CollectionSpec }

// readFiles reads the program files and fits them to this kernel and the configuration.
func readFiles(switches map[string]any) (files, error) {
	var f files
	for _, file := range []struct {
		name string
		into **ebpf.CollectionSpec
		load func() (*ebpf.CollectionSpec, error)
	}{{"socket", &f.sockets, loadSockets}, {"pod", &f.pods, loadPods}, {"uplink", &f.uplinks, loadUplinks}, {"tunnel", &f.tunnel, loadTunnel}, {"wire", &f.wire, loadWire}, {"iterator", &f.iterators, loadIterators}} {
		spec, err := file.load()
		if err != nil {
			return files{}, fmt.Errorf("read the %s programs: %w", file.name, err)
		}
		*file.into = spec
	}
	return f, f.set(switches)
}

func (f files) all() []*ebpf.CollectionSpec {
	return []*ebpf.CollectionSpec{f.sockets, f.pods, f.uplinks, f.tunnel, f.wire, f.iterators}
}

// shared returns the maps that program files have in common with each other or with user space.
func (f files) shared() map[string]*ebpf.MapSpec {
	shared := map[string]*ebpf.MapSpec{}
	for _, file := range f.all() {
		for name, m := range file.Maps {
			if versioned.MatchString(name) {
				shared[name] = m
			}
		}
	}
	return shared
}

// programs are those that are attached, as they run in the kernel. There is no wire where that is switched off, or the
// kernel refuses it.
type programs struct{ sockets, pods, uplinks, tunnel, wire *ebpf.Collection }

func (p *programs) close() {
	for _, c := range p.collections() {
		c.Close()
	}
	*p = programs{}
}

func (p *programs) collections() []*ebpf.Collection {
	var list []*ebpf.Collection
	for _, c := range []*ebpf.Collection{p.sockets, p.pods, p.uplinks, p.tunnel, p.wire} {
		if c != nil {
			list = append(list, c)
		}
	}
	return list
}

// program returns a program by its name, which is unique among the files.
func (p *programs) program(name string) *ebpf.Program {
	for _, c := range p.collections() {
		if found := c.Programs[name]; found != nil {
			return found
		}
	}
	panic("no program " + name)
}

// adoption is what programs take from when their maps lack a flow, a connection or an affinity, see include/adopt.h. The zero value
// is nothing.
type adoption struct {
	how  uint32               // ADOPT_
	maps map[string]*ebpf.Map // by their names in the programs
}

// How programs adopt.
const (
	adoptSame uint32 = 1
	adoptV1   uint32 = 2
)

// adoptable are the maps that may be adopted from, and those that are in their place while nothing is.
var adoptable = map[string]string{"old_flows": flowsMap, "old_affinities": affinitiesMap, "old_connections": connectionsMap}

// loadPrograms loads the programs in place of those before, which go on where they are attached. The files are loaded at
// the same time: what takes long is the kernel's verifier, on one processor for each.
func (d *Dataplane) loadPrograms(from adoption) error {
	files, err := readFiles(d.switches)
	if err != nil {
		return err
	}
	var loaded programs
	var errs [4]error
	var loads sync.WaitGroup
	for i, file := range []struct {
		name string
		spec *ebpf.CollectionSpec
		into **ebpf.Collection
	}{{"socket", files.sockets, &loaded.sockets}, {"pod", files.pods, &loaded.pods}, {"uplink", files.uplinks, &loaded.uplinks}, {"tunnel", files.tunnel, &loaded.tunnel}} {
		loads.Go(func() {
			collection, err := d.loadCollection(file.spec, from)
			if err != nil {
				errs[i] = fmt.Errorf("load the %s programs: %w", file.name, err)
			}
			*file.into = collection
		})
	}
	loads.Go(func() { loaded.wire = d.loadWire(files.wire, from) })
	loads.Wait()
	if err := cmp.Or(errs[:]...); err != nil {
		loaded.close()
		return cmp.Or(missingHook(probeHook), err)
	}
	d.programs.close()
	d.programs = loaded
	return d.tell()
}

// tell tells the programs what they know besides tables and constants.
func (d *Dataplane) tell() error { return errors.Join(d.tellNetworks(), d.tellTunnel(), d.tellWires()) }

// collections returns all that is loaded.
func (d *Dataplane) collections() []*ebpf.Collection {
	list := d.programs.collections()
	if d.walker != nil && d.walker.programs != nil {
		list = append(list, d.walker.programs)
	}
	return list
}

// loadCollection loads a program file with the shared maps in place of its own.
func (d *Dataplane) loadCollection(spec *ebpf.CollectionSpec, from adoption) (*ebpf.Collection, error) {
	if adopting, ok := spec.Variables["adopting"]; ok {
		if err := adopting.Set(from.how); err != nil {
			return nil, fmt.Errorf("set the switch adopting of the programs: %w", err)
		}
	}
	instead := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		ours := cmp.Or(from.maps[name], d.maps[name], d.maps[adoptable[name]], d.oldSockets[name])
		if ours != nil {
			m.MaxEntries, m.ValueSize = ours.MaxEntries(), ours.ValueSize()
			instead[name] = ours
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: instead})
	if refusal, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		return nil, fmt.Errorf("the kernel's verifier refuses: %w", refusal)
	}
	return c, err
}
