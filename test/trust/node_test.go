// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// soon is how long anything may take here: the machine may be busy with other tests.
const soon = 20 * time.Second

// pipelineOf connects a compiler as the service does, and makes the streams.
func (s *stage) pipelineOf(t testing.TB, role string) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(t.Context(), bus.Options{
		URL: s.server.URL(), Name: role, CredentialsFile: s.paths[role] + "/bus.creds", RootCAFile: s.paths[role] + "/ca.crt",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// A compromised node has another node's inbox, the subjects of all nodes and those of the pipeline as places for its
// answers: what asks and is answered must end in nothing that anybody listens to but its own.
//
// Promise P9: whatever place for an answer a node names, no answer leaves the nodes' account.
// Fault 13: forged replies.
func TestAnswersToANodeStayAmongNodes(t *testing.T) {
	s := newStage(t)
	compiler := s.pipelineOf(t, "compiler")
	if err := compiler.EnsureStreams(t.Context(), 1, schemas.Streams...); err != nil {
		t.Fatal(err)
	}
	// The compiler answers whatever it is asked, with something that could be a delta.
	poison := []byte("poison")
	if _, err := compiler.Respond(schemas.SubjectAllSyncs, "", answerWith(poison)); err != nil {
		t.Fatal(err)
	}
	// Everything that the pipeline hears is compared with what node-a may say.
	heard := make(chan bus.Message, 256)
	for _, subject := range []string{schemas.SubjectAllApplied, schemas.SubjectHeartbeat, schemas.SubjectAllPulses, schemas.SubjectStatus} {
		if _, err := compiler.Subscribe(subject, func(m bus.Message) { heard <- m }); err != nil {
			t.Fatal(err)
		}
	}
	attacker := s.enter(t, "node-a")
	for _, reply := range []string{
		schemas.StateSubject("Pod", "shop", "cart"), schemas.SubjectStateEpoch, schemas.DeltaSubject("cluster"), schemas.SubjectEpoch,
		schemas.ApplySubject("cluster"), schemas.SubjectHeartbeat, schemas.SubjectStatus, schemas.PulseSubject("compiler"),
		"$JS.API.STREAM.DELETE.STATE", "$JS.API.STREAM.PURGE.DELTA", "$SYS.REQ.USER.AUTH",
		schemas.InboxPrefix("compiler") + ".x", "_R_.x", "$JS.ACK.x",
	} {
		for _, ask := range []string{schemas.SyncSubject("node-a"), schemas.AppliedSubject("node-a"), schemas.EventSubject("programmer", "node-a")} {
			attacker.publish(ask, reply, nil)
		}
	}
	if _, _, err := attacker.sync(); err != nil {
		t.Logf("the server has thrown the attacker out: %v", err) // also an answer
	}
	testkit.Eventually(t, soon, func() bool { return len(heard) > 0 })
	if err := compiler.Flush(); err != nil {
		t.Fatal(err)
	}
	for range len(heard) {
		if m := <-heard; m.Subject != schemas.AppliedSubject("node-a") || bytes.Contains(m.Data, poison) {
			t.Errorf("the pipeline heard %q on %s", m.Data, m.Subject)
		}
	}
	for _, stream := range []schemas.Stream{schemas.StateFacts, schemas.Deltas} {
		n := 0
		if err := compiler.Read(t.Context(), bus.ReadOptions{Stream: stream.Name}, func(bus.Record) error { n++; return nil }); err != nil || n != 0 {
			t.Errorf("stream %s has %d messages that a node has brought in, %v", stream.Name, n, err)
		}
	}
}

func answerWith(data []byte) bus.Responder {
	return func(_ context.Context, _ []byte, reply func([]byte) error) { _ = reply(data) }
}

// What a node's own reports bring back must not be sent where other nodes listen: streams don't answer to reports.
//
// Fault 13: PubAck sent to where other nodes hear deltas.
func TestReportsAreNotAnsweredByStreams(t *testing.T) {
	s := newStage(t)
	if err := s.pipelineOf(t, "compiler").EnsureStreams(t.Context(), 1, schemas.Streams...); err != nil {
		t.Fatal(err)
	}
	victim, attacker := s.enter(t, "node-b"), s.enter(t, "node-a")
	victim.subscribe(schemas.ApplySubject("node.node-b"))
	victim.subscribe(schemas.SubjectHeartbeat)
	victim.subscribe(schemas.InboxPrefix("node-b") + ".>")
	if _, _, err := victim.sync(); err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{schemas.ApplySubject("node.node-b"), schemas.SubjectHeartbeat, schemas.InboxPrefix("node-b") + ".x"} {
		attacker.publish(schemas.AppliedSubject("node-a"), reply, []byte("x"))
		attacker.publish(schemas.EventSubject("programmer", "node-a"), reply, []byte("x"))
	}
	// A report with a place of its own for the answer comes after them: when the server is done with it, it is with those.
	if _, _, err := attacker.sync(); err != nil {
		t.Fatal(err)
	}
	if _, heard, err := victim.sync(); err != nil || len(heard) > 0 {
		t.Errorf("another node heard %q, %v", heard, err)
	}
}

// An attacker that was asked something may answer; it may not say anything else by that right.
//
// Fault 13: answers of a node to questions that it wasn't asked.
func TestNodeAnswersOnlyWhatItWasAsked(t *testing.T) {
	s := newStage(t)
	operator := s.pipelineOf(t, "operator")
	attacker := s.enter(t, "node-a")
	attacker.subscribe(schemas.ActualSubject("node-a"))
	if _, _, err := attacker.sync(); err != nil {
		t.Fatal(err)
	}
	answers := make(chan []byte, 1)
	go func() {
		data, err := operator.Request(t.Context(), schemas.ActualSubject("node-a"), nil)
		if err != nil {
			t.Error(err)
		}
		answers <- data
	}()
	var asked []delivery
	testkit.Eventually(t, soon, func() bool {
		_, heard, err := attacker.sync()
		asked = append(asked, heard...)
		return len(asked) == 1 || err != nil
	})
	reply := asked[0].reply
	if strings.HasPrefix(reply, schemas.InboxPrefix("operator")) {
		t.Errorf("a node learns the operator's inbox: %s", reply)
	}
	// Near misses of the place for the answer.
	for _, other := range []string{reply + ".x", reply[:len(reply)-1], "_R_.>", schemas.InboxPrefix("operator") + ".x"} {
		attacker.publish(other, "", []byte("forged"))
		check(t, attacker, "answer on "+other, false)
	}
	attacker.publish(reply, "", []byte("an answer"))
	check(t, attacker, "answer", true)
	if got := <-answers; string(got) != "an answer" {
		t.Errorf("the operator got %q", got)
	}
}

// One node's floods reach neither its neighbours nor what the server keeps: it may hold so many subscriptions, and what is
// too large ends its connection.
//
// Fault 13: floods are limited.
func TestFloodsAreLimited(t *testing.T) {
	s := newStage(t)
	attacker := s.enter(t, "node-a")
	for i := range 200 {
		attacker.subscribe(fmt.Sprintf("%s.%d", schemas.InboxPrefix("node-a"), i))
	}
	refused, _, err := attacker.sync()
	if err == nil && (len(refused) < 150 || refused[0] != "maximum subscriptions exceeded") {
		t.Errorf("200 subscriptions: %d refused: %.2q", len(refused), refused)
	}
	big := s.enter(t, "node-a")
	big.publish(schemas.AppliedSubject("node-a"), "", make([]byte, 2<<20))
	if _, _, err := big.sync(); err == nil {
		t.Error("a message of 2 MiB was taken")
	}
}

// Reports are a node's own: in another's name they don't get through, whatever they say inside.
//
// Fault 13: spoofed reports and heartbeats.
func TestReportsInAnothersNameGetNowhere(t *testing.T) {
	s := newStage(t)
	compiler := s.pipelineOf(t, "compiler")
	heard := make(chan bus.Message, 16)
	for _, subject := range []string{schemas.SubjectAllApplied, schemas.SubjectHeartbeat} {
		if _, err := compiler.Subscribe(subject, func(m bus.Message) { heard <- m }); err != nil {
			t.Fatal(err)
		}
	}
	report, err := proto.Marshal(&schemas.Applied{Node: "node-b"})
	if err != nil {
		t.Fatal(err)
	}
	attacker := s.enter(t, "node-a")
	for _, subject := range []string{schemas.AppliedSubject("node-b"), schemas.AppliedSubject("_"), schemas.SubjectHeartbeat} {
		attacker.publish(subject, "", report)
		check(t, attacker, "publish on "+subject, false)
	}
	// Its own subject carries any text: whoever reads it goes by the subject.
	attacker.publish(schemas.AppliedSubject("node-a"), "", report)
	check(t, attacker, "publish its own report", true)
	select {
	case m := <-heard:
		if node, err := schemas.NodeOfSubject(m.Subject); err != nil || node != "node-a" {
			t.Errorf("heard on %s", m.Subject)
		}
	case <-time.After(soon):
		t.Error("its own report didn't arrive")
	}
	if len(heard) > 0 {
		t.Errorf("also heard on %s", (<-heard).Subject)
	}
}
