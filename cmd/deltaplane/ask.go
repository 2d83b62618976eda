// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// leadsWithin is how long nobody may lead a service that has replicas. Another one leads after some 1 s.
	leadsWithin = bus.AnswerWithin
	// askAgainAfter is between two questions while nobody leads.
	askAgainAfter = 100 * time.Millisecond
	// orderWithin is how long a change may take: a rollback reads days of DELTA.
	orderWithin = 25 * time.Second
)

// ask asks who leads a service and decodes the one answer. If who leads doesn't answer, or nobody leads, it asks on until
// another replica has taken over; where none is heard there is nothing to wait for. It is for questions: what changes
// something must not be said twice.
func ask(ctx context.Context, conn *bus.Conn, subject, service string, request, answer proto.Message) error {
	data, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leadsWithin)
	defer cancel()
	heard, err := hearReplicas(conn)
	if err != nil {
		return err
	}
	defer heard.stop()
	var nobody error
	for {
		err = conn.Ask(ctx, subject, data, func(reply []byte) (bool, error) { return false, wire.Unmarshal(reply, answer) })
		if nobody != nil && errors.Is(err, context.DeadlineExceeded) {
			err = nobody // the time is over
		}
		if !errors.Is(err, bus.ErrNobody) || ctx.Err() != nil || !heard.any(ctx, service) {
			return heard.explain(ctx, service, err)
		}
		nobody = err
		select {
		case <-time.After(askAgainAfter):
		case <-ctx.Done():
		}
	}
}

// order has who leads a service change something. It is said once, and only when somebody is known to lead.
func order(ctx context.Context, conn *bus.Conn, subject, service string, request, answer proto.Message) error {
	if err := leads(ctx, conn, service); err != nil {
		return err
	}
	data, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	err = conn.RequestMany(ctx, subject, data, orderWithin, func(reply []byte) (bool, error) { return false, wire.Unmarshal(reply, answer) })
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the %s hasn't answered within %s: it may have done it, or may still do it; see 'deltaplane status'", service, orderWithin)
	}
	return unanswered(service, err)
}

// leads asks who leads a service something, and fails if nobody does.
func leads(ctx context.Context, conn *bus.Conn, service string) error {
	if service == "watcher" {
		return ask(ctx, conn, schemas.SubjectApprove, service, &schemas.ApproveRequest{}, &schemas.ApproveReply{})
	}
	return ask(ctx, conn, schemas.SubjectStatus, service, &schemas.StatusRequest{Revision: 1}, &schemas.Status{})
}

// unanswered says why there is no answer, if there is none.
func unanswered(who string, err error) error {
	switch {
	case errors.Is(err, bus.ErrNobody):
		return fmt.Errorf("no %s answers on the bus: is one running, and does it lead?", who)
	case errors.Is(err, bus.ErrDenied):
		return fmt.Errorf("ask the %s: %w", who, bus.ErrDenied)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the %s doesn't answer in time: it may be stopped, or too busy", who)
	case err != nil:
		return fmt.Errorf("ask the %s: %w", who, err)
	}
	return nil
}

// any says whether a replica of a service is heard, once there was time to hear it.
func (r *replicas) any(ctx context.Context, service string) bool {
	return slices.ContainsFunc(r.wait(ctx), func(one replicaJSON) bool { return one.Service == service })
}

// explain says why a service doesn't answer, and which of its replicas were heard.
func (r *replicas) explain(ctx context.Context, service string, err error) error {
	if err == nil || errors.Is(err, bus.ErrDenied) {
		return unanswered(service, err)
	}
	list := slices.DeleteFunc(r.wait(ctx), func(one replicaJSON) bool { return one.Service != service })
	switch {
	case len(list) == 0:
		return unanswered(service, err)
	case errors.Is(err, bus.ErrNobody):
		return fmt.Errorf("no %s leads; heard of: %s", service, describeReplicas(list))
	}
	return fmt.Errorf("%w; heard of: %s", unanswered(service, err), describeReplicas(list))
}
