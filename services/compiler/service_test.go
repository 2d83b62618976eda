// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/config"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func TestMain(m *testing.M) {
	if os.Getenv(asCompiler) != "" {
		main()
	}
	testkit.VerifyLeaks(m)
}

const patience = 20 * time.Second

// cluster is a bus with a watcher and a node, both played by the test.
type cluster struct {
	t      *testing.T
	conn   *bus.Conn
	server *embedded.Server
	dir    string
	url    string
	watch  *bus.Fence

	mu     sync.Mutex
	deltas []model.Delta // as nodes heard them
	events []*schemas.Event
	parts  wire.Assembler
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	c.serve(-1)
	conn, err := bus.Connect(t.Context(), bus.Options{URL: c.url, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	c.conn = conn
	t.Cleanup(func() { conn.Close(); c.server.Shutdown() })
	for subject, handle := range map[string]func(bus.Message){schemas.SubjectAllApply: c.hearDelta, schemas.SubjectAllEvents: c.hearEvent} {
		if _, err := conn.Subscribe(subject, handle); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// serve starts the bus, on the port it had before if port isn't -1.
func (c *cluster) serve(port int) {
	c.t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: c.dir, Host: "127.0.0.1", Port: port})
	if err != nil {
		c.t.Fatal(err)
	}
	c.server, c.url = server, server.URL()
}

// makeStreams lets the test play the watcher.
func (c *cluster) makeStreams() {
	c.t.Helper()
	if err := c.conn.EnsureStreams(c.t.Context(), 1, schemas.Streams...); err != nil {
		c.t.Fatal(err)
	}
	fence, err := c.conn.TakeEpoch(c.t.Context(), schemas.StateFacts.Name, schemas.SubjectStateEpoch, "test")
	if err != nil {
		c.t.Fatal(err)
	}
	c.watch = fence
}

func (c *cluster) tell(facts ...*schemas.Fact) {
	c.t.Helper()
	var records []bus.Record
	for _, f := range facts {
		o := f.GetObject()
		records = append(records, bus.Record{
			Subject: schemas.StateSubject(o.GetKind(), o.GetNamespace(), o.GetName()), Data: encode(f),
		})
	}
	if _, err := c.watch.Append(c.t.Context(), records); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) hearDelta(m bus.Message) {
	part, err := wire.DecodeDelta(m.Data)
	if err != nil {
		c.t.Errorf("message on %s: %v", m.Subject, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d, whole, err := c.parts.Add(part)
	if err != nil {
		c.t.Errorf("message on %s: %v", m.Subject, err)
	}
	if whole {
		c.deltas = append(c.deltas, d)
	}
}

func (c *cluster) hearEvent(m bus.Message) {
	var e schemas.Event
	if err := proto.Unmarshal(m.Data, &e); err != nil {
		c.t.Errorf("message on %s: %v", m.Subject, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, &e)
}

func (c *cluster) heard() []model.Delta {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.deltas)
}

func (c *cluster) event(kind string) *schemas.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.GetKind() == kind {
			return e
		}
	}
	return nil
}

// waitDeltas waits until nodes have heard n deltas.
func (c *cluster) waitDeltas(n int) []model.Delta {
	c.t.Helper()
	testkit.Eventually(c.t, patience, func() bool { return len(c.heard()) >= n })
	return c.heard()
}

// logged counts the messages of DELTA that are no epochs or checkpoints.
func (c *cluster) logged() (n int) {
	c.t.Helper()
	err := c.conn.Read(c.t.Context(), bus.ReadOptions{Stream: schemas.Deltas.Name}, func(r bus.Record) error {
		if r.Subject != schemas.SubjectEpoch && r.Subject != schemas.SubjectCheckpoint {
			n++
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// checkpointed says whether DELTA has a checkpoint.
func (c *cluster) checkpointed() (is bool) {
	c.t.Helper()
	err := c.conn.Read(c.t.Context(), bus.ReadOptions{Stream: schemas.Deltas.Name, Subjects: []string{schemas.SubjectCheckpoint}},
		func(bus.Record) error { is = true; return nil })
	if err != nil {
		c.t.Fatal(err)
	}
	return is
}

// start runs a compiler until stop or the test's end.
func (c *cluster) start(name string, change ...func(*service)) (s *service, stop func()) {
	c.t.Helper()
	log := slog.New(slog.NewTextHandler(c.t.Output(), nil)).With("compiler", name)
	s = newService(&settings{Common: config.Common{Bus: c.url}, replicas: 1}, name, log)
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("compiler %s: %v", name, err)
		}
	})
	c.t.Cleanup(stop)
	return s, stop
}

// ready returns what /readyz says of a compiler.
func ready(s *service) error {
	for _, check := range s.checks() {
		if err := check.Run(context.Background()); err != nil {
			return fmt.Errorf("%s: %w", check.Name, err)
		}
	}
	return nil
}

func waitReady(t *testing.T, s *service) {
	t.Helper()
	testkit.Eventually(t, patience, func() bool { return leads(s) && ready(s) == nil })
}

func leads(s *service) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch != 0 && s.phase == "" && s.replica.Sure()
}

func webFacts(endpoints int) []*schemas.Fact {
	slice := &schemas.EndpointSlice{Service: "web", Family: 4, Ports: []*schemas.EndpointPort{{Protocol: 6, Port: 8080}}}
	for i := range endpoints {
		slice.Endpoints = append(slice.Endpoints, &schemas.SliceEndpoint{Address: []byte{10, 1, 0, byte(i + 1)}, Ready: true})
	}
	object := func(kind, name string) *schemas.ObjectRef {
		return &schemas.ObjectRef{Kind: kind, Namespace: "shop", Name: name}
	}
	return []*schemas.Fact{
		{Object: object("Service", "web"), State: &schemas.Fact_Service{Service: &schemas.Service{
			ClusterIps: [][]byte{{10, 96, 0, 1}}, Ports: []*schemas.ServicePort{{Protocol: 6, Port: 80}},
		}}},
		{Object: object("EndpointSlice", "web-1"), State: &schemas.Fact_EndpointSlice{EndpointSlice: slice}},
		{Object: object("Pod", "a"), State: &schemas.Fact_Pod{Pod: &schemas.Pod{Node: "node.with.dots", Addresses: [][]byte{{10, 1, 0, 1}}}}},
	}
}

func complete() *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Complete", Name: "test"}, State: &schemas.Fact_Complete{Complete: &schemas.Complete{}},
	}
}

func TestFromFactsToDeltasAndBackAgainAfterARestart(t *testing.T) {
	c := newCluster(t)
	first, stop := c.start("first")
	testkit.Eventually(t, patience, func() bool {
		err := ready(first)
		return err != nil && strings.Contains(err.Error(), "for the watcher to announce that its list in STATE is complete")
	})
	c.makeStreams()
	c.tell(webFacts(3)...)
	c.tell(complete())
	deltas := c.waitDeltas(2)
	waitReady(t, first)
	if deltas[0].Layer != model.NodeLayer("node.with.dots") || deltas[1].Layer != model.ClusterLayer {
		t.Errorf("deltas of layers %s and %s, want node.node.with.dots, whose endpoints come first, and cluster", deltas[0].Layer, deltas[1].Layer)
	}
	if n := len(deltas[1].Change.Put.Members); n != 3 {
		t.Errorf("%d members, want 3", n)
	}
	c.tell(webFacts(4)[1])
	c.waitDeltas(3)
	logged := c.logged()
	stop()

	second, _ := c.start("second")
	waitReady(t, second)
	if n := c.logged(); n != logged || len(c.heard()) != 3 {
		t.Errorf("after a restart %d new deltas in the log, %d heard; want none", n-logged, len(c.heard())-3)
	}
	c.tell(webFacts(3)[1])
	d := c.waitDeltas(4)[3]
	if d.From != 2 || d.To != 3 || d.Epoch != 2 || len(d.Change.Remove.Backends) != 1 || len(d.Change.Put.Backends) != 0 {
		t.Errorf("the next delta goes from %d to %d in epoch %d and removes %d backends; want 2 to 3, epoch 2, one",
			d.From, d.To, d.Epoch, len(d.Change.Remove.Backends))
	}
}

func TestStandbyTakesOverAndChangesNothing(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	first, stop := c.start("first")
	waitReady(t, first)
	second, _ := c.start("second")
	testkit.Eventually(t, patience, func() bool { return ready(second) == nil })
	if leads(second) {
		t.Fatal("two compilers lead")
	}
	logged := c.logged()
	stop()
	waitReady(t, second)
	if n := c.logged(); n != logged {
		t.Errorf("the change of leaders made %d deltas, want none", n-logged)
	}
}

// A standby that has read the same messages of the streams as the leader is in step with it, also when more came.
func TestStandbyComesIntoStep(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	first, _ := c.start("first")
	waitReady(t, first)
	c.tell(webFacts(2)...)
	second, _ := c.start("second")
	testkit.Eventually(t, patience, func() bool { return !leads(second) && testutil.ToFloat64(second.metrics.inStep) == 1 })
}

func TestDeposedCompilerWritesNothingMoreAndStandsBy(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	s, _ := c.start("first")
	waitReady(t, s)
	before := len(c.waitDeltas(2))
	rival, err := c.conn.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "rival")
	if err != nil {
		t.Fatal(err)
	}
	c.tell(webFacts(4)[1])
	testkit.Eventually(t, patience, func() bool { return !leads(s) })
	for _, d := range c.waitDeltas(before + 1)[before:] { // the rival is silent, so it leads again
		if uint64(d.Epoch) <= rival.Epoch() {
			t.Errorf("a delta of epoch %d was published, the rival took %d", d.Epoch, rival.Epoch())
		}
	}
}

func TestBusThatIsAwayIsSurvived(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(c.url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	c.server.Shutdown()
	s, _ := c.start("early")
	if err := ready(s); err == nil || !strings.Contains(err.Error(), "not connected yet to nats://") {
		t.Errorf("without a bus readyz says %v", err)
	}
	c.serve(number)
	waitReady(t, s)
	logged := c.logged()

	c.server.Shutdown()
	testkit.Eventually(t, patience, func() bool { return ready(s) != nil })
	c.serve(number)
	waitReady(t, s)
	if n := c.logged(); n != logged {
		t.Errorf("after the bus was away there are %d new deltas, want none", n-logged)
	}
}

func TestForeignMessagesInStateAreSetAside(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	foreign := bus.Record{Subject: schemas.StateSubject("Service", "shop", "odd"), Data: []byte("\xff\xff hello")}
	if _, err := c.watch.Append(t.Context(), []bus.Record{foreign}); err != nil {
		t.Fatal(err)
	}
	bad := webFacts(1)[0]
	bad.Object.Name = "bad"
	bad.GetService().ClusterIps = [][]byte{{1, 2, 3}}
	c.tell(append(webFacts(2), bad, complete())...)
	s, _ := c.start("first")
	waitReady(t, s)
	testkit.Eventually(t, patience, func() bool { return c.event("fact_unreadable") != nil && c.event("object_set_aside") != nil })
	want := "Service shop/bad is set aside, all else works: clusterIPs[0]: an address of 3 bytes: want 4 or 16"
	if got := c.event("object_set_aside").GetText(); got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	if n := len(c.waitDeltas(2)[1].Change.Put.Members); n != 2 {
		t.Errorf("%d members of the good service, want 2", n)
	}
}

func TestQuestionsAreAnsweredOnTheBus(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	s, _ := c.start("first")
	waitReady(t, s)

	data, err := c.conn.Request(t.Context(), schemas.SubjectStatus, encode(&schemas.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	var status schemas.Status
	if err := proto.Unmarshal(data, &status); err != nil || status.GetLeader() != "first" || status.GetRevision() != 1 {
		t.Errorf("status %v, error %v; want leader first, revision 1", &status, err)
	}

	var layers int
	err = c.conn.RequestMany(t.Context(), schemas.SyncSubject("node.with.dots"), encode(&schemas.SyncRequest{Node: "node.with.dots"}), bus.AnswerWithin,
		func(data []byte) (bool, error) {
			var reply schemas.SyncReply
			if err := proto.Unmarshal(data, &reply); err != nil {
				return false, err
			}
			if reply.GetBranches() != nil || reply.GetDelta() != nil {
				layers++
			}
			return !reply.GetLast(), nil
		})
	if err != nil || layers != 2 {
		t.Errorf("answers of %d layers, error %v; want two", layers, err)
	}

	rows := 0
	err = c.conn.RequestMany(t.Context(), schemas.SubjectDesired, encode(&schemas.DumpRequest{Node: "node.with.dots"}), bus.AnswerWithin,
		func(data []byte) (bool, error) {
			var reply schemas.DumpReply
			if err := proto.Unmarshal(data, &reply); err != nil {
				return false, err
			}
			part, err := wire.RowsFromProto(reply.GetRows())
			rows += part.Len()
			return !reply.GetLast(), err
		})
	if err != nil || rows != 2+1+3+3+1 {
		t.Errorf("%d rows, error %v; want two frontends, a set, 3 backends, 3 members, an endpoint", rows, err)
	}
}

func TestLogThatNodesAreAheadOfIsOvertaken(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	s, _ := c.start("first")
	waitReady(t, s)
	ahead := &schemas.Applied{Node: "n1", Positions: []*schemas.Position{
		wire.PositionToProto(model.ClusterLayer, model.Position{Epoch: 41, Revision: 900}),
	}}
	if err := c.conn.Publish(schemas.AppliedSubject("n1"), encode(ahead)); err != nil {
		t.Fatal(err)
	}
	before := len(c.waitDeltas(2))
	testkit.Eventually(t, patience, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.epoch > 41 && s.phase == ""
	})
	c.tell(webFacts(4)[1])
	if d := c.waitDeltas(before + 1)[before]; d.Epoch <= 41 || d.To <= 900 {
		t.Errorf("the next delta is revision %d of epoch %d, want more than 900 and 41", d.To, d.Epoch)
	}
}

func TestLogWithAGapIsToldAndCompiledAnew(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	rival, err := c.conn.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "rival")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := wire.EncodeDelta(model.Delta{Epoch: 1, Layer: model.ClusterLayer, From: 5, To: 6}, schemas.MaxMessageBytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rival.Append(t.Context(), []bus.Record{{Subject: schemas.DeltaSubject("cluster"), Data: parts[0]}}); err != nil {
		t.Fatal(err)
	}
	s, stop := c.start("first")
	testkit.Eventually(t, patience, func() bool { return c.event("log_lost") != nil })
	want := "the delta of layer cluster to revision 6 begins at 5, the log before it ends at 0"
	if got := c.event("log_lost").GetText(); !strings.Contains(got, want) {
		t.Errorf("event %q, want %q in it", got, want)
	}
	c.tell(append(webFacts(2), complete())...)
	waitReady(t, s)
	if d := c.waitDeltas(2)[0]; d.From != 0 || d.To != 7 {
		t.Errorf("the first delta goes from %d to %d, want 0 to 7", d.From, d.To)
	}
	testkit.Eventually(t, patience, c.checkpointed)
	logged := c.logged()
	stop()
	second, _ := c.start("second") // the log is whole again from its checkpoint on
	waitReady(t, second)
	if n := c.logged(); n != logged {
		t.Errorf("after a restart there are %d new deltas, want none", n-logged)
	}
}

func TestWhatALookFinds(t *testing.T) {
	for _, test := range []struct {
		name               string
		epochBefore, epoch uint64
		stateBefore, state uint64
		want               string
	}{
		{"nothing changed", 3, 3, 7, 7, ""},
		{"the watcher's epoch was written again", 3, 3, 7, 9, ""},
		{"another compiler leads", 3, 4, 7, 7, ""},
		{"DELTA was restored", 3, 2, 7, 7, "DELTA has gone back from epoch 3 to 2: it was removed or restored"},
		{"STATE was made anew", 3, 3, 7, 1, "STATE has gone back from message 7 to 1: it was removed or restored"},
	} {
		err := changed(test.epochBefore, test.epoch, test.stateBefore, test.state)
		if got := fmt.Sprint(err); got != test.want && (err != nil || test.want != "") {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestStatusKnowsNodesRightAfterAChangeOfLeaders(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	first, stop := c.start("first")
	waitReady(t, first)
	node := model.NodeLayer("node.with.dots")
	report := &schemas.Applied{Node: node.Name}
	for _, d := range c.waitDeltas(2) {
		report.Positions = append(report.Positions,
			wire.PositionToProto(d.Layer, model.Position{Epoch: d.Epoch, Revision: d.To, Digest: d.DigestAfter}))
	}
	if err := c.conn.Publish(schemas.AppliedSubject(node.Name), encode(report)); err != nil {
		t.Fatal(err)
	}
	stop()
	second, _ := c.start("second")
	waitReady(t, second)
	testkit.Eventually(t, patience, func() bool {
		data, err := c.conn.Request(t.Context(), schemas.SubjectStatus, encode(&schemas.StatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		var status schemas.Status
		if err := proto.Unmarshal(data, &status); err != nil {
			t.Fatal(err)
		}
		return len(status.GetNodes()) == 1 && status.GetNodes()[0].GetConverged()
	})
}

// In another's name a node would be given that one's rows, use up its turns, and have layers made of nodes that aren't.
//
// Fault 13: questions in another node's name.
func TestANodeAsksInItsOwnNameOnly(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	s, _ := c.start("first")
	waitReady(t, s)

	data, err := c.conn.Request(t.Context(), schemas.SyncSubject("node-b"), encode(&schemas.SyncRequest{Node: "node.with.dots"}))
	if err != nil {
		t.Fatal(err)
	}
	var reply schemas.SyncReply
	want := `node "node-b" asks in the name of "node.with.dots"`
	if err := proto.Unmarshal(data, &reply); err != nil || reply.GetRefused() != want || !reply.GetLast() || reply.GetBranches() != nil || reply.GetDelta() != nil {
		t.Errorf("%v, error %v; want it refused: %s", &reply, err, want)
	}
}

// An epoch that the bus writes into DELTA deposes the leader, which leads again in the next: nobody takes one that there
// can't have been for the newest.
//
// Fault 13: the bus writes epochs of its own.
func TestAForgedEpochDeposesOnce(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(2), complete())...)
	s, _ := c.start("one")
	waitReady(t, s)
	epoch := func() (n uint64) { s.set(func() { n = s.epoch }); return n }
	testkit.Eventually(t, patience, func() bool { return epoch() == 1 })
	for n, forged := range []uint64{1<<64 - 1, 1 << 60} {
		if err := c.conn.Publish(schemas.SubjectEpoch, encode(&schemas.Epoch{Epoch: forged, Holder: "two"})); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, patience, func() bool { return c.event("unsealed_message") != nil })
		c.tell(append(webFacts(3+n), complete())...)
		testkit.Eventually(t, patience, func() bool { return epoch() == uint64(n)+2 })
		c.waitDeltas(2 + n)
	}
}
