// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/services/programmer/carry"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/healthcheck"
	"github.com/deltaplane/deltaplane/services/programmer/reporting"
)

// service is the shell around one core. One goroutine, loop, owns the driver and with it the maps; everything else
// sends it inputs, or functions to run between two inputs.
type service struct {
	settings   *settings
	log        *slog.Logger
	plane      dataplane
	driver     carry.Driver
	inputs     chan core.Input
	calls      chan func()
	link       link
	interfaces *interfaces
	metrics    *metrics
	balancers  *healthcheck.Servers // of healthCheckNodePorts
	health     health
	recent     recentDrops

	// Of the loop alone: whether the sockets have their programs, and the writes to networks that the programs know of.
	attached        bool
	failed          error // what ends the service
	networksWritten uint64
	followed        [2]model.Digest // the rows that were looked at
	followedAt      time.Time
}

// inputsMost bounds what waits for the loop. Whoever sends waits when it is full; the bus's own queue then fills, and
// what it drops is asked for again.
const inputsMost = 256

func serve(ctx context.Context, s *settings, log *slog.Logger) error {
	plane, err := openDataplane(s, log)
	if err != nil {
		return err
	}
	defer plane.close()
	return serveOn(ctx, s, log, plane)
}

// serveOn serves until ctx ends. What it returns then is nil.
func serveOn(ctx context.Context, s *settings, log *slog.Logger, plane dataplane) error {
	uses, err := plane.Use()
	if err != nil {
		return err
	}
	trust, err := keyfile.OpenTrust(s.trustedKeys, log)
	if err != nil {
		return fmt.Errorf("--trusted-keys: %w", err)
	}
	v := &service{
		settings: s, log: log, plane: plane,
		inputs: make(chan core.Input, inputsMost), calls: make(chan func()),
		metrics: newMetrics(uses),
	}
	config := core.Config{Node: s.node, Seed: rand.Uint64(), TableSlots: s.maglevSize}
	for _, use := range uses {
		config.Capacities[use.Map] = int(use.Capacity)
	}
	v.driver = carry.Driver{Core: core.New(config), Maps: plane, Now: time.Now, Defer: true, Background: true}
	v.interfaces = newInterfaces(plane, log, s.found, s.tunnel, v.problem(ctx, "hook"))
	v.interfaces.found = v.listenOn
	v.interfaces.leads = v.health.leads
	v.interfaces.tunnel.mortal = s.pinDir == ""
	v.balancers = healthcheck.New(func() bool { return v.health.state().Current() }, v.problem(ctx, "health_check"))
	v.balancers.On(nil)
	v.link.service, v.link.trust = v, trust
	v.link.reports = reporting.Writer{Node: v.settings.node, MapsKind: v.settings.maps, ChecksSeals: trust != nil}
	if trust == nil {
		log.Warn("NOTHING ON THE BUS IS CHECKED: whoever may publish there decides about this node's packets; give --trusted-keys")
	} else {
		v.metrics.checked.Set(1)
	}
	proxy := healthcheck.Proxy{State: v.health.state, Told: v.metrics.asked}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.loop(ctx) })
	g.Go(func() error { return v.link.run(ctx) })
	g.Go(func() error { return telemetry.Serve(ctx, s.Listen, v.metrics.registry, v.checks()...) })
	g.Go(func() error { return v.watchDrops(ctx) })
	if s.maps == mapsKernel {
		g.Go(func() error { return v.interfaces.run(ctx) })
		g.Go(func() error { return v.balancers.Run(ctx) })
		g.Go(func() error { return proxy.Run(ctx, s.healthz, v.problem(ctx, "healthz")) })
		g.Go(func() error { return v.moveSockets(ctx) })
		g.Go(func() error { return v.sweep(ctx) })
	}
	err = g.Wait()
	log.Info("the programmer stops; what is pinned in the kernel goes on forwarding")
	return err
}

// loop puts inputs into the core and does what it wants.
func (v *service) loop(ctx context.Context) error {
	tick := time.NewTicker(core.TickInterval)
	defer tick.Stop()
	v.step(ctx, core.Tick{})
	for v.failed == nil {
		select {
		case <-ctx.Done():
			v.driver.Finish()
			return nil
		case err := <-v.driver.Late():
			v.do(ctx, v.driver.Finish(err))
		case <-tick.C:
			v.step(ctx, core.Tick{})
			v.health.update(v.driver.Core)
			v.metrics.update(v.driver.Core)
			v.follow(ctx, time.Now())
		case in := <-v.inputs:
			v.step(ctx, in)
		case call := <-v.calls:
			call()
		}
	}
	v.driver.Finish()
	return v.failed
}

func (v *service) step(ctx context.Context, in core.Input) {
	todo := v.driver.Step(in)
	v.tellNetworks()
	v.do(ctx, todo)
}

// do does what the core wants and has nothing to do with maps.
func (v *service) do(ctx context.Context, todo []core.Effect) {
	for len(todo) > 0 {
		e := todo[0]
		todo = todo[1:]
		switch e := e.(type) {
		case core.Sync:
			v.link.sync(ctx, e)
		case core.Report:
			v.metrics.applied(e.Deltas)
			v.logApplied(e.Deltas)
			if !v.link.report(e, v.drops()) {
				todo = append(todo, v.driver.Step(core.Unreported{Deltas: e.Deltas})...)
			}
		case core.Event:
			v.logEvent(e)
			v.link.event(e)
		case core.Endpoints:
			v.attach(e)
		case core.Elsewhere:
			v.link.elsewhere()
		default:
			panic(fmt.Sprintf("programmer: effect of type %T", e))
		}
	}
}

// send gives the loop an input, and waits while it has too many.
func (v *service) send(ctx context.Context, in core.Input) {
	select {
	case v.inputs <- in:
	case <-ctx.Done():
	}
}

// within runs f between two inputs, and returns when it has run.
func (v *service) within(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case v.calls <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drops returns the counts of drops so far; none if they can't be read, which is logged.
func (v *service) drops() map[string]uint64 {
	counts, err := v.plane.dropCounts()
	if err != nil {
		v.log.Warn("the drop counters can't be read", "error", err)
	}
	v.metrics.droppedSoFar(counts)
	return counts
}

func (v *service) logApplied(deltas []core.AppliedDelta) {
	for _, d := range deltas {
		var cause string
		if len(d.Causes) > 0 {
			cause = d.Causes[0].String()
		}
		v.log.Info("applied", "layer", d.Layer.String(), "epoch", d.Epoch, "revision", d.To, "writes", d.Writes,
			"bytes", d.Bytes, "latency", d.Latency, "object", cause, "causes", len(d.Causes))
	}
}

func (v *service) logEvent(e core.Event) {
	level := slog.LevelInfo
	if e.Warning {
		level = slog.LevelWarn
	}
	v.log.Log(context.Background(), level, "event", "kind", e.Kind, "text", e.Text)
}

func (v *service) checks() []telemetry.Check {
	return []telemetry.Check{
		{Name: "loop", Live: true, Run: func(context.Context) error { return v.health.alive() }},
		{Name: "tables", Run: func(context.Context) error { return v.health.ready() }},
		{Name: "bus", Run: func(context.Context) error { return v.link.connected() }},
		{Name: "sync", Run: func(context.Context) error { return v.health.synced() }},
	}
}

// actual is what the maps hold, read from them and not from memory.
func (v *service) actual(ctx context.Context) (rows []model.Rows, positions map[model.Layer]model.Position, err error) {
	errWithin := v.within(ctx, func() {
		v.do(ctx, v.driver.Finish())
		state, errLoad := v.driver.Load()
		if errLoad != nil {
			err = errLoad
			return
		}
		for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
			rows = append(rows, state.Tables(kind).Rows())
		}
		positions = v.driver.Core.Positions()
		for l, p := range positions {
			p.Digest = state.Digest(l.Kind)
			positions[l] = p
		}
	})
	return rows, positions, errors.Join(errWithin, err)
}
