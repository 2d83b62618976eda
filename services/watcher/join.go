// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// watchersQueue has each question answered by one of all watchers, whoever leads.
const watchersQueue = "watchers"

// What is logged of who isn't let in: a flood must not fill disks. The metric counts all.
const (
	refusalsEvery  = time.Second
	refusalsAtOnce = 20
)

// door lets nodes in. A node shows the token of its programmer's pod, which the API server is asked about; then it gets a
// credential of its own, which the bus's servers check alone. So when all nodes come back at once nobody asks the API
// server anything. For the next credential it shows its token again: a node that is gone has none that is good.
type door struct {
	trust   trust.Door
	gate    *gate
	metrics *metrics
	log     *slog.Logger
	refusal *rate.Limiter
	unsaid  atomic.Int64 // refusals since one was logged
}

// keepDoor answers the bus's servers, which ask on an account of its own, and nodes, until ctx ends.
func (w *service) keepDoor(ctx context.Context, review reviewer) error {
	d := &door{
		trust: trust.Door{Folder: w.settings.joinKeys}, gate: newGate(review, &w.nodes, w.metrics.reviews.Inc), metrics: w.metrics, log: w.log,
		refusal: rate.NewLimiter(rate.Every(refusalsEvery), refusalsAtOnce),
	}
	options := w.busOptions()
	options.CredentialsFile, options.OnReconnect = filepath.Join(w.settings.joinKeys, trust.FileDoor), nil
	atDoor, err := bus.Connect(ctx, options)
	if err != nil {
		return ended(ctx, err)
	}
	defer atDoor.Close()
	if _, err := atDoor.Attend(trust.SubjectDoor, watchersQueue, func(string) bus.Responder { return d.open }); err != nil {
		return err
	}
	inside, err := bus.Connect(ctx, w.insideOptions())
	if err != nil {
		return ended(ctx, err)
	}
	defer inside.Close()
	if _, err := inside.Attend(schemas.SubjectAllCredentials, watchersQueue, d.issue); err != nil {
		return err
	}
	w.log.Info("nodes may join by their ServiceAccount tokens")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return atDoor.Ended(ctx) })
	group.Go(func() error { return inside.Ended(ctx) })
	return group.Wait()
}

// insideOptions are those of a connection of its own for credentials: who leads waits for nobody who joins.
func (w *service) insideOptions() bus.Options {
	options := w.busOptions()
	options.OnReconnect = nil
	return options
}

func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// open answers a server that asks who someone is.
func (d *door) open(ctx context.Context, request []byte, reply func([]byte) error) {
	var node string
	answer, err := d.trust.Answer(request, func(from, token string) (_ string, err error) {
		if node, err = d.gate.node(ctx, "address "+from, token, time.Now()); err != nil {
			return "", err
		}
		return schemas.User(node), nil
	})
	d.done("joined", node, err)
	if len(answer) == 0 {
		return
	}
	if err := reply(answer); err != nil {
		d.log.Warn("a server that asked who someone is gets no answer", "error", err)
	}
}

// issue answers a node that asks for a credential. Which node it is the subject says: the server lets nobody else there.
func (d *door) issue(subject string) bus.Responder {
	return func(ctx context.Context, data []byte, reply func([]byte) error) {
		answer, node, err := d.credential(ctx, subject, data)
		d.done("credential", node, err)
		if err != nil {
			answer = &schemas.CredentialReply{Refused: err.Error()}
		}
		encoded, err := proto.Marshal(answer)
		if err == nil {
			err = reply(encoded)
		}
		if err != nil {
			d.log.Warn("a node that asked for a credential gets none", "node", node, "error", err)
		}
	}
}

func (d *door) credential(ctx context.Context, subject string, data []byte) (*schemas.CredentialReply, string, error) {
	node, err := schemas.NodeOfSubject(subject)
	if err != nil {
		return nil, "", err
	}
	var request schemas.CredentialRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		return nil, node, fmt.Errorf("this is no CredentialRequest: %w", err)
	}
	if request.GetNode() != node {
		return nil, node, fmt.Errorf("node %q asks for a credential of %q", node, request.GetNode())
	}
	proven, err := d.gate.node(ctx, "node "+node, request.GetToken(), time.Now())
	if err != nil {
		return nil, node, err
	}
	if proven != node {
		return nil, node, fmt.Errorf("node %q shows a token of node %q", node, proven)
	}
	token, expires, err := d.trust.Issue(schemas.User(node), request.GetPublicKey())
	return &schemas.CredentialReply{Jwt: token, Expires: timestamppb.New(expires)}, node, err
}

// done counts and logs.
func (d *door) done(what, node string, err error) {
	result := "ok"
	switch {
	case err == nil:
		d.log.Info("a node was let in", "asked", what, "node", node)
	case errors.Is(err, errBusy):
		result = "busy"
	default:
		result = "refused"
	}
	d.metrics.door.WithLabelValues(what, result).Inc()
	if err == nil {
		return
	}
	if !d.refusal.Allow() {
		d.unsaid.Add(1)
		return
	}
	d.log.Warn("a node was not let in", "asked", what, "node", node, "error", err, "unsaid", d.unsaid.Swap(0))
}
