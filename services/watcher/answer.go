// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// approval is someone's request to let held deletions go ahead.
type approval struct {
	id    string
	reply chan<- *schemas.ApproveReply
}

// answerApprove answers an ApproveRequest, in a goroutine of the bus.
func (l *leader) answerApprove(ctx context.Context, data []byte, reply func([]byte) error) {
	var request schemas.ApproveRequest
	answer := &schemas.ApproveReply{Text: "the watcher has just stopped leading; ask again"}
	if err := proto.Unmarshal(data, &request); err != nil {
		answer.Text = "this is no ApproveRequest: " + err.Error()
	} else {
		replies := make(chan *schemas.ApproveReply, 1)
		select {
		case l.approvals <- approval{request.GetId(), replies}:
			select {
			case answer = <-replies:
			case <-l.done:
			case <-ctx.Done():
			}
		case <-l.done:
		case <-ctx.Done():
		}
	}
	l.send(answer, reply)
}

func (l *leader) send(answer proto.Message, reply func([]byte) error) {
	encoded, err := proto.Marshal(answer)
	if err == nil {
		err = reply(encoded)
	}
	if err != nil {
		l.log.Warn("a question could not be answered", "answer", answer.ProtoReflect().Descriptor().Name(), "error", err)
	}
}

// approve lets held deletions go ahead and says so once they are in STATE.
func (l *leader) approve(ctx context.Context, a approval) error {
	effects, reply := l.core.Approve(time.Now(), a.id)
	err := l.do(ctx, effects)
	if err != nil {
		reply = &schemas.ApproveReply{Text: "the deletions could not be published: " + err.Error()}
	}
	reply.Held = l.core.Held()
	reply.SetAside = l.core.SetAside()
	reply.SetAside = reply.SetAside[:min(len(reply.SetAside), maxSetAsideTold)]
	a.reply <- reply
	return err
}
