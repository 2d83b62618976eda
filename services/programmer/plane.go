// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// dataplane is what the tables go to, and what comes from there.
type dataplane interface {
	maps.Maps
	// attachPod gives an interface the packet programs; detachPod takes them off; attachedPods lists those that have.
	attachPod(ifindex int) error
	detachPod(ifindex int) error
	attachedPods() []int
	// drops calls each until ctx ends; dropCounts has the sums by reason's word.
	drops(ctx context.Context, each func(abi.DropEvent)) error
	dropCounts() (map[string]uint64, error)
	close()
}

// openDataplane opens the kernel's maps and attaches the socket hooks, or makes maps in memory.
func openDataplane(s *settings, log *slog.Logger) (dataplane, error) {
	if s.maps == mapsMemory {
		log.Warn("the tables are kept in memory: nothing is forwarded")
		return inMemory{maps.NewMemory(s.capacities)}, nil
	}
	capacities := map[abi.Map]uint32{}
	for m, n := range s.capacities {
		capacities[abi.Map(m)] = n
	}
	loaded, err := bpf.Load(bpf.Options{PinDir: s.pinDir, Capacities: capacities, Flows: s.flows, Log: log})
	if err != nil {
		if reason := bpf.Probe(); reason != nil {
			err = fmt.Errorf("%w (%w); --maps memory runs without", err, reason)
		}
		return nil, fmt.Errorf("load the data plane: %w", err)
	}
	kernel, err := maps.NewKernel(loadedPlane{loaded})
	if err == nil {
		err = loaded.AttachCgroup(s.cgroup)
	}
	if err != nil {
		loaded.Close()
		return nil, err
	}
	return inKernel{kernel, loaded}, nil
}

// loadedPlane has the grace period as a method, as maps.Plane wants it.
type loadedPlane struct{ *bpf.Dataplane }

// Grace implements maps.Plane.
func (loadedPlane) Grace() error { return bpf.Grace() }

type inKernel struct {
	*maps.Kernel
	loaded *bpf.Dataplane
}

func (k inKernel) attachPod(ifindex int) error { return k.loaded.AttachPod(ifindex) }
func (k inKernel) detachPod(ifindex int) error { return k.loaded.DetachPod(ifindex) }
func (k inKernel) attachedPods() []int         { return k.loaded.AttachedPods() }
func (k inKernel) close()                      { k.loaded.Close() }

func (k inKernel) drops(ctx context.Context, each func(abi.DropEvent)) error {
	return k.loaded.Drops(ctx, each)
}

func (k inKernel) dropCounts() (map[string]uint64, error) {
	counts, err := k.loaded.DropCounts()
	words := make(map[string]uint64, len(counts))
	for reason, n := range counts {
		words[reason.String()] = n
	}
	return words, err
}

type inMemory struct{ *maps.Memory }

var errMemory = errors.New("tables in memory have no programs")

func (inMemory) attachPod(int) error { return errMemory }
func (inMemory) detachPod(int) error { return nil }
func (inMemory) attachedPods() []int { return nil }
func (inMemory) close()              {}

func (inMemory) drops(ctx context.Context, _ func(abi.DropEvent)) error {
	<-ctx.Done()
	return nil
}

func (inMemory) dropCounts() (map[string]uint64, error) { return nil, nil }
