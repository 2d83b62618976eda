// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// stage is a bus with what services would have said on it: node a is converged, node b as a test wants it.
type stage struct {
	t        *testing.T
	conn     *bus.Conn
	rows     model.Rows
	compiler *bus.Subscription // answers status
	watcher  *bus.Subscription

	mu     sync.Mutex
	status *schemas.Status
}

// change changes what status answers.
func (s *stage) change(f func(*schemas.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.status)
}

func (s *stage) answerStatus(t *testing.T) func(context.Context, []byte, func([]byte) error) {
	t.Helper()
	return func(_ context.Context, _ []byte, reply func([]byte) error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = reply(encoded(t, s.status))
	}
}

var committed = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newStage(t *testing.T) *stage {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	t.Setenv("DELTAPLANE_BUS", server.URL())
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "stage"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.EnsureStreams(t.Context(), 1, schemas.Streams...); err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, conn: conn, rows: someRows(), status: someStatus()}
	s.facts(t)
	s.answers(t)
	return s
}

func someRows() model.Rows {
	service := model.ServicePort{Namespace: "shop", Name: "cart", Port: 80, Protocol: model.TCP}
	front := model.FrontendKey{Addr: netip.MustParseAddr("10.96.0.10"), Port: 80, Protocol: model.TCP}
	key := model.BackendKey{Set: 1, Addr: netip.MustParseAddr("10.244.1.3"), Port: 8080}
	return model.Rows{
		Frontends: []model.Frontend{{FrontendKey: front, Set: 1, Kind: model.FrontendClusterIP}},
		Sets:      []model.BackendSet{{ID: 1, Root: 1, SetKey: model.SetKey{Service: service, Family: model.IPv4, Scope: model.ScopeAll}}},
		Backends:  []model.Backend{{ID: 7, BackendKey: key, State: model.BackendActive}},
		Members:   []model.Member{{Set: 1, Backend: 7}},
		Endpoints: []model.Endpoint{{Addr: netip.MustParseAddr("10.244.1.3"), Pod: "shop/cart-0"}},
	}
}

func someStatus() *schemas.Status {
	node := func(name string, converged bool) *schemas.NodeStatus {
		return &schemas.NodeStatus{Node: name, Converged: converged, LatencyP50: durationpb.New(6 * time.Millisecond), LatencyP99: durationpb.New(31 * time.Millisecond), Applied: &schemas.Applied{
			Node: name, MapsKind: "kernel", Sent: timestamppb.New(committed), Maps: []*schemas.MapUse{{Name: "backends_v1", Entries: 1200, Capacity: 524288}},
			Positions: []*schemas.Position{{Layer: "cluster", Epoch: 2, Revision: 812344, Digest: model.Digest{1, 2}.Bytes()}},
		}}
	}
	return &schemas.Status{
		Epoch: 2, Revision: 812344, Committed: timestamppb.New(committed), Leader: "compiler-0", Rows: 5,
		Causes: []*schemas.Cause{{Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-x"}, Manager: "argocd"}},
		Nodes:  []*schemas.NodeStatus{node("b", true), node("a", true)}, NodesTotal: 2, NodesConverged: 2, StateSequence: 40,
		LatencyP50: durationpb.New(6 * time.Millisecond), LatencyP99: durationpb.New(30 * time.Millisecond),
		Maps: []*schemas.FullestMap{{Node: "a", Use: &schemas.MapUse{Name: "backends_v1", Entries: 1200, Capacity: 524288}}},
	}
}

func (s *stage) facts(t *testing.T) {
	t.Helper()
	fence, err := s.conn.TakeEpoch(t.Context(), schemas.StateFacts.Name, schemas.SubjectStateEpoch, "stage")
	if err != nil {
		t.Fatal(err)
	}
	var records []bus.Record
	for _, f := range []*schemas.Fact{
		{Object: &schemas.ObjectRef{Kind: "Node", Name: "a"}, State: &schemas.Fact_Node{Node: &schemas.Node{}}},
		{Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "shop", Name: "cart-0"}, State: &schemas.Fact_Pod{Pod: &schemas.Pod{Node: "a", Addresses: [][]byte{{10, 244, 1, 3}}}}},
		{Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "shop", Name: "front"}, State: &schemas.Fact_Pod{Pod: &schemas.Pod{Node: "a", Addresses: [][]byte{{10, 244, 1, 2}}}}},
		{Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "cart"}, State: &schemas.Fact_Service{Service: &schemas.Service{ClusterIps: [][]byte{{10, 96, 0, 10}}}}},
	} {
		o := f.GetObject()
		records = append(records, bus.Record{Subject: schemas.StateSubject(o.GetKind(), o.GetNamespace(), o.GetName()), Data: encoded(t, f)})
	}
	if _, err := fence.Append(t.Context(), records); err != nil {
		t.Fatal(err)
	}
}

func (s *stage) answers(t *testing.T) {
	t.Helper()
	dump := func(_ context.Context, _ []byte, reply func([]byte) error) {
		first := &schemas.DumpReply{Rows: wire.RowsToProto(model.Rows{Frontends: s.rows.Frontends, Sets: s.rows.Sets})}
		rest := s.rows
		rest.Frontends, rest.Sets = nil, nil
		_ = reply(encoded(t, first))
		_ = reply(encoded(t, &schemas.DumpReply{Rows: wire.RowsToProto(rest), Sequence: 1, Last: true}))
	}
	for subject, handle := range map[string]func(context.Context, []byte, func([]byte) error){
		schemas.SubjectDesired:     dump,
		schemas.ActualSubject("a"): dump,
		schemas.ActualSubject("b"): func(_ context.Context, _ []byte, reply func([]byte) error) {
			_ = reply(encoded(t, &schemas.DumpReply{Refused: "not ready"}))
		},
	} {
		if _, err := s.conn.Respond(subject, "", handle); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.compiler, err = s.conn.Respond(schemas.SubjectStatus, "", s.answerStatus(t)); err != nil {
		t.Fatal(err)
	}
	if s.watcher, err = s.conn.Respond(schemas.SubjectApprove, "", approve(t)); err != nil {
		t.Fatal(err)
	}
}

func approve(t *testing.T) func(context.Context, []byte, func([]byte) error) {
	t.Helper()
	return func(_ context.Context, data []byte, reply func([]byte) error) {
		var request schemas.ApproveRequest
		if proto.Unmarshal(data, &request) == nil && request.GetId() == "6f1c" {
			_ = reply(encoded(t, &schemas.ApproveReply{Approved: true, Text: "12 objects are deleted"}))
			return
		}
		_ = reply(encoded(t, &schemas.ApproveReply{Text: "nothing of that ID is held"}))
	}
}

// watch has a watcher that answers everything with reply; nil is none.
func (s *stage) watch(reply *schemas.ApproveReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watcher.Stop()
	if err := s.conn.Flush(); err != nil {
		s.t.Fatal(err)
	}
	if reply == nil {
		return
	}
	data := encoded(s.t, reply)
	watcher, err := s.conn.Respond(schemas.SubjectApprove, "", func(_ context.Context, _ []byte, answer func([]byte) error) { _ = answer(data) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.watcher = watcher
}

// log appends a commit of a cluster delta and node a's report of it.
func (s *stage) log(t *testing.T) {
	t.Helper()
	fence, err := s.conn.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "stage")
	if err != nil {
		t.Fatal(err)
	}
	messages, err := wire.EncodeDelta(model.Delta{
		Epoch: 2, Layer: model.ClusterLayer, From: 3, To: 4, Committed: committed,
		Change: model.Change{Put: model.Rows{Backends: s.rows.Backends, Members: s.rows.Members}},
		Causes: []model.Cause{{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-x", Manager: "argocd"}},
	}, schemas.MaxMessageBytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fence.Append(t.Context(), []bus.Record{{Subject: schemas.DeltaSubject("cluster"), Data: messages[0]}}); err != nil {
		t.Fatal(err)
	}
	report := &schemas.Applied{Node: "a", Deltas: []*schemas.AppliedDelta{{
		Layer: "cluster", Epoch: 2, Revision: 4, Applied: timestamppb.New(committed.Add(7 * time.Millisecond)),
		Latency: durationpb.New(11 * time.Millisecond), Writes: 3, Bytes: 393,
	}}}
	if err := s.conn.Publish(schemas.AppliedSubject("a"), encoded(t, report)); err != nil {
		t.Fatal(err)
	}
	event := &schemas.Event{Severity: schemas.Severity_SEVERITY_WARNING, Service: "programmer", Node: "a", Kind: "drift", Text: "backend 7 was edited", Happened: timestamppb.New(committed)}
	if err := s.conn.Publish(schemas.EventSubject("programmer", "a"), encoded(t, event)); err != nil {
		t.Fatal(err)
	}
	if err := s.conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Error(err)
	}
	return data
}

// command runs a command line and returns what it printed and its exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRootCommand("deltaplane")
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(t.Context())
	if message := messageOf(err); message != "" {
		errs.WriteString(message + "\n")
	}
	return out.String(), errs.String(), exitCode(err)
}

func TestStatusOfAConvergedCluster(t *testing.T) {
	s := newStage(t)
	s.change(func(status *schemas.Status) {
		status.ChecksSeals = true
		for _, n := range status.Nodes {
			n.Applied.ChecksSeals = true
		}
	})
	stdout, stderr, code := command(t, "status")
	if code != exitOK || stderr != "" {
		t.Errorf("exit %d, %s", code, stderr)
	}
	for _, want := range []string{
		"CLUSTER  rev 812,344   ", ": EndpointSlice shop/cart-x changed by argocd\n",
		"Converged   2 / 2 nodes   change to kernel: p50 6 ms  p99 30 ms  slowest node's p99 31 ms (b)",
		"Integrity   digest as compiled on 2 converged nodes", "Seals       checked by the compiler and all", "Streams     STATE ", "Maps        backends 1,200 / 524,288", "Drops       none",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in:\n%s", want, stdout)
		}
	}
}

// Promise P7: who checks nothing is named.
func TestStatusNamesWhoBelievesEveryone(t *testing.T) {
	s := newStage(t)
	s.change(func(status *schemas.Status) { status.Nodes[0].Applied.ChecksSeals = true })
	stdout, _, _ := command(t, "status")
	if want := "Seals       NOT CHECKED by the compiler, node a: "; !strings.Contains(stdout, want) {
		t.Errorf("%q is missing in:\n%s", want, stdout)
	}
}

func TestStatusNamesWhatIsWrongAndExitsWith3(t *testing.T) {
	s := newStage(t)
	s.change(func(status *schemas.Status) {
		b := status.Nodes[0]
		b.Converged, b.Behind, b.Reason = false, 3, "bus reconnecting"
		b.Applied.Faults = []*schemas.Fault{{Kind: "capacity", Text: "map backends_v1 is full"}}
		status.NodesConverged, status.Drops = 1, map[string]uint64{"no_backend": 12}
		status.SetAside = []*schemas.SetAside{{Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "bad"}, Reason: "10.96.0.10 belongs to shop/cart"}}
		status.Held = &schemas.HeldDeletions{Id: "6f1c", Deletions: 12, Objects: 14}
	})
	stdout, _, code := command(t, "status")
	if code != exitNotHealthy {
		t.Errorf("exit %d, want %d", code, exitNotHealthy)
	}
	for _, want := range []string{
		"Converged   1 / 2 nodes", "Behind      b  rev 812,341 (-3)", "bus reconnecting", "Fault       b: capacity: map backends_v1 is full",
		"Drops       12 no_backend", "Set aside   Service shop/bad: 10.96.0.10 belongs to shop/cart",
		"Held        12 of 14 objects would be deleted: if that is meant, run 'deltaplane approve 6f1c'",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in:\n%s", want, stdout)
		}
	}
}

// What the watcher refuses never becomes a fact, so the compiler can't tell of it.
// Fault 5: a stream that went back looks well again at once; the compiler has seen it and says so.
func TestStatusNamesWhatTheCompilerSawOfAStream(t *testing.T) {
	s := newStage(t)
	s.change(func(m *schemas.Status) {
		m.Streams = []*schemas.Fault{{Kind: "stream_rolled_back", Stream: "DELTA", Text: "stream DELTA went back from message 9 to 7"}}
	})
	out, stderr, code := command(t, "status")
	if code != exitNotHealthy || !strings.Contains(out, "stream DELTA went back from message 9 to 7") {
		t.Errorf("exit %d, %s\n%s", code, stderr, out)
	}
}

// A compiler looks every few seconds: what it saw of a cluster that was just begun, or mended, is over.
func TestStatusBelievesTheBusBeforeTheCompiler(t *testing.T) {
	s := newStage(t)
	s.change(func(m *schemas.Status) {
		m.Streams = []*schemas.Fault{{Kind: "stream_missing", Stream: "DELTA", Text: "stream DELTA is missing"}}
	})
	out, stderr, code := command(t, "status")
	if code != exitOK || strings.Contains(out, "missing") {
		t.Errorf("exit %d, %s\n%s", code, stderr, out)
	}
}

func TestStatusNamesWhatTheWatcherSetsAsideAndHolds(t *testing.T) {
	s := newStage(t)
	s.watch(&schemas.ApproveReply{
		SetAside: []*schemas.SetAside{{Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "far"}, Reason: `"10.96.0.300" is no IP address`}},
		Held:     &schemas.HeldDeletions{Id: "6f1c", Deletions: 12, Objects: 14},
	})
	stdout, stderr, code := command(t, "status")
	if code != exitNotHealthy {
		t.Errorf("exit %d, want %d: %s", code, exitNotHealthy, stderr)
	}
	for _, want := range []string{
		`Set aside   Service shop/far: "10.96.0.300" is no IP address`,
		"Held        12 of 14 objects would be deleted: if that is meant, run 'deltaplane approve 6f1c'",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in:\n%s", want, stdout)
		}
	}
}

func TestStatusNamesSomeOfManyObjectsSetAside(t *testing.T) {
	s := newStage(t)
	s.change(func(status *schemas.Status) {
		for i := range 30 {
			status.SetAside = append(status.SetAside, &schemas.SetAside{Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "shop", Name: fmt.Sprint("p", i)}, Reason: "bad"})
		}
	})
	stdout, _, _ := command(t, "status")
	if n := strings.Count(stdout, "Set aside   Pod"); n != 20 || !strings.Contains(stdout, "and 10 more objects are set aside (-o wide names all)") {
		t.Errorf("%d objects are named in:\n%s", n, stdout)
	}
	if wide, _, _ := command(t, "status", "-o", "wide"); strings.Count(wide, "Set aside   Pod") != 30 {
		t.Errorf("-o wide doesn't name all 30:\n%s", wide)
	}
}

func TestStatusWithoutAWatcherSaysSo(t *testing.T) {
	s := newStage(t)
	s.watch(nil)
	stdout, _, code := command(t, "status")
	if want := "Watcher     no watcher answers on the bus: is one running, and does it lead?"; code != exitNotHealthy || !strings.Contains(stdout, want) {
		t.Errorf("exit %d, %q is missing in:\n%s", code, want, stdout)
	}
}

func TestDumpNamesWhatRowsNumber(t *testing.T) {
	newStage(t)
	stdout, stderr, code := command(t, "dump", "--node", "a", "--table", "backends", "-o", "json")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"node": "a", "source": "actual", "positions": []any{}, "backends": []any{map[string]any{
		"id": 7.0, "address": "10.244.1.3", "port": 8080.0, "state": "active", "pod": "shop/cart-0", "set": 1.0, "service": "shop/cart:80", "weight": 1.0,
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if desired, _, _ := command(t, "dump", "--node", "a", "--desired"); !strings.Contains(desired, "10.96.0.10:80/TCP  ClusterIP  1    shop/cart:80") {
		t.Errorf("desired rows:\n%s", desired)
	}
}

func TestDumpOfANodeThatCannotAnswer(t *testing.T) {
	newStage(t)
	for node, says := range map[string]string{
		"b": "the programmer of node b refuses: not ready",
		"z": "the programmer of node z doesn't answer on the bus: does it run, and is the name right?",
	} {
		if _, stderr, code := command(t, "dump", "--node", node); code != exitError || !strings.Contains(stderr, says) {
			t.Errorf("exit %d, %q doesn't say %q", code, stderr, says)
		}
	}
}

func TestApprove(t *testing.T) {
	newStage(t)
	if stdout, stderr, code := command(t, "approve", "6f1c"); code != exitOK || stdout != "approved: 12 objects are deleted\n" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	if stdout, stderr, code := command(t, "approve"); code != exitOK || stdout != "nothing of that ID is held\n" {
		t.Errorf("without an ID it says what is held: exit %d: %s%s", code, stdout, stderr)
	}
	if _, stderr, code := command(t, "approve", "other"); code != exitError || !strings.Contains(stderr, "not approved: nothing of that ID is held") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestAuditTellsTheCommitItsCauseAndWhoHasIt(t *testing.T) {
	newStage(t).log(t)
	stdout, stderr, code := command(t, "audit", "tail", "--since", "all", "--follow=false", "-o", "json")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var got []string
	for line := range strings.Lines(stdout) {
		var o struct {
			Type, Node, Text string
			Revision         int
			Causes           []struct{ Name string }
			AfterMillis      float64
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		text := o.Type + " " + o.Node + o.Text
		if len(o.Causes) > 0 {
			text += o.Causes[0].Name
		}
		got = append(got, text)
	}
	if diff := cmp.Diff([]string{"commit cart-x", "applied a", "live ", "event abackend 7 was edited"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, stdout)
	}
	people, _, _ := command(t, "audit", "tail", "--since", "3", "--follow=false")
	for _, want := range []string{
		"rev 4  EndpointSlice shop/cart-x changed by argocd\n", "cluster  +1 backend +1 member\n",
		"in the kernel after 11 ms  3 map writes, 393 bytes\n", "live on every node it is for (1), 7 ms after the commit, on a last\n",
		"programmer a drift: backend 7 was edited\n",
	} {
		if !strings.Contains(people, want) {
			t.Errorf("%q is missing in:\n%s", want, people)
		}
	}
	if later, _, _ := command(t, "audit", "tail", "--since", "4", "--follow=false"); strings.Contains(later, "rev 4") {
		t.Errorf("revision 4 isn't after revision 4:\n%s", later)
	}
}

// Fault 13: a node reports, and tells events, in the name of others.
func TestAuditShowsNobodySpeakingForAnother(t *testing.T) {
	s := newStage(t)
	for subject, m := range map[string]proto.Message{
		schemas.AppliedSubject("a"):             &schemas.Applied{Node: "b", Deltas: []*schemas.AppliedDelta{{Layer: "cluster", Revision: 4, Writes: 3}}},
		schemas.EventSubject("programmer", "a"): &schemas.Event{Service: "compiler", Kind: "resumed", Text: "all is well"},
		schemas.EventSubject("programmer", "c"): &schemas.Event{Service: "programmer", Node: "c", Kind: "drift", Text: "here\x1b[2J"},
	} {
		if err := s.conn.Publish(subject, encoded(t, m)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := command(t, "audit", "tail", "--since", "all", "--follow=false")
	if code != exitOK || strings.Contains(out, "all is well") || strings.Contains(out, "in the kernel") || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d, %s\n%s", code, stderr, out)
	}
	for _, want := range []string{`of APPLIED is from "a" and speaks for "b"`, `of EVENTS is from "programmer a" and speaks for "compiler"`, "programmer c drift: here?[2J"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

// Promise P5: a node that is behind is named with why and since when, one that is lost apart, and who leads is told.
func TestStatusTellsHowNodesAndReplicasStand(t *testing.T) {
	s := newStage(t)
	s.change(func(status *schemas.Status) {
		status.NodesTotal, status.NodesConverged, status.NodesUpdating, status.NodesLost = 5000, 4000, 997, 1
		status.Nodes = append(status.Nodes,
			&schemas.NodeStatus{Node: "x", Behind: 3, Reason: "bus reconnecting", LackingSince: timestamppb.New(time.Now().Add(-time.Minute)), Applied: &schemas.Applied{Sent: timestamppb.Now()}},
			&schemas.NodeStatus{Node: "y", Lost: true, Reason: "its Lease has expired"}, &schemas.NodeStatus{Node: "z", Updating: true})
	})
	pulses := make(chan struct{})
	go func() {
		defer close(pulses)
		for t.Context().Err() == nil {
			for _, p := range []*schemas.Pulse{
				{Service: "compiler", Name: "one", Epoch: 3, Able: true, Revision: 4, Digest: []byte("same")},
				{Service: "compiler", Name: "two", Able: true, Revision: 4, Digest: []byte("other")},
			} {
				_ = s.conn.Publish(schemas.PulseSubject("compiler"), encoded(t, p))
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-t.Context().Done():
			}
		}
	}()
	t.Cleanup(func() { <-pulses })
	stdout, _, code := command(t, "status")
	if code != exitNotHealthy {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{
		"Converged   4,000 / 4,999 nodes, 997 updating", "Behind      x  rev 812,341 (-3)  for 60.", "and 1 more behind",
		"Lost        y  its Lease has expired", "Replicas    compiler one leads in epoch 3, compiler two stands by, with other rows",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in:\n%s", want, stdout)
		}
	}
}

func TestExplainLiveReadsTheNodesOwnRows(t *testing.T) {
	newStage(t)
	stdout, stderr, code := command(t, "explain", "--live", "--from", "shop/front", "--to", "shop/cart:80")
	if code != exitOK || !strings.Contains(stdout, "its one backend takes it: 10.244.1.3:8080 (pod shop/cart-0 on a)") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestNobodyAnswers(t *testing.T) {
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	_, stderr, code := command(t, "status", "--bus", server.URL())
	if code != exitError || !strings.Contains(stderr, "no compiler answers on the bus: is one running, and does it lead?") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
