// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

func TestMain(m *testing.M) { testkit.VerifyLeaks(m) }

// within bounds the waiting for anything in these tests.
const within = 20 * time.Second

// eventually waits until check returns nil.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for deadline := time.Now().Add(within); time.Now().Before(deadline); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("after %v still: %v", within, err)
}

// testBus is a NATS server and what a test sees of it.
type testBus struct {
	t      *testing.T
	server *embedded.Server
	conn   *bus.Conn
}

func startBus(t *testing.T) *testBus {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	return connect(t, server)
}

func connect(t *testing.T, server *embedded.Server) *testBus {
	t.Helper()
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return &testBus{t, server, conn}
}

// state reads STATE: facts by name, "gone" for tombstones, else what tells versions apart; and its newest sequence.
func (b *testBus) state() (map[string]string, uint64) {
	b.t.Helper()
	out, last := map[string]string{}, uint64(0)
	err := b.conn.Read(b.t.Context(), bus.ReadOptions{Stream: "STATE", Subjects: []string{schemas.SubjectAllState}}, func(r bus.Record) error {
		var fact schemas.Fact
		if err := proto.Unmarshal(r.Data, &fact); err != nil {
			return err
		}
		last = r.Sequence
		switch key := core.KeyOf(fact.GetObject()).String(); {
		case fact.State == nil:
			out[key] = "gone"
		case fact.GetService() != nil:
			out[key] = fmt.Sprint(fact.GetService().GetPorts()[0].GetPort())
		default:
			out[key] = "there"
		}
		return nil
	})
	if err != nil {
		out["error"] = err.Error()
	}
	return out, last
}

func (b *testBus) expect(want map[string]string) (last uint64) {
	b.t.Helper()
	eventually(b.t, func() error {
		var got map[string]string
		if got, last = b.state(); !maps.Equal(got, want) {
			return fmt.Errorf("STATE (-want +got):\n%s", cmp.Diff(want, got))
		}
		return nil
	})
	return last
}

// approve asks the watcher to let deletions go ahead; without an id it only asks how it stands.
func (b *testBus) approve(id string) *schemas.ApproveReply {
	b.t.Helper()
	request, err := proto.Marshal(&schemas.ApproveRequest{Id: id})
	if err != nil {
		b.t.Fatal(err)
	}
	var reply schemas.ApproveReply
	eventually(b.t, func() error {
		answer, err := b.conn.Request(b.t.Context(), schemas.SubjectApprove, request)
		if err != nil {
			return err
		}
		return proto.Unmarshal(answer, &reply)
	})
	return &reply
}

// watcher is one that runs.
type watcher struct {
	*service
	stop func()
	done chan error
	log  *testkit.Log
}

// started counts watchers: each has a name of its own.
var started atomic.Int32

func start(t testing.TB, url string, choose func(*service)) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log := &testkit.Log{}
	s := &settings{maxDeleteShare: core.DefaultMaxDeleteShare, replicas: 1}
	s.Bus = url
	name := fmt.Sprint("test-", started.Add(1))
	w := &watcher{service: newService(s, name, slog.New(slog.NewTextHandler(log, nil))), done: make(chan error, 1), log: log}
	w.lead.Every, w.lead.Silence, w.lead.Rest = 50*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond
	choose(w.service)
	go func() { w.done <- w.run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-w.done; err != nil && t.Context().Err() == nil {
			t.Errorf("watcher: %v", err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	t.Cleanup(w.stop)
	return w
}

func onFolder(path string) func(*service) {
	return func(w *service) { w.useDirectory([]string{path}) }
}

func (w *watcher) ready() error {
	for _, check := range w.checks() {
		if err := check.Run(context.Background()); err != nil {
			return fmt.Errorf("%s: %w", check.Name, err)
		}
	}
	return nil
}

// complete waits until the watcher leads and STATE is complete.
func (w *watcher) complete(t testing.TB) {
	t.Helper()
	eventually(t, func() error {
		if s, _ := w.stands(); !s.complete {
			return fmt.Errorf("not complete: %+v", s)
		}
		return nil
	})
}

// write replaces a file at once: who reads it sees all of one text.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func yamlOf(name string, port int) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {ports: [{port: %d}]}\n", name, port)
}

func yamlsOf(n int) string {
	var all strings.Builder
	for i := range n {
		all.WriteString(yamlOf(fmt.Sprintf("s%02d", i), 80))
	}
	return all.String()
}

func TestFactsOfAFolderAreInStateAndFollowIt(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80)+yamlOf("db", 5432))
	w := start(t, b.server.URL(), onFolder(path))
	b.expect(map[string]string{"Service shop/cart": "80", "Service shop/db": "5432", "Complete state": "there"})
	eventually(t, w.ready)

	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 81))
	b.expect(map[string]string{"Service shop/cart": "81", "Service shop/db": "gone", "Complete state": "there"})

	write(t, filepath.Join(path, "b.yaml"), yamlOf("db", 5433))
	b.expect(map[string]string{"Service shop/cart": "81", "Service shop/db": "5433", "Complete state": "there"})
}

func TestARestartWithNothingNewPublishesNothing(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlsOf(40))
	w := start(t, b.server.URL(), onFolder(path))
	w.complete(t)
	w.stop()
	_, before := b.state()

	again := start(t, b.server.URL(), onFolder(path))
	again.complete(t)
	if _, after := b.state(); after != before+2 {
		t.Errorf("the restart published up to sequence %d, was %d; want an epoch and that STATE is complete", after, before)
	}
}

func TestAPoisonObjectIsToldOfByEventAndAnswer(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	events := make(chan *schemas.Event, 16)
	sub, err := b.conn.Subscribe(schemas.SubjectAllEvents, func(m bus.Message) {
		var e schemas.Event
		if proto.Unmarshal(m.Data, &e) == nil {
			events <- &e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Stop)
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "a.yaml"), yamlOf("good", 80)+yamlOf("bad", 70000))
	start(t, b.server.URL(), onFolder(path))
	b.expect(map[string]string{"Service shop/good": "80", "Complete state": "there"})
	event := <-events
	if event.GetKind() != "object_set_aside" || event.GetObject().GetName() != "bad" || !strings.Contains(event.GetText(), "a.yaml: document 2: Service shop/bad: spec.ports[0].port: ") {
		t.Errorf("event: %v", event)
	}
	reply := b.approve("")
	if len(reply.GetSetAside()) != 1 || reply.GetSetAside()[0].GetObject().GetName() != "bad" || reply.GetText() != "no deletions are held: nothing waits for approval" {
		t.Errorf("answer: %v", reply)
	}
}

func TestTooManyDeletionsWaitForApproval(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlsOf(20))
	w := start(t, b.server.URL(), onFolder(path))
	w.complete(t)
	write(t, filepath.Join(path, "a.yaml"), yamlsOf(5)+yamlOf("new", 80))
	eventually(t, func() error {
		if state, _ := b.state(); state["Service shop/new"] != "80" || len(state) != 22 {
			return fmt.Errorf("STATE: %v", state)
		}
		return nil
	})
	var id string
	eventually(t, func() error {
		reply := b.approve("")
		if id = reply.GetHeld().GetId(); id == "" || reply.GetHeld().GetDeletions() != 15 {
			return fmt.Errorf("answer: %v", reply)
		}
		return nil
	})
	if err := w.ready(); err == nil || err.Error() != "deletions: 15 deletions wait for approval: deltaplane approve "+id {
		t.Errorf("ready: %v", err)
	}
	if reply := b.approve("ffffffff"); reply.GetApproved() || reply.GetHeld().GetId() != id {
		t.Errorf("a wrong id: %v", reply)
	}
	if reply := b.approve(id); !reply.GetApproved() || reply.GetHeld() != nil {
		t.Errorf("the right id: %v", reply)
	}
	state, _ := b.state()
	gone := slices.Collect(maps.Keys(state))
	gone = slices.DeleteFunc(gone, func(key string) bool { return state[key] != "gone" })
	if len(gone) != 15 {
		t.Errorf("gone: %v", gone)
	}
	eventually(t, w.ready)
}

func TestABusThatComesLateAndGoesIsWaitedFor(t *testing.T) {
	dir, path := t.TempDir(), t.TempDir()
	first, err := embedded.Start(embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, first.URL())
	first.Shutdown()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	w := start(t, first.URL(), onFolder(path))
	eventually(t, func() error {
		if !strings.Contains(w.log.String(), "the bus is away; trying again") {
			return fmt.Errorf("log: %s", w.log)
		}
		return nil
	})
	if err := w.ready(); err == nil || err.Error() != "bus: not connected yet to "+first.URL() {
		t.Errorf("ready: %v", err)
	}

	second, err := embedded.Start(embedded.Options{Dir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Shutdown)
	w.complete(t)
	second.Shutdown()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 81)) // while the bus is away

	third, err := embedded.Start(embedded.Options{Dir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(third.Shutdown)
	connect(t, third).expect(map[string]string{"Service shop/cart": "81", "Complete state": "there"})
	eventually(t, w.ready)
}

func portOf(t *testing.T, url string) (port int) {
	t.Helper()
	if _, err := fmt.Sscanf(url[strings.LastIndexByte(url, ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	return port
}

func TestALostStateIsMadeAnew(t *testing.T) {
	dir, path := t.TempDir(), t.TempDir()
	first, err := embedded.Start(embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	w := start(t, first.URL(), onFolder(path))
	w.complete(t)
	first.Shutdown()
	second, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Port: portOf(t, first.URL())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Shutdown)
	connect(t, second).expect(map[string]string{"Service shop/cart": "80", "Complete state": "there"})
}

// takeEpoch takes STATE's epoch as another watcher would.
func (b *testBus) takeEpoch() {
	b.t.Helper()
	if _, err := b.conn.TakeEpoch(b.t.Context(), "STATE", schemas.SubjectStateEpoch, "usurper"); err != nil {
		b.t.Fatal(err)
	}
}

// Fault 2: whoever leads no longer publishes nothing more, and stands by.
func TestADeposedWatcherStandsBy(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	w := start(t, b.server.URL(), onFolder(path))
	w.complete(t)
	b.takeEpoch()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 81))
	b.expect(map[string]string{"Service shop/cart": "81", "Complete state": "there"}) // nobody else leads after all
	if log := w.log.String(); !strings.Contains(log, "another has taken the epoch") || !strings.Contains(log, "epoch=3") {
		t.Errorf("log: %s", log)
	}
}

func TestAnIdleWatcherNoticesThatItIsDeposed(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	w := start(t, b.server.URL(), func(w *service) {
		onFolder(path)(w)
		w.lookEvery = 20 * time.Millisecond
	})
	w.complete(t)
	b.takeEpoch()
	eventually(t, func() error {
		if !strings.Contains(w.log.String(), "another has taken the epoch") {
			return fmt.Errorf("log: %s", w.log)
		}
		return nil
	})
}

func TestWhatIsNoFactOrRequestIsPassedOver(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	if err := b.conn.EnsureStreams(t.Context(), 1, schemas.StateFacts); err != nil {
		t.Fatal(err)
	}
	for _, garbage := range []string{"\xff\xff", ""} {
		if err := b.conn.Publish(schemas.StateSubject("Service", "shop", "x"+garbage), []byte(garbage)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	w := start(t, b.server.URL(), onFolder(path))
	w.complete(t)
	if !strings.Contains(w.log.String(), "STATE holds something that isn't what its subject says") {
		t.Errorf("log: %s", w.log)
	}
	answer, err := b.conn.Request(t.Context(), schemas.SubjectApprove, []byte("\xff"))
	if err != nil {
		t.Fatal(err)
	}
	var reply schemas.ApproveReply
	if err := proto.Unmarshal(answer, &reply); err != nil || reply.GetApproved() || !strings.HasPrefix(reply.GetText(), "this is no ApproveRequest: ") {
		t.Errorf("reply: %v, %v", &reply, err)
	}
}

// still is a source that is there, and has told all that it has.
type still struct{}

func (still) Away() error { return nil }

func (still) Look(context.Context, *schemas.ObjectRef) (core.Sighting, error) {
	return core.Sighting{}, nil
}

// flood emits changes of a few objects as fast as they are taken, and then waits.
type flood struct {
	changes, objects int
	still
}

func (f flood) Run(ctx context.Context, _ map[string]bool, emit func(core.Input)) error {
	emit(core.List{Kinds: []string{"Service"}})
	for i := range f.changes {
		emit(core.Upsert{Fact: &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: fmt.Sprint("s", i%f.objects)},
			State:  &schemas.Fact_Service{Service: &schemas.Service{Ports: []*schemas.ServicePort{{Port: uint32(i + 1)}}}},
		}})
	}
	<-ctx.Done()
	return nil
}

func TestAFloodOfChangesEndsInTheLast(t *testing.T) {
	b := startBus(t)
	begun := time.Now()
	start(t, b.server.URL(), func(w *service) {
		w.source, w.sourceName, w.kinds = flood{changes: 5_000, objects: 100}, "flood", []string{"Service"}
	})
	want := map[string]string{"Complete state": "there"}
	for i := range 100 {
		want[fmt.Sprint("Service shop/s", i)] = fmt.Sprint(4_900 + i + 1)
	}
	last := b.expect(want)
	t.Logf("5,000 changes took %v and %d messages", time.Since(begun), last)
}

func TestThousandsOfFactsAreAppendedInBatches(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	for i := range 25 {
		var text strings.Builder
		for j := range 100 {
			text.WriteString(yamlOf(fmt.Sprintf("s%d-%d", i, j), 80))
		}
		write(t, filepath.Join(path, fmt.Sprintf("f%d.yaml", i)), text.String())
	}
	w := start(t, b.server.URL(), onFolder(path))
	w.complete(t)
	if state, _ := b.state(); len(state) != 2501 {
		t.Errorf("%d facts, want 2501", len(state))
	}
}

func TestAFolderThatIsntThereYetIsWaitedFor(t *testing.T) {
	b, path := startBus(t), filepath.Join(t.TempDir(), "later")
	w := start(t, b.server.URL(), onFolder(path))
	eventually(t, func() error {
		if err := w.ready(); err == nil || !strings.HasPrefix(err.Error(), "state: the source has not listed everything yet: the folder can't be read: ") {
			return fmt.Errorf("ready: %w", err)
		}
		return nil
	})
	b.expect(map[string]string{})
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	b.expect(map[string]string{"Service shop/cart": "80", "Complete state": "there"})
	eventually(t, w.ready)
}

func TestSettingsThatCantBeAreRefused(t *testing.T) {
	for want, s := range map[string]settings{
		`--source "x": want kubernetes or directory`:                                   {source: "x"},
		"--source directory needs --directory: the folder to read":                     {source: "directory"},
		"--directory is for --source directory; with --source kubernetes leave it out": {source: "kubernetes", directories: []string{"a"}},
		"--max-delete-share 2: want a share from 0 to 1":                               {source: "kubernetes", maxDeleteShare: 2},
		"read the kubeconfig /nowhere: stat /nowhere: no such file or directory":       {source: "kubernetes", kubeconfig: "/nowhere"},
	} {
		s.LogFormat, s.LogLevel = "text", "info"
		if err := run(t.Context(), &s); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
