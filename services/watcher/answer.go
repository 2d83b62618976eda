// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// answer answers an ApproveRequest, in a goroutine of the bus.
func (t *term) answer(ctx context.Context, data []byte, reply func([]byte) error) {
	var request schemas.ApproveRequest
	answer := &schemas.ApproveReply{Text: "The watcher has just stopped leading; ask again"}
	if err := proto.Unmarshal(data, &request); err != nil {
		answer.Text = "This is no ApproveRequest: " + err.Error()
	} else {
		replies := make(chan *schemas.ApproveReply, 1)
		select {
		case t.approvals <- approval{request.GetId(), replies}:
			select {
			case answer = <-replies:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}
	encoded, err := proto.Marshal(answer)
	if err == nil {
		err = reply(encoded)
	}
	if err != nil {
		t.log.Warn("answering an ApproveRequest", "error", err)
	}
}

// approve lets held deletions go ahead and says so once they are in STATE.
func (t *term) approve(ctx context.Context, a approval) error {
	effects, reply := t.core.Approve(time.Now(), a.id)
	err := t.do(ctx, effects)
	if err != nil {
		reply = &schemas.ApproveReply{Text: "The deletions could not be published: " + err.Error()}
	}
	reply.Held = t.core.Held()
	reply.SetAside = t.core.SetAside()
	reply.SetAside = reply.SetAside[:min(len(reply.SetAside), maxSetAsideTold)]
	a.reply <- reply
	return err
}

var levels = map[schemas.Severity]slog.Level{
	schemas.Severity_SEVERITY_WARNING: slog.LevelWarn, schemas.Severity_SEVERITY_ERROR: slog.LevelError,
}

// tell logs an event and publishes it.
func (t *term) tell(event *schemas.Event) error {
	t.log.Log(context.Background(), levels[event.GetSeverity()], "event", "kind", event.GetKind(), "object", convert.Name(event.GetObject()), "text", event.GetText())
	data, err := proto.Marshal(event)
	if err != nil {
		t.log.Error("an event can't be encoded", "event", event.GetKind(), "error", err)
		return nil
	}
	return t.conn.Publish(schemas.EventSubject("watcher", ""), data)
}
