// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/node"
)

// attach gives interfaces and sockets their programs once the tables hold what a compiler said: until then the programs
// of an earlier run go on with the tables that they have. The first time it is done at once, so that a node that says
// how far it has come also forwards so.
func (v *service) attach(e core.Endpoints) {
	if !e.Complete {
		return
	}
	if !v.attached {
		if v.failed = v.attachFirst(e.Wanted); v.failed != nil {
			return
		}
		v.attached = true
	}
	v.interfaces.want(e.Wanted)
}

func (v *service) attachFirst(wanted []model.Endpoint) error {
	if v.settings.maps == mapsKernel {
		if err := v.interfaces.look(wanted, time.Now()); err != nil {
			v.log.Warn("trying again", "error", err)
		}
	}
	if err := v.plane.attachSockets(); err != nil {
		return err
	}
	return v.plane.takeOver()
}

// tellNetworks tells the programs which addresses are Services' after the table of networks was written.
func (v *service) tellNetworks() {
	written, state := v.plane.networksWritten(), v.driver.Core.State()
	if written == v.networksWritten || state == nil {
		return
	}
	var prefixes []netip.Prefix
	for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
		for _, n := range state.Tables(kind).Networks {
			if n.Kind == model.NetworkServices {
				prefixes = append(prefixes, n.Prefix)
			}
		}
	}
	if err := v.plane.setServiceNetworks(prefixes); err != nil {
		v.log.Warn("packets to addresses that no Service has are not told apart", "error", err)
	}
	v.networksWritten = written
}

const (
	// moveEvery bounds how often sockets are walked over, however many backends go.
	moveEvery = 500 * time.Millisecond
	// moveAgain is when they are walked over again though no backend went: sockets that moved keep their flows by it.
	moveAgain = 10 * time.Second
)

// moveSockets takes connected sockets away from backends that are gone.
func (v *service) moveSockets(ctx context.Context) error {
	again := time.NewTimer(moveAgain) // what a process before this one moved needs it too
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.plane.gone():
		case <-again.C:
		}
		moves, err := v.plane.moveSockets()
		if err != nil {
			v.log.Warn("connected sockets stay with backends that are gone", "error", err)
		} else if moves.Moved+moves.Ended+moves.Destroyed > 0 {
			v.log.Info("moved sockets", "walked", moves.Walked, "moved", moves.Moved, "ended", moves.Ended,
				"destroyed", moves.Destroyed)
		}
		if err != nil || moves.Again() {
			again.Reset(moveAgain)
		}
		if wait(ctx, moveEvery) != nil {
			return nil
		}
	}
}

// sweepEvery is how often flows and connections that are over are looked for: well below the shortest time that one is kept.
const sweepEvery = 5 * time.Second

func (v *service) sweep(ctx context.Context) error {
	for wait(ctx, sweepEvery) == nil {
		swept, err := v.plane.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			v.log.Warn("flows that are over stay", "error", err)
		}
		v.metrics.swept(swept)
		v.health.swept(swept)
		if err := v.countRules(ctx); err != nil {
			v.log.Warn("what rules decided is not counted", "error", err)
		}
		if err := v.countServices(ctx); err != nil {
			v.log.Warn("what became of Services' packets is not counted", "error", err)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// problem returns what tells the core of a fault of some kind.
func (v *service) problem(ctx context.Context, kind string) func(string) {
	return func(text string) { v.send(ctx, core.Hooks{Kind: kind, Problem: text}) }
}

// followEvery bounds how often all frontends are looked at.
const followEvery = time.Second

// follow tells load balancers' servers and metrics what the rows say, if they changed.
func (v *service) follow(ctx context.Context, now time.Time) {
	state := v.driver.Core.State()
	if state == nil || now.Sub(v.followedAt) < followEvery {
		return
	}
	digests := [2]model.Digest{state.Digest(model.LayerCluster), state.Digest(model.LayerNode)}
	if digests == v.followed && !v.followedAt.IsZero() {
		return
	}
	v.followed, v.followedAt = digests, now
	v.balancers.Want(healthChecks(state))
	v.do(ctx, v.driver.Step(core.Hooks{Kind: core.Pressure, Problem: pressure(v.uses(state.Entries()))}))
	v.metrics.withoutLocal(withoutLocal(state))
}

// listenOn says at which addresses healthCheckNodePorts are served: those of NodePorts.
func (v *service) listenOn(found node.Found) {
	var addresses []netip.Addr
	if len(v.settings.found.NodePortAddresses) > 0 {
		for addr, flags := range found.Locals {
			if flags&abi.LocalNodePort != 0 {
				addresses = append(addresses, addr)
			}
		}
		slices.SortFunc(addresses, netip.Addr.Compare)
	}
	v.balancers.On(addresses)
}

// pressurePercent is how full a map is when people should know, in time to give it more room.
const pressurePercent = 90

// pressure names the maps that are nearly full.
func pressure(uses []*schemas.MapUse) string {
	var full []string
	for _, u := range uses {
		if u.GetCapacity() > 1 && u.GetEntries()*100 >= u.GetCapacity()*pressurePercent {
			full = append(full, fmt.Sprintf("map %s has %d of %d entries in use", u.GetName(), u.GetEntries(), u.GetCapacity()))
		}
	}
	if len(full) == 0 {
		return ""
	}
	return strings.Join(full, "; ") + ": give it more room in the programmer's configuration"
}
