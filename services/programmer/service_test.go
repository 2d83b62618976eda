// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/config"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	programmermaps "github.com/deltaplane/deltaplane/services/programmer/maps"
)

func TestMain(m *testing.M) { testkit.VerifyLeaks(m) }

// soon is how long anything may take here: the machine may be busy with other tests.
const soon = 20 * time.Second

var testTime = time.Unix(1, 0)

// compiler is the other end of the bus, played by the test: one layer's rows for every node.
type compiler struct {
	t      testing.TB
	conn   *bus.Conn
	mu     sync.Mutex
	rows   *model.Tables
	at     model.Position
	heard  []*schemas.Applied
	events []*schemas.Event
	asked  []wire.SyncRequest
}

func startBus(t testing.TB, port int) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	return server
}

func startCompiler(t testing.TB, busURL string) *compiler {
	t.Helper()
	conn, err := bus.Connect(t.Context(), bus.Options{URL: busURL, Name: "compiler"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	c := &compiler{t: t, conn: conn, rows: model.NewTables(), at: model.Position{Epoch: 1, Revision: 1}}
	_, err = conn.Respond(schemas.SubjectAllSyncs, "", c.sync)
	if err == nil {
		_, err = conn.Subscribe(schemas.SubjectAllApplied, func(m bus.Message) {
			var a schemas.Applied
			if wire.Unmarshal(m.Data, &a) == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.heard = append(c.heard, &a)
			}
		})
	}
	if err == nil {
		_, err = conn.Subscribe(schemas.SubjectAllEvents, func(m bus.Message) {
			var e schemas.Event
			if wire.Unmarshal(m.Data, &e) == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.events = append(c.events, &e)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *compiler) sync(_ context.Context, data []byte, reply func([]byte) error) {
	r, err := wire.DecodeSyncRequest(data)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r)
	var replies []*schemas.SyncReply
	for _, s := range []walk.Source{
		{Layer: model.ClusterLayer, Position: c.at, Tables: c.rows},
		{Layer: model.NodeLayer(r.Node), Position: model.Position{Epoch: 1, Revision: 1}, Tables: model.NewTables()},
	} {
		i := slices.IndexFunc(r.Walks, func(w model.Walk) bool { return w.Layer == s.Layer })
		if i < 0 && r.Positions[s.Layer] == s.Position {
			continue
		}
		rows := s.Tables.Rows()
		s.Tree = model.NewTree(&rows)
		message := s.Message(s.Rows(walk.Piece{}))
		if i < 0 || !r.Walks[i].All {
			ask := []model.Branch{model.Root}
			if i >= 0 {
				ask = r.Walks[i].Branches
			}
			message, _ = s.Branches(ask, schemas.MaxMessageBytes/2)
		}
		var m schemas.Branches
		if proto.Unmarshal(message, &m) != nil {
			return
		}
		replies = append(replies, &schemas.SyncReply{Content: &schemas.SyncReply_Branches{Branches: &m}})
	}
	replies = append(replies, &schemas.SyncReply{Last: true})
	for i, r := range replies {
		r.Sequence = uint32(i)
		data, err := proto.Marshal(r)
		if err != nil || reply(data) != nil {
			return
		}
	}
}

// commit makes the rows those of wanted and tells the nodes, if published.
func (c *compiler) commit(wanted *model.Tables, published bool) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	d := model.Delta{
		Epoch: 1, Layer: model.ClusterLayer, From: c.at.Revision, To: c.at.Revision + 1, Change: *model.Diff(c.rows, wanted),
		DigestAfter: wanted.Digest(), Committed: time.Now(),
		Causes: []model.Cause{{Kind: "EndpointSlice", Namespace: "shop", Name: "web", Trigger: time.Now()}},
	}
	c.rows, c.at = wanted, model.Position{Epoch: 1, Revision: d.To, Digest: d.DigestAfter}
	if !published {
		c.beat()
		return
	}
	messages, err := wire.EncodeDelta(d, schemas.MaxMessageBytes)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range messages {
		if err := c.conn.Publish(schemas.ApplySubject("cluster"), m); err != nil {
			c.t.Fatal(err)
		}
	}
}

// beat sends a heartbeat.
func (c *compiler) beat() {
	c.t.Helper()
	data, err := proto.Marshal(&schemas.Heartbeat{
		Epoch: 1, Revision: uint64(c.at.Revision), Positions: []*schemas.Position{wire.PositionToProto(model.ClusterLayer, c.at)},
	})
	if err == nil {
		err = c.conn.Publish(schemas.SubjectHeartbeat, data)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// converged waits until the node reports the newest rows.
func (c *compiler) converged() *schemas.Applied {
	c.t.Helper()
	var last *schemas.Applied
	beaten := time.Now()
	testkit.Eventually(c.t, soon, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if time.Since(beaten) > time.Second {
			beaten = time.Now()
			c.beat()
		}
		if len(c.heard) == 0 {
			return false
		}
		last = c.heard[len(c.heard)-1]
		positions, err := wire.PositionsFromProto(last.GetPositions())
		return err == nil && positions[model.ClusterLayer] == c.at
	})
	return last
}

func (c *compiler) event(kind string) *schemas.Event {
	c.t.Helper()
	var found *schemas.Event
	testkit.Eventually(c.t, soon, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.IndexFunc(c.events, func(e *schemas.Event) bool { return e.GetKind() == kind })
		if i >= 0 {
			found = c.events[i]
		}
		return i >= 0
	})
	return found
}

// web is a Service with backends.
func web(backends int) *model.Tables {
	t := model.NewTables()
	s := model.BackendSet{ID: 1, Root: 1, SetKey: model.SetKey{
		Service: model.ServicePort{Namespace: "shop", Name: "web", Port: 80, Protocol: model.TCP}, Family: model.IPv4, Scope: model.ScopeAll,
	}}
	t.Sets[1] = s
	f := model.Frontend{FrontendKey: model.FrontendKey{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: model.TCP}, Set: 1, Kind: model.FrontendClusterIP}
	t.Frontends[f.FrontendKey] = f
	for i := range backends {
		b := model.Backend{ID: model.BackendID(i + 1), State: model.BackendActive, BackendKey: model.BackendKey{
			Set: 1, Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Port: 8080,
		}}
		t.Backends[b.ID] = b
		m := model.Member{Set: 1, Backend: b.ID}
		t.Members[m] = m
	}
	return t
}

// programmer is a running service.
type programmer struct {
	t     testing.TB
	plane dataplane
	log   *testkit.Log
	url   string // of metrics and health
	stop  func()
}

func startProgrammer(t testing.TB, busURL string, plane dataplane) *programmer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	p := &programmer{t: t, plane: plane, log: &testkit.Log{}, url: "http://" + addr}
	s := &settings{Common: config.Common{Bus: busURL, Listen: addr}, node: "node.a", maps: mapsMemory}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serveOn(ctx, s, slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})), plane)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the programmer's log:\n%s", p.log)
		}
	})
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the service ended with %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(p.stop)
	return p
}

func (p *programmer) get(path string) (status int, text string) {
	r, err := http.Get(p.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(b)
}

// says waits until path answers with text in it.
func (p *programmer) says(path, text string) {
	p.t.Helper()
	var got string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("%s says:\n%s", path, got)
		}
	}()
	testkit.Eventually(p.t, soon, func() bool {
		_, got = p.get(path)
		return strings.Contains(got, text)
	})
}

func memoryPlane() inMemory { return inMemory{programmermaps.NewMemory([abi.MapCount]uint32{})} }

func TestTheServiceAppliesReportsAndAnswers(t *testing.T) {
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	c.commit(web(3), false)
	p := startProgrammer(t, server.URL(), memoryPlane())
	c.converged()
	c.commit(web(4), true)
	a := c.converged()
	if a.GetNode() != "node.a" || a.GetMapsKind() != "memory" || len(a.GetFaults()) != 0 {
		t.Errorf("reported %v", a)
	}
	i := slices.IndexFunc(a.GetDeltas(), func(d *schemas.AppliedDelta) bool { return d.GetRevision() == 3 })
	if i < 0 || a.GetDeltas()[i].GetWrites() != 3 || a.GetDeltas()[i].GetLatency().AsDuration() <= 0 || a.GetDeltas()[i].GetBytes() == 0 {
		t.Errorf("deltas %v, want one to revision 3 of 3 writes", a.GetDeltas())
	}
	if use := a.GetMaps()[abi.Backends]; use.GetName() != "backends_v3" || use.GetEntries() != 4 || use.GetCapacity() == 0 {
		t.Errorf("maps %v", a.GetMaps())
	}
	p.says("/readyz?verbose", "[+]tables ok\n[+]bus ok\n[+]sync ok")
	p.says("/metrics", "deltaplane_programmer_map_entries{map=\"backends_v3\"} 4\n")
	p.says("/metrics", "deltaplane_programmer_event_to_kernel_seconds_count 1\n")
	p.says("/metrics", "deltaplane_programmer_event_to_kernel_seconds_bucket{le=\"0.001\"}")
	dumped(t, c)
}

// dumped asks for the rows in the maps and compares.
func dumped(t *testing.T, c *compiler) {
	t.Helper()
	request, err := proto.Marshal(&schemas.DumpRequest{Node: "node.a"})
	if err != nil {
		t.Fatal(err)
	}
	rows := model.NewTables()
	var positions map[model.Layer]model.Position
	sequence := uint32(0)
	err = c.conn.RequestMany(t.Context(), schemas.ActualSubject("node.a"), request, bus.AnswerWithin, func(data []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(data, &reply); err != nil {
			return false, err
		}
		if reply.GetSequence() != sequence || reply.GetRefused() != "" {
			t.Errorf("got message %d of the dump where %d was due (%s)", reply.GetSequence(), sequence, reply.GetRefused())
		}
		if sequence++; sequence == 1 {
			var err error
			if positions, err = wire.PositionsFromProto(reply.GetPositions()); err != nil {
				return false, err
			}
		}
		part, err := wire.RowsFromProto(reply.GetRows())
		rows.Apply(&model.Change{Put: part}, model.Digest{})
		return !reply.GetLast(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.rows, rows, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	if positions[model.ClusterLayer] != c.at {
		t.Errorf("at %v, want %v", positions, c.at)
	}
}

func TestALargeTableIsDumpedInParts(t *testing.T) {
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	c.commit(web(40_000), false)
	startProgrammer(t, server.URL(), memoryPlane())
	c.converged()
	dumped(t, c)
}

func TestTheBusMayBeAwayAtTheStartAndLater(t *testing.T) {
	first := startBus(t, -1)
	u, err := url.Parse(first.URL())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	first.Shutdown()

	p := startProgrammer(t, first.URL(), memoryPlane())
	p.says("/readyz?verbose", "[-]bus failed: the bus was not reached yet")
	p.says("/livez", "ok")
	if !strings.Contains(p.log.String(), "the bus is away; trying again") {
		t.Errorf("the log doesn't say so:\n%s", p.log)
	}

	second := startBus(t, port)
	c := startCompiler(t, second.URL())
	c.commit(web(2), false)
	c.converged()
	p.says("/readyz?verbose", "[+]bus ok")

	c.conn.Close()
	second.Shutdown()
	p.says("/readyz?verbose", "[-]bus failed: not connected to the bus")
	third := startBus(t, port)
	c = startCompiler(t, third.URL())
	c.at.Revision = 7
	c.commit(web(5), false)
	c.converged()
	dumped(t, c)
}

func TestForeignMessagesAreSetAsideAndTheRestGoesOn(t *testing.T) {
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	p := startProgrammer(t, server.URL(), memoryPlane())
	c.converged()
	for _, garbage := range [][]byte{nil, {0xff}, []byte("hello"), bytes.Repeat([]byte{0x0a}, 100_000)} {
		for _, subject := range []string{schemas.ApplySubject("cluster"), schemas.ApplySubject("node.node.a"), schemas.SubjectHeartbeat} {
			if err := c.conn.Publish(subject, garbage); err != nil {
				t.Fatal(err)
			}
		}
	}
	if e := c.event("foreign_message"); !strings.Contains(e.GetText(), "was set aside: ") || e.GetNode() != "node.a" {
		t.Errorf("event %v", e)
	}
	c.commit(web(2), true)
	c.converged()
	p.says("/metrics", "deltaplane_programmer_foreign_messages_total 12\n")
}

// Fault 10: it is told on the bus, so that an audit has it.
func TestDriftIsNamedOnTheBusAndRepaired(t *testing.T) {
	server := startBus(t, -1)
	c := startCompiler(t, server.URL())
	c.commit(web(3), false)
	plane := memoryPlane()
	startProgrammer(t, server.URL(), plane)
	c.converged()
	if err := plane.Write([]programmermaps.Write{{Map: abi.Backends, Key: abi.Encode(uint32(2))}}); err != nil {
		t.Fatal(err)
	}
	want := "backends_v3 has 2 entries where there should be 3; missing or changed: backend 2 (10.1.0.1 port 8080); repaired"
	if e := c.event("drift"); e.GetText() != want {
		t.Errorf("got %s\nwant %s", e.GetText(), want)
	}
	dumped(t, c)
}

func TestSettingsThatCannotBeAreRefusedByName(t *testing.T) {
	s := settings{node: "a", maps: "paper"}
	if err := s.check(); err == nil || err.Error() != `--maps "paper": want kernel or memory` {
		t.Errorf("got %v", err)
	}
}
