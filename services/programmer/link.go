// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/reporting"
	"github.com/deltaplane/deltaplane/services/programmer/resync"
)

// link is the way to the bus. The bus may be away, at the start or later: then nothing comes and nothing goes, and the
// service goes on with what it has.
type link struct {
	service *service
	trust   *keyfile.Trust
	conn    atomic.Pointer[bus.Conn]
	syncs   sync.WaitGroup
	reports reporting.Writer // the loop's

	mu     sync.Mutex
	unsaid []*schemas.Event // while the bus was away
}

// unsaidMost bounds what is kept to be said later; the oldest is given up.
const unsaidMost = 256

var errAway = errors.New("the bus was not reached yet")

// run connects, listens, and waits for ctx.
func (l *link) run(ctx context.Context) error {
	options, member, err := l.options(ctx)
	if err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, options)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() {
		l.syncs.Wait()
		conn.Close()
	}()
	if err := l.listen(ctx, conn); err != nil {
		return err
	}
	l.conn.Store(conn)
	l.back(ctx)
	group, ctx := errgroup.WithContext(ctx)
	if member != nil {
		member.connected()
		group.Go(func() error { member.keep(ctx, conn); return nil })
	}
	group.Go(func() error { return conn.Ended(ctx) })
	return group.Wait()
}

// options say where the bus is and how this node is known there. A node that joins is a member.
func (l *link) options(ctx context.Context) (bus.Options, *member, error) {
	v := l.service
	options := bus.Options{
		URL: v.settings.Bus, Name: "programmer " + v.settings.node, Log: v.log,
		User:            schemas.User(v.settings.node),
		CredentialsFile: v.settings.BusCredentials, RootCAFile: v.settings.BusCA,
		OnReconnect: func() { l.back(ctx) },
		// What was lost is found as a gap; asking at once is faster.
		OnDropped: func(string, int) { v.send(ctx, core.Reconnected{}) },
	}
	if v.settings.joinCredentials == "" {
		return options, nil, nil
	}
	member, err := newMember(v.settings, v.log)
	if err != nil {
		return options, nil, err
	}
	options.Identity = member.identity
	options.OnReconnect = func() { member.connected(); l.back(ctx) }
	return options, member, nil
}

// back says what could not be said, and lets the core ask for what it missed.
func (l *link) back(ctx context.Context) {
	l.sayRest()
	l.service.send(ctx, core.Reconnected{})
}

func (l *link) listen(ctx context.Context, conn *bus.Conn) error {
	v := l.service
	for _, layer := range []model.Layer{model.ClusterLayer, model.NodeLayer(v.settings.node)} {
		var deltas resync.Deltas
		_, err := conn.Subscribe(schemas.ApplySubject(layer.String()), func(m bus.Message) {
			var d core.Delta
			var complete bool
			body, err := l.trust.Open(seal.Delta, m.Data)
			if err == nil {
				d, complete, err = deltas.Add(body)
			}
			switch {
			case err != nil:
				l.foreign(ctx, m.Subject, err)
			case complete:
				v.send(ctx, d)
			}
		})
		if err != nil {
			return err
		}
	}
	_, err := conn.Subscribe(schemas.SubjectHeartbeat, func(m bus.Message) {
		var h wire.Heartbeat
		body, err := l.trust.Open(seal.Heartbeat, m.Data)
		if err == nil {
			h, err = wire.DecodeHeartbeat(body)
		}
		if err != nil {
			l.foreign(ctx, m.Subject, err)
			return
		}
		v.send(ctx, core.Heartbeat(h))
	})
	if err == nil {
		_, err = conn.Respond(schemas.ActualSubject(v.settings.node), "", l.dump)
	}
	if err == nil {
		_, err = conn.Respond(schemas.FlowsSubject(v.settings.node), "", l.flows)
	}
	return err
}

// foreign tells the core of a message that isn't used.
func (l *link) foreign(ctx context.Context, subject string, err error) {
	l.service.send(ctx, core.Foreign{Subject: subject, Err: err, Unsealed: errors.Is(err, seal.ErrUnsealed)})
}

// syncWithin bounds one answer to a sync.
const syncWithin = time.Minute

// sync asks a compiler and gives what it answers to the loop.
func (l *link) sync(ctx context.Context, e core.Sync) {
	l.syncs.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, syncWithin)
		defer cancel()
		ended := l.ask(ctx, e)
		l.service.log.Debug("asked a compiler for what is missing", "known", len(e.Positions), "walks", len(e.Walks), "error", ended.Err)
		l.service.send(ctx, ended)
	})
}

func (l *link) ask(ctx context.Context, e core.Sync) core.SyncEnded {
	answer := resync.Answer{Open: l.trust.Open}
	conn := l.conn.Load()
	if conn == nil {
		return answer.End(errAway)
	}
	node := l.service.settings.node
	request, err := resync.Request(node, e)
	if err != nil {
		return answer.End(err)
	}
	err = conn.RequestMany(ctx, schemas.SyncSubject(node), request, e.Within, func(message []byte) (bool, error) {
		in, more, err := answer.Add(message)
		if in != nil {
			l.service.send(ctx, in)
		}
		return more, err
	})
	if errors.Is(err, seal.ErrUnsealed) {
		l.foreign(ctx, schemas.SyncSubject(node), err)
	}
	if errors.Is(err, bus.ErrNobody) {
		err = fmt.Errorf("no compiler answers: %w", err)
	}
	return answer.End(err)
}

// elsewhere goes on with another server of the bus.
func (l *link) elsewhere() {
	if conn := l.conn.Load(); conn != nil {
		conn.Elsewhere()
	}
}

// connected says whether the bus is there, for readyz.
func (l *link) connected() error {
	conn := l.conn.Load()
	if conn == nil {
		return errAway
	}
	return conn.Connected()
}

// publish sends a message and says whether it could; a stream keeps it for so long, 0 is for as long as all others. If the bus is away the message is lost, which the log says at
// level debug: why, the bus says itself.
func (l *link) publish(subject string, m proto.Message, keep time.Duration) bool {
	conn := l.conn.Load()
	if conn == nil {
		return false
	}
	data, err := proto.Marshal(m)
	if err == nil {
		err = conn.PublishExpiring(subject, data, keep)
	}
	if err != nil {
		l.service.log.Debug("not published", "subject", subject, "error", err)
	}
	return err == nil
}
