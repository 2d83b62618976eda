// SPDX-License-Identifier: Apache-2.0

// Package virtual has nodes without machines: each is the programmer's real core on maps in memory, with a connection to
// the bus of its own. What the real service has besides (metrics, interfaces, sweeps of connections) is left out, and the
// core is told of the time less often, so that thousands fit one machine.
//
// It promises that a virtual node hears, asks for and reports what a real one does, on the same subjects. The one thing
// to know: the loop here is the loop of services/programmer with less in it; what changes there in how messages are
// read must change here.
package virtual

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/carry"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/reporting"
	"github.com/deltaplane/deltaplane/services/programmer/resync"
)

// inputsMost bounds what waits for a node's loop, as in the service.
const inputsMost = 256

// syncWithin bounds one answer to a question, as in the service.
const syncWithin = time.Minute

// node is one virtual node. It may be stopped and started again on the same maps.
type node struct {
	name    string
	fleet   *Fleet
	maps    *maps.Memory
	driver  carry.Driver
	who     func() (bus.Identity, error)
	conn    *bus.Conn
	inputs  chan core.Input
	reports reporting.Writer // the loop's
	syncs   sync.WaitGroup

	stop    context.CancelFunc
	running sync.WaitGroup
	current atomic.Bool
	began   time.Time
	lost    time.Time // the connection; for what the bus calls, one after the other
}

// start connects and runs the node until halt.
func (n *node) start(ctx context.Context) error {
	capacities := n.fleet.options.Capacities
	if n.maps == nil {
		n.maps = maps.NewMemory(capacities)
	}
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(n.name)) // never fails
	config := core.Config{Node: n.name, Seed: seed.Sum64()}
	for m, c := range capacities {
		config.Capacities[m] = int(c)
	}
	n.driver = carry.Driver{Core: core.New(config), Maps: n.maps, Now: time.Now, Defer: true}
	n.inputs = make(chan core.Input, inputsMost)
	n.reports = reporting.Writer{Node: n.name, MapsKind: "memory"}
	n.current.Store(false)
	n.began = time.Now()
	ctx, n.stop = context.WithCancel(ctx)
	if err := n.join(); err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Options{
		URL: n.fleet.options.URL, Name: "programmer " + n.name, Identity: n.who, RootCAFile: n.fleet.options.CA,
		OnDisconnect: func(error) { n.lost = time.Now() },
		OnReconnect: func() {
			n.fleet.counts.reconnects.Add(1)
			n.fleet.ledger.back(time.Since(n.lost))
			n.send(ctx, core.Reconnected{})
		},
		OnDropped: func(string, int) {
			n.fleet.counts.dropped.Add(1)
			n.send(ctx, core.Reconnected{})
		},
	})
	if err != nil {
		return err
	}
	n.conn = conn
	n.running.Go(func() { n.loop(ctx) })
	if err := n.listen(ctx); err != nil {
		return err
	}
	n.send(ctx, core.Reconnected{})
	return nil
}

// halt ends the node as a kill would: nothing is said.
func (n *node) halt() {
	if n.stop == nil {
		return
	}
	n.stop()
	n.running.Wait()
	n.syncs.Wait()
	if n.conn != nil {
		n.conn.Close()
	}
}

func (n *node) send(ctx context.Context, in core.Input) {
	select {
	case n.inputs <- in:
	case <-ctx.Done():
	}
}

func (n *node) loop(ctx context.Context) {
	tick := time.NewTicker(n.fleet.options.Tick)
	defer tick.Stop()
	n.do(ctx, n.driver.Step(core.Tick{}))
	for {
		var in core.Input = core.Tick{}
		late := n.driver.Late()
		select {
		case <-ctx.Done():
			n.driver.Finish()
			return
		case err := <-late:
			n.do(ctx, n.driver.Finish(err))
			continue
		case <-tick.C:
		case in = <-n.inputs:
		}
		n.do(ctx, n.driver.Step(in))
		if !n.current.Load() && n.driver.Core.Current() {
			n.current.Store(true)
			n.fleet.ledger.whole(time.Since(n.began))
		}
	}
}

func (n *node) do(ctx context.Context, todo []core.Effect) {
	for _, e := range todo {
		switch e := e.(type) {
		case core.Sync:
			n.sync(ctx, e)
		case core.Report:
			n.report(e)
		case core.Event:
			n.fleet.counts.events.Add(1)
			if e.Warning {
				n.fleet.ledger.warn(n.name + ": " + e.Text)
			}
		case core.Endpoints, core.Elsewhere: // no interfaces here, and one server
		default:
			panic(fmt.Sprintf("virtual: effect of type %T", e))
		}
	}
}

func (n *node) listen(ctx context.Context) error {
	for _, layer := range []model.Layer{model.ClusterLayer, model.NodeLayer(n.name)} {
		var deltas resync.Deltas
		_, err := n.conn.Subscribe(schemas.ApplySubject(layer.String()), func(m bus.Message) {
			n.fleet.counts.deltas.add(len(m.Data))
			var d core.Delta
			var complete bool
			body, err := n.fleet.trust.Open(seal.Delta, m.Data)
			if err == nil {
				d, complete, err = deltas.Add(body)
			}
			switch {
			case err != nil:
				n.foreign(ctx, m.Subject, err)
			case complete:
				n.send(ctx, d)
			}
		})
		if err != nil {
			return err
		}
	}
	_, err := n.conn.Subscribe(schemas.SubjectHeartbeat, func(m bus.Message) {
		n.fleet.counts.heartbeats.add(len(m.Data))
		var h wire.Heartbeat
		body, err := n.fleet.trust.Open(seal.Heartbeat, m.Data)
		if err == nil {
			h, err = wire.DecodeHeartbeat(body)
		}
		if err != nil {
			n.foreign(ctx, m.Subject, err)
			return
		}
		n.send(ctx, core.Heartbeat(h))
	})
	// Nobody asks here; they are subscriptions that the server has to keep.
	for _, subject := range []string{schemas.ActualSubject(n.name), schemas.FlowsSubject(n.name)} {
		if err == nil {
			_, err = n.conn.Respond(subject, "", func(context.Context, []byte, func([]byte) error) {})
		}
	}
	return err
}

func (n *node) foreign(ctx context.Context, subject string, err error) {
	n.send(ctx, core.Foreign{Subject: subject, Err: err, Unsealed: errors.Is(err, seal.ErrUnsealed)})
}

func (n *node) sync(ctx context.Context, e core.Sync) {
	n.syncs.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, syncWithin)
		defer cancel()
		ended := n.ask(ctx, e)
		if ended.Err != nil {
			n.fleet.counts.syncsFailed.Add(1)
		}
		n.send(ctx, ended)
	})
}

func (n *node) ask(ctx context.Context, e core.Sync) core.SyncEnded {
	answer := resync.Answer{Open: n.fleet.trust.Open}
	request, err := resync.Request(n.name, e)
	if err != nil {
		return answer.End(err)
	}
	n.fleet.counts.asked.add(len(request))
	err = n.conn.RequestMany(ctx, schemas.SyncSubject(n.name), request, e.Within, func(message []byte) (bool, error) {
		n.fleet.counts.answers.add(len(message))
		in, more, err := answer.Add(message)
		if in != nil {
			n.send(ctx, in)
		}
		return more, err
	})
	if errors.Is(err, bus.ErrNobody) {
		err = fmt.Errorf("no compiler answers: %w", err)
	}
	return answer.End(err)
}

func (n *node) report(r core.Report) {
	var uses []*schemas.MapUse
	for m, entries := range r.Entries {
		uses = append(uses, &schemas.MapUse{
			Name: abi.Map(m).String(), Entries: uint64(entries), Capacity: uint64(n.fleet.options.Capacities[m]),
		})
	}
	for _, d := range r.Deltas {
		n.fleet.ledger.applied(d)
	}
	data, err := proto.Marshal(n.reports.Write(time.Now(), r, reporting.Holds{Uses: uses}))
	if err != nil {
		panic("virtual: encode a report of our own: " + err.Error())
	}
	keep := time.Duration(0)
	if r.Idle {
		keep = schemas.IdleReportTTL
	}
	n.fleet.counts.reports.add(len(data))
	if err := n.conn.PublishExpiring(schemas.AppliedSubject(n.name), data, keep); err != nil {
		n.fleet.counts.unsent.Add(1)
		n.reports.Lost()
	}
}
