// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// dataplane is what the tables go to, and what comes from there.
type dataplane interface {
	maps.Maps
	// attachSockets gives the node's sockets their programs.
	attachSockets() error
	// takeOver exchanges programs of another layout, if there are any, for the present ones.
	takeOver() error
	// attachPod gives an interface the packet programs; detachPod takes them off; attachedPods lists those that have.
	attachPod(ifindex int) error
	detachPod(ifindex int) error
	attachedPods() []int
	// The same for the interfaces that lead out of the node.
	attachUplink(ifindex int) error
	detachUplink(ifindex int) error
	attachedUplinks() []int
	// fitXDP gives uplinks their XDP program, or takes it off, and returns how each stands.
	fitXDP() ([]bpf.Wire, error)
	// epoch is how often what judges pods' connections has changed; 0 while there are no policies in the tables.
	epoch() (uint32, error)
	// connections calls each with pods' connections until it returns false; serviceOf has the set that one was dialled by.
	connections(ctx context.Context, each func(*abi.ConnectionKey, *abi.Connection) bool) error
	serviceOf(key *abi.ConnectionKey) (set uint32, err error)
	// ruleHits has how many connections each rule decided, until forgetHits.
	ruleHits() (map[model.RuleID]uint64, error)
	forgetHits(rules []model.RuleID) error
	// serviceCounts has what was dropped of each Service and the flows that began, until forgetCounts, and how often
	// there was no room for them.
	serviceCounts() (counts map[abi.CountKey]uint64, uncounted uint64, err error)
	forgetCounts(keys []abi.CountKey) error
	// setLocals and setUplinks tell the programs what was found of the node.
	setLocals(addresses map[netip.Addr]uint8) error
	setUplinks(uplinks map[int]abi.Uplink) error
	// checkSources says at which uplinks the kernel drops IPv4 whose source is reached by another.
	checkSources(uplinks []int) error
	// attachTunnel gives the device between nodes its program, which keeps out what others send to it.
	attachTunnel(ifindex int) error
	// useTunnel says by which device packets go to other nodes and come from them; 0 is none.
	useTunnel(ifindex int) error
	// networksWritten counts the writes to the table of networks; setServiceNetworks tells the programs of those.
	networksWritten() uint64
	setServiceNetworks(prefixes []netip.Prefix) error
	// gone is readable after backends were removed; moveSockets takes connected sockets away from those.
	gone() <-chan struct{}
	moveSockets() (bpf.Moves, error)
	// sweep deletes flows that are over.
	sweep(ctx context.Context) (bpf.Swept, error)
	// drops calls each until ctx ends; dropCounts has the sums by reason's word.
	drops(ctx context.Context, each func(abi.DropEvent)) error
	dropCounts() (map[string]uint64, error)
	close()
}

// openDataplane opens the kernel's maps and loads the programs, or makes maps in memory. Nothing is attached yet: what
// an earlier run attached goes on with what it has until the tables are filled.
func openDataplane(s *settings, log *slog.Logger) (dataplane, error) {
	if s.maps == mapsMemory {
		log.Warn("the tables are kept in memory: nothing is forwarded")
		return inMemory{maps.NewMemory(s.capacities)}, nil
	}
	capacities := map[abi.Map]uint32{}
	for m, n := range s.capacities {
		capacities[abi.Map(m)] = n
	}
	loaded, err := bpf.Load(bpf.Options{
		PinDir: s.pinDir, Capacities: capacities, Flows: s.flows, Affinities: s.affinities, Connections: s.connections, MaglevSize: s.maglevSize, ServiceCounts: s.counts, Timeouts: s.timeouts,
		PolicyReject: s.policyReject, KeepEstablished: s.keepEstablished, CheckSources: s.checkSources, MasqueradeAll: s.masqueradeAll, XDP: s.xdp, Log: log,
		Node: s.tunnel.Node, Tunnel: bpf.Tunnel{VNI: s.tunnelVNI, Port: s.tunnel.Port},
	})
	if err != nil {
		if reason := bpf.Probe(); reason != nil {
			err = fmt.Errorf("%w (%w); --maps memory runs without", err, reason)
		}
		return nil, fmt.Errorf("load the data plane: %w", err)
	}
	kernel, err := maps.NewKernel(loadedPlane{loaded})
	if err != nil {
		loaded.Close()
		return nil, err
	}
	return &inKernel{Kernel: kernel, loaded: loaded, cgroup: s.cgroup, timeouts: s.timeouts, removed: make(chan struct{}, 1)}, nil
}

// loadedPlane has the grace period as a method, as maps.Plane wants it.
type loadedPlane struct{ *bpf.Dataplane }

// Grace implements maps.Plane.
func (loadedPlane) Grace() error { return bpf.Grace() }

type inKernel struct {
	*maps.Kernel
	loaded   *bpf.Dataplane
	cgroup   string
	timeouts bpf.Timeouts
	removed  chan struct{}
	networks atomic.Uint64
}

// Write implements maps.Maps, and notes what must be followed up once it is done.
func (k *inKernel) Write(writes []maps.Write) error {
	err := k.Kernel.Write(writes)
	for i := range writes {
		switch w := &writes[i]; {
		case w.Map == abi.Networks:
			k.networks.Add(1)
		case w.Map == abi.Backends && w.Value == nil:
			select {
			case k.removed <- struct{}{}:
			default: // the loop that is to see it is yet to start
			}
		}
	}
	return err
}

// attachSockets is called once the tables are filled: from then on an older version's programs and maps can go.
func (k *inKernel) attachSockets() error {
	if err := k.loaded.TakeOver(); err != nil {
		return err
	}
	return k.loaded.AttachCgroup(k.cgroup)
}

func (k *inKernel) takeOver() error                { return k.loaded.TakeOver() }
func (k *inKernel) attachPod(ifindex int) error    { return k.loaded.AttachPod(ifindex) }
func (k *inKernel) detachPod(ifindex int) error    { return k.loaded.DetachPod(ifindex) }
func (k *inKernel) attachedPods() []int            { return k.loaded.AttachedPods() }
func (k *inKernel) attachUplink(ifindex int) error { return k.loaded.AttachUplink(ifindex) }
func (k *inKernel) detachUplink(ifindex int) error { return k.loaded.DetachUplink(ifindex) }
func (k *inKernel) attachedUplinks() []int         { return k.loaded.AttachedUplinks() }
func (k *inKernel) fitXDP() ([]bpf.Wire, error)    { return k.loaded.FitXDP() }
func (k *inKernel) networksWritten() uint64        { return k.networks.Load() }
func (k *inKernel) gone() <-chan struct{}          { return k.removed }
func (k *inKernel) close()                         { k.loaded.Close() }

func (k *inKernel) epoch() (uint32, error) { return k.loaded.Epoch() }

func (k *inKernel) connections(ctx context.Context, each func(*abi.ConnectionKey, *abi.Connection) bool) error {
	return k.loaded.Connections(ctx, each)
}

func (k *inKernel) serviceOf(key *abi.ConnectionKey) (uint32, error) { return k.loaded.ServiceOf(key) }

func (k *inKernel) ruleHits() (map[model.RuleID]uint64, error) { return k.loaded.RuleHits() }

func (k *inKernel) forgetHits(rules []model.RuleID) error { return k.loaded.ForgetHits(rules) }

func (k *inKernel) serviceCounts() (map[abi.CountKey]uint64, uint64, error) {
	return k.loaded.ServiceCounts()
}

func (k *inKernel) forgetCounts(keys []abi.CountKey) error { return k.loaded.ForgetCounts(keys) }

func (k *inKernel) setLocals(addresses map[netip.Addr]uint8) error {
	return k.loaded.SetLocals(addresses)
}

func (k *inKernel) setUplinks(uplinks map[int]abi.Uplink) error { return k.loaded.SetUplinks(uplinks) }

func (k *inKernel) checkSources(uplinks []int) error { return k.loaded.CheckSources(uplinks) }

func (k *inKernel) attachTunnel(ifindex int) error { return k.loaded.AttachTunnel(ifindex) }

func (k *inKernel) useTunnel(ifindex int) error { return k.loaded.UseTunnel(ifindex) }

func (k *inKernel) setServiceNetworks(prefixes []netip.Prefix) error {
	return k.loaded.SetServiceNetworks(prefixes)
}

func (k *inKernel) moveSockets() (bpf.Moves, error) { return k.loaded.MoveSockets() }

func (k *inKernel) sweep(ctx context.Context) (bpf.Swept, error) {
	now, err := bpf.NowSeconds()
	if err != nil {
		return bpf.Swept{}, err
	}
	return k.loaded.Sweep(ctx, k.timeouts, now)
}

func (k *inKernel) drops(ctx context.Context, each func(abi.DropEvent)) error {
	return k.loaded.Drops(ctx, each)
}

func (k *inKernel) dropCounts() (map[string]uint64, error) {
	counts, err := k.loaded.DropCounts()
	words := make(map[string]uint64, len(counts))
	for reason, n := range counts {
		words[reason.String()] = n
	}
	return words, err
}

type inMemory struct{ *maps.Memory }

var errMemory = errors.New("tables in memory have no programs")

func (inMemory) attachSockets() error                     { return nil }
func (inMemory) takeOver() error                          { return nil }
func (inMemory) attachPod(int) error                      { return errMemory }
func (inMemory) detachPod(int) error                      { return nil }
func (inMemory) attachedPods() []int                      { return nil }
func (inMemory) attachUplink(int) error                   { return errMemory }
func (inMemory) detachUplink(int) error                   { return nil }
func (inMemory) attachedUplinks() []int                   { return nil }
func (inMemory) fitXDP() ([]bpf.Wire, error)              { return nil, nil }
func (inMemory) epoch() (uint32, error)                   { return 0, nil }
func (inMemory) setLocals(map[netip.Addr]uint8) error     { return nil }
func (inMemory) setUplinks(map[int]abi.Uplink) error      { return nil }
func (inMemory) checkSources([]int) error                 { return nil }
func (inMemory) attachTunnel(int) error                   { return nil }
func (inMemory) useTunnel(int) error                      { return nil }
func (inMemory) networksWritten() uint64                  { return 0 }
func (inMemory) setServiceNetworks([]netip.Prefix) error  { return nil }
func (inMemory) gone() <-chan struct{}                    { return nil }
func (inMemory) moveSockets() (bpf.Moves, error)          { return bpf.Moves{}, nil }
func (inMemory) sweep(context.Context) (bpf.Swept, error) { return bpf.Swept{}, nil }
func (inMemory) close()                                   {}

func (inMemory) drops(ctx context.Context, _ func(abi.DropEvent)) error {
	<-ctx.Done()
	return nil
}

func (inMemory) connections(context.Context, func(*abi.ConnectionKey, *abi.Connection) bool) error {
	return nil
}

func (inMemory) serviceCounts() (map[abi.CountKey]uint64, uint64, error) { return nil, 0, nil }

func (inMemory) serviceOf(*abi.ConnectionKey) (uint32, error) { return 0, nil }
func (inMemory) ruleHits() (map[model.RuleID]uint64, error)   { return nil, nil }
func (inMemory) forgetHits([]model.RuleID) error              { return nil }
func (inMemory) forgetCounts([]abi.CountKey) error            { return nil }
func (inMemory) dropCounts() (map[string]uint64, error)       { return nil, nil }
