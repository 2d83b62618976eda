// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/fair"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// replicas is the queue of compilers, of which each may answer what the log says.
const replicas = "compiler"

// listen answers requests, and hears reports and heartbeats, until stop. Only who leads answers how the cluster stands.
func (t *session) listen() (stop func(), err error) {
	var all []*bus.Subscription
	stop = func() {
		for _, s := range all {
			s.Stop()
		}
	}
	for subject, respond := range map[string]func(subject string) bus.Responder{
		schemas.SubjectAllSyncs: t.answerSync,
		schemas.SubjectDesired:  func(string) bus.Responder { return t.answer(t.core.Dump) },
	} {
		s, err := t.conn.RespondEach(subject, replicas, respond)
		if err != nil {
			return stop, err
		}
		all = append(all, s)
	}
	for subject, hear := range map[string]func(bus.Message){
		schemas.SubjectAllApplied: t.applied,
		schemas.SubjectHeartbeat:  t.heard,
	} {
		s, err := t.conn.Subscribe(subject, hear)
		if err != nil {
			return stop, err
		}
		all = append(all, s)
	}
	return stop, nil
}

// listenLeading answers what only a leader answers, until deafen.
func (t *session) listenLeading() error {
	for subject, respond := range map[string]bus.Responder{
		schemas.SubjectStatus:   t.answer(t.tellStatus),
		schemas.SubjectRollback: t.answerRollback,
		schemas.SubjectResume:   t.answer(t.core.Resume),
	} {
		s, err := t.conn.Respond(subject, "", respond)
		if err != nil {
			t.deafen()
			return err
		}
		t.asked = append(t.asked, s)
	}
	return nil
}

func (t *session) deafen() {
	for _, s := range t.asked {
		s.Stop()
	}
	t.asked = nil
}

// heard hands the leader's heartbeats to the loop: they say which facts changed nothing.
func (t *session) heard(m bus.Message) {
	data, err := t.seals.trust.Open(seal.Heartbeat, m.Data)
	if err != nil {
		t.refuse("a heartbeat", err)
		return
	}
	beat := &schemas.Heartbeat{}
	if err := proto.Unmarshal(data, beat); err != nil {
		t.log.Warn("a heartbeat that can't be read is ignored", "error", err)
		return
	}
	t.step(func(now time.Time) core.Output { return t.core.Beat(now, beat) })
}

// answerSync answers a node's SyncRequest. Which node it is the subject says: the server lets nobody else there. In another's
// name it would be given that one's rows, use up that one's patience and turns, and have layers made of nodes that aren't.
func (t *session) answerSync(subject string) bus.Responder {
	answer := t.answer(t.core.Sync)
	return func(ctx context.Context, data []byte, reply func([]byte) error) {
		if node, err := schemas.NodeOfSubject(subject); err == nil && t.floods(node, t.questions, t.metrics.unanswered) {
			return
		}
		err := inItsName(subject, data)
		if err == nil {
			answer(ctx, data, reply)
			return
		}
		t.metrics.foreign.Inc()
		t.log.Debug("a request for what a node lacks is refused", "subject", subject, "error", err)
		if err := reply(encode(&schemas.SyncReply{Refused: err.Error(), Last: true})); err != nil {
			t.log.Debug("an answer broke off", "error", err)
		}
	}
}

// inItsName says why a SyncRequest isn't of the node whose subject it came on. What can't be read the core refuses.
func inItsName(subject string, data []byte) error {
	node, err := schemas.NodeOfSubject(subject)
	if err != nil {
		return err
	}
	r := &schemas.SyncRequest{}
	if wire.Unmarshal(data, r) == nil && r.GetNode() != node {
		return fmt.Errorf("node %q asks in the name of %.64q", node, r.GetNode())
	}
	return nil
}

// answer has the loop work out an answer, and sends it. When the session ends there is none: who asked asks again.
func (t *session) answer(step func(time.Time, any, []byte) core.Output) func(context.Context, []byte, func([]byte) error) {
	return func(ctx context.Context, data []byte, reply func([]byte) error) {
		done := make(chan core.Answer, 1)
		select {
		case t.inputs <- func(now time.Time) core.Output { return step(now, done, data) }:
		case <-t.ctx.Done():
			return
		}
		select {
		case a := <-done:
			for message := range a.Messages() {
				if err := reply(message); err != nil {
					t.log.Warn("an answer broke off", "error", err)
					return
				}
			}
		case <-t.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// applied hands what a node reports to the loop. Of one that reports without end the loop hears little.
func (t *session) applied(m bus.Message) {
	node, err := schemas.NodeOfSubject(m.Subject)
	if err == nil && t.floods(node, t.reports, t.metrics.unread) {
		return
	}
	t.step(func(now time.Time) core.Output {
		var out core.Output
		if err == nil {
			out, err = t.core.Applied(now, node, m.Data)
		}
		if err != nil {
			t.metrics.foreign.Inc()
			t.log.Debug("a report is ignored", "subject", m.Subject, "error", err)
		}
		return out
	})
}

// floods says whether a node says more than it may, and so isn't heard. The loop is told of it, for status, once in a while.
func (t *session) floods(node string, may *fair.Limiter, unheard prometheus.Counter) bool {
	now := time.Now()
	if may.Allow(node, now) {
		return false
	}
	unheard.Inc()
	if t.named.Allow(node, now) {
		t.step(func(now time.Time) core.Output { return t.core.Flooded(now, node) })
	}
	return true
}

// step has the loop do something, unless the session ends.
func (t *session) step(do func(now time.Time) core.Output) {
	select {
	case t.inputs <- do:
	case <-t.ctx.Done():
	}
}

// report keeps what an incremental and a full compilation came to, where they differ.
func (t *session) report(m *core.Mismatch) {
	type both struct {
		Incremental json.RawMessage `json:"incremental"`
		Full        json.RawMessage `json:"full"`
	}
	layers := map[string]both{}
	for l := range m.Full {
		layers[l.String()] = both{rowsJSON(m.Incremental[l]), rowsJSON(m.Full[l])}
	}
	data, err := json.MarshalIndent(map[string]any{
		"at": m.At, "revision": m.Revision, "found": m.Found, "layers": layers,
	}, "", "  ")
	if err != nil {
		t.log.Error("the report of a mismatch can't be written", "error", err)
		return
	}
	if t.settings.reportDir == "" {
		t.log.Error("incremental and full compilation differ; --report-dir keeps all of it", "report", string(data[:min(len(data), 64<<10)]))
		return
	}
	path := filepath.Join(t.settings.reportDir, fmt.Sprintf("mismatch-%d.json", m.Revision))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.log.Error("the report of a mismatch can't be written", "path", path, "error", err)
		return
	}
	t.log.Error("incremental and full compilation differ", "report", path)
}

func rowsJSON(rows model.Rows) json.RawMessage {
	data, err := protojson.Marshal(wire.RowsToProto(rows))
	if err != nil {
		return json.RawMessage(`null`)
	}
	return data
}
