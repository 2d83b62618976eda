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
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
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
	// Connections is the most connections of pods, one entry a pod and connection; DefaultConnections if 0.
	Connections uint32
	// ServiceCounts is the most counts of Services, one a Service and reason of drops or way of flows; DefaultServiceCounts
	// if 0.
	ServiceCounts uint32
	// Timeouts say how long what is idle is kept; DefaultTimeouts if zero. The programs ask of connections.
	Timeouts Timeouts
	// PolicyReject answers a connection that NetworkPolicies isolate a pod from, where it would go without a word.
	PolicyReject bool
	// KeepEstablished lets connections go on that policies have ceased to allow.
	KeepEstablished bool
	// CheckSources drops what a pod sends from an address to which the node's routes lead elsewhere.
	CheckSources bool
	// NodePorts is the range of NodePorts, to which nothing is masqueraded; DefaultNodePorts if zero.
	NodePorts PortRange
	// MasqueradeAll gives the node's address to all that leaves for a backend elsewhere, whoever sent it.
	MasqueradeAll bool
	// Node is this node's own number. 0 wraps nothing for other nodes.
	Node model.NodeID
	// Tunnel is how nodes wrap packets for each other.
	Tunnel Tunnel
	// XDP says where uplinks' frames meet a program before they are packets. The zero value is XDPOff.
	XDP XDPMode
	// MaglevSize is the slots of a Maglev table, of which there are as many as Capacities says of abi.MaglevIndex. It is
	// one that maglev.CheckSize takes; maglev.DefaultSize if 0.
	MaglevSize uint32
	// RefusalsPerSecond bounds the RST and ICMP answers per processor; DefaultRefusals if 0.
	RefusalsPerSecond uint32
	// forTests are switches that only tests of this package set.
	forTests map[string]any
	// steps is told each step of an exchange of maps, and ends it there by an error. Tests of this package set it.
	steps func(string) error
	// Log is told what deserves a look. Nil discards it.
	Log *slog.Logger
}

// Dataplane is the loaded programs and their maps. Its methods may be called from any goroutine, those that
// attach from one at a time.
type Dataplane struct {
	log       *slog.Logger
	options   Options
	switches  map[string]any // the programs' constants
	pinDir    string
	maps      map[string]*ebpf.Map
	positions *ebpf.Memory
	maglev    *maglevTables
	programs          // present, each nil until loaded
	hooks     []hook  // the socket hooks, attached or not
	ports     *ports  // the interfaces
	wires     wires   // the uplinks' programs before the packet programs
	walker    *walker // of sockets whose backend is gone
	counts    counts
	tunnelTo  atomic.Uint32  // the index of the device that wraps; 0: none
	strict    atomic.Uint64  // uplinks that check sources: see CheckSources
	older     older          // what pins of an older layout hold, until TakeOver
	later     []func() error // what is to be attached then

	oldSockets map[string]*ebpf.Map // of layout 1, by their names in the programs; sockets can't be copied
}

// Load opens the pinned maps, or makes them, and loads the programs. It attaches nothing and writes to no map.
// On an error nothing stays behind but the maps that were pinned.
func Load(options Options) (_ *Dataplane, err error) {
	d := &Dataplane{log: options.Log, options: options, pinDir: options.PinDir, counts: counts{entries: map[string]int{}}}
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
	before, err := pinnedTunnel(d.pinDir)
	if err != nil {
		return nil, err
	}
	d.tunnelTo.Store(before)
	if err := d.loadMapsAndPrograms(); err != nil {
		return nil, err
	}
	if d.positions, err = d.maps[positionsMap].Memory(); err != nil {
		return nil, fmt.Errorf("map the positions into memory: %w", err)
	}
	if d.maglev, err = openMaglev(d.maps[maglevMap]); err != nil {
		return nil, err
	}
	d.hooks = socketHooks()
	d.ports, err = openPorts(d)
	return d, err
}

// loadMapsAndPrograms decides between the ways to begin: with the maps as they are, with some made anew in another
// size, or beside those of an older layout.
func (d *Dataplane) loadMapsAndPrograms() error {
	var err error
	if d.switches, err = switchesFor(d.options, d.log); err != nil {
		return err
	}
	files, err := readFiles(d.switches)
	if err != nil {
		return err
	}
	if d.older, err = openOlder(d.pinDir, d.log); err != nil {
		return err
	}
	if err := d.adoptSockets(); err != nil {
		return err
	}
	var resized resizing
	if d.maps, resized, err = openMaps(files, d.options, d.log); err != nil {
		return err
	}
	defer resized.close()
	switch {
	case d.older.exists():
		err = d.loadBesideOlder(resized)
	case len(resized) > 0:
		err = d.resize(resized)
	default:
		err = d.loadPrograms(adoption{})
	}
	if err != nil {
		return err
	}
	d.walker = d.openWalker(files.iterators)
	return d.tell()
}

// loadBesideOlder loads programs that take over from an older layout. A take-over that broke off may have left maps of this
// layout in another size: no program counts on these alone, so they are exchanged at once.
func (d *Dataplane) loadBesideOlder(resized resizing) error {
	if err := d.copyAll(resized, func(string) bool { return true }); err != nil {
		return err
	}
	if err := d.repinAll(resized); err != nil {
		return err
	}
	return d.loadPrograms(d.older.adoption())
}

// Map returns the map that user space writes. It is closed with the Dataplane.
func (d *Dataplane) Map(m abi.Map) *ebpf.Map { return d.maps[m.String()] }

// Close lets go of everything. What is pinned goes on working, what is not ends.
func (d *Dataplane) Close() {
	if d == nil {
		return
	}
	if d.ports != nil {
		d.ports.close()
	}
	d.wires.close()
	if d.walker != nil {
		d.walker.close()
	}
	for i := range d.hooks {
		d.hooks[i].close()
	}
	d.programs.close()
	d.older.close()
	d.maglev.close()
	for _, m := range d.maps {
		m.Close()
	}
	for _, m := range d.oldSockets {
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
	return errors.Join(removeNext(mapsDir(d.pinDir)), removeNext(linksDir(d.pinDir)))
}
