// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// seenTime bounds how long one who asks waits until STATE has an object. It is less than a request on the bus may take,
// so that the reason is heard.
const seenTime = 4 * time.Second

// barrier is someone who waits until STATE has an object as it was sighted.
type barrier struct {
	ctx   context.Context
	ref   *schemas.ObjectRef
	at    core.Sighting
	reply chan<- *schemas.SeenReply
}

// answerSeen answers a SeenRequest, in a goroutine of the bus.
func (l *leader) answerSeen(ctx context.Context, data []byte, reply func([]byte) error) {
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	var request schemas.SeenRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		l.send(&schemas.SeenReply{Refused: "This is no SeenRequest: " + err.Error()}, reply)
		return
	}
	answer := l.seen(ctx, request.GetObject())
	answer.StateEpoch = l.fence.Epoch()
	l.send(answer, reply)
}

// seen asks the source for an object as it is now, and waits until STATE has it.
func (l *leader) seen(ctx context.Context, ref *schemas.ObjectRef) *schemas.SeenReply {
	if kind := ref.GetKind(); kind != "" && !slices.Contains(l.kinds, kind) {
		return &schemas.SeenReply{Refused: fmt.Sprintf("%s is no kind that deltaplane watches; it watches %s", kind, strings.Join(l.kinds, ", "))}
	}
	at, err := l.source.Look(ctx, ref)
	if err != nil {
		return &schemas.SeenReply{Refused: fmt.Sprintf("%s could not be looked up: %v", nameOf(ref), err)}
	}
	replies := make(chan *schemas.SeenReply, 1)
	answer := &schemas.SeenReply{}
	select {
	case l.barriers <- barrier{ctx, ref, at, replies}:
		select {
		case answer = <-replies:
		case <-l.done:
			answer.Refused = "The watcher has just stopped leading; ask again"
		case <-ctx.Done():
			answer.Refused = fmt.Sprintf("%s was not published within %v: the watch of it is behind, or the bus is slow; ask again, and see the watcher's log",
				nameOf(ref), seenTime)
		}
	case <-l.done:
		answer.Refused = "The watcher has just stopped leading; ask again"
	case <-ctx.Done():
		answer.Refused = fmt.Sprintf("the watcher was busy for %v; ask again", seenTime)
	}
	if answer.GetUnknown() {
		return l.buried(ctx, ref, answer)
	}
	return answer
}

func nameOf(ref *schemas.ObjectRef) string {
	if ref.GetKind() == "" {
		return "Everything"
	}
	return convert.Name(ref)
}

// buried answers for an object that isn't there: STATE may have its tombstone, which nodes must know, too.
func (l *leader) buried(ctx context.Context, ref *schemas.ObjectRef, unknown *schemas.SeenReply) *schemas.SeenReply {
	answer := unknown
	err := l.conn.Read(ctx, bus.ReadOptions{
		Stream: schemas.StateFacts.Name, Subjects: []string{schemas.StateSubject(ref.GetKind(), ref.GetNamespace(), ref.GetName())},
	}, func(r bus.Record) error {
		answer = &schemas.SeenReply{StateSequence: r.Sequence}
		return nil
	})
	if err != nil {
		return &schemas.SeenReply{Refused: "STATE could not be read: " + err.Error()}
	}
	return answer
}

// wait answers a barrier, or keeps it until it can. What the source had told before comes first.
func (l *leader) wait(ctx context.Context, b barrier) error {
	l.waiting = append(l.waiting, b)
	for {
		select {
		case in := <-l.inputs:
			if err := l.do(ctx, l.take(in)); err != nil {
				return err
			}
		default:
			l.answerWaiting()
			return nil
		}
	}
}

// answerWaiting answers those whose objects STATE has now, and forgets who has given up.
func (l *leader) answerWaiting() {
	l.waiting = slices.DeleteFunc(l.waiting, func(b barrier) bool {
		if b.ctx.Err() != nil {
			return true
		}
		answer := l.core.Seen(b.ref, b.at)
		if answer != nil {
			b.reply <- answer
		}
		return answer != nil
	})
}
