// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// askEvery is how often the compiler is asked who lacks what was published, while something may be lacking.
const askEvery = time.Second

// followed are the kinds of which people are told when they are live: what they edit themselves.
var followed = []string{convert.KindService, convert.KindNetworkPolicy, convert.KindClusterNetworkPolicy}

var levels = map[schemas.Severity]slog.Level{
	schemas.Severity_SEVERITY_WARNING: slog.LevelWarn, schemas.Severity_SEVERITY_ERROR: slog.LevelError,
}

// tell logs an event, publishes it, and writes it to the object.
func (w *service) tell(event *schemas.Event) error {
	w.log.Log(context.Background(), levels[event.GetSeverity()], "event", "kind", event.GetKind(), "object", convert.Name(event.GetObject()), "text", event.GetText())
	w.describe(event)
	data, err := proto.Marshal(event)
	if err != nil {
		w.log.Error("an event can't be encoded", "event", event.GetKind(), "error", err)
		return nil
	}
	return w.conn.Publish(schemas.EventSubject("watcher", ""), data)
}

// describe writes an event to the object that it is about, for kubectl describe.
func (w *service) describe(event *schemas.Event) {
	if event.GetObject() != nil {
		warning := event.GetSeverity() >= schemas.Severity_SEVERITY_WARNING
		w.recorder.Tell(event.GetObject(), warning, kube.Reason(event.GetKind()), event.GetText())
	}
}

// heard writes what the compiler says of objects, such as policies that it can't use.
func (l *leader) heard(m bus.Message) {
	event := &schemas.Event{}
	if err := proto.Unmarshal(m.Data, event); err != nil {
		l.log.Warn("an event of the compiler can't be read", "error", err)
		return
	}
	l.describe(event)
}

// mostFollowed bounds the objects in one append that are followed: of a flood, such as a whole cluster that is new to
// STATE, nobody reads Events.
const mostFollowed = 25

// followUp notes what was published and people wait for.
func (l *leader) followUp(publications []core.Publication, last uint64) {
	if l.recorder == nil || len(publications) > mostFollowed {
		return
	}
	for i, p := range publications {
		if ref := p.Fact.GetObject(); !p.Tombstone() && slices.Contains(followed, ref.GetKind()) {
			l.live.Published(time.Now(), ref, last+1-uint64(len(publications)-i))
		}
	}
}

// answer is the compiler's to who lacks a revision.
type answer struct {
	revision uint64
	status   *schemas.Status
}

// ask asks the compiler about what was published, unless it is being asked.
func (l *leader) ask(ctx context.Context) {
	revisions := l.live.Questions()
	if len(revisions) == 0 || l.asking {
		return
	}
	l.asking = true
	l.running.Go(func() {
		var answers []answer
		for _, revision := range revisions {
			status, err := l.status(ctx, revision)
			if err != nil {
				l.log.Debug("the compiler doesn't say how nodes stand", "error", err)
				break
			}
			answers = append(answers, answer{revision, status})
		}
		select {
		case l.answers <- answers:
		case <-ctx.Done():
		}
	})
}

func (l *leader) status(ctx context.Context, revision uint64) (*schemas.Status, error) {
	request, err := proto.Marshal(&schemas.StatusRequest{Revision: revision})
	if err != nil {
		return nil, err
	}
	data, err := l.conn.Request(ctx, schemas.SubjectStatus, request)
	if err != nil {
		return nil, err
	}
	status := &schemas.Status{}
	return status, proto.Unmarshal(data, status)
}

// answered takes in the compiler's answers.
func (l *leader) answered(answers []answer) {
	l.asking = false
	for _, a := range answers {
		if a.status.GetStateEpoch() != l.fence.Epoch() {
			a.status.StateSequence = 0 // it counts the messages of another stream, or hasn't heard of this leader
		}
		for _, news := range l.live.Take(time.Now(), a.revision, a.status) {
			reason := kube.ReasonLagging
			if news.Live {
				reason = kube.ReasonLive
			}
			l.recorder.Tell(news.Object, !news.Live, reason, news.Text)
		}
	}
}
