// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// hostile is a bus in other hands: a server without accounts, on which the test may say and write whatever it likes. The
// services have keys.
type hostile struct {
	t     *testing.T
	bin   string
	url   string
	keys  *trust.Folder
	yaml  string
	nodes []string // of the cluster
	conn  *bus.Conn
	mu    sync.Mutex
	own   map[string]bool       // what the test has said itself
	said  []bus.Message         // on apply subjects and the heartbeat's
	ever  map[model.Digest]bool // what the cluster layer was led to by the compiler
	led   map[place]bool        // the same, with where each layer was
	last  model.Position        // of the cluster layer
	event map[string]int        // by service and kind
}

// place is where a layer was.
type place struct {
	layer model.Layer
	at    model.Position
}

// newKeys makes a folder of keys, of which the services and node-a have some.
func newKeys(t *testing.T) *trust.Folder {
	t.Helper()
	keys, err := trust.Init(t.TempDir(), []string{"127.0.0.1"})
	if err == nil {
		err = keys.Node("node-a")
	}
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// meet connects the test to a bus on which services will run.
func meet(t *testing.T, keys *trust.Folder, o bus.Options) *hostile {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{
		t: t, bin: bin, url: o.URL, keys: keys, yaml: t.TempDir(), nodes: []string{"node-a"},
		ever: map[model.Digest]bool{{}: true}, led: map[place]bool{}, own: map[string]bool{}, event: map[string]int{},
	}
	if h.conn, err = bus.Connect(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.conn.Close)
	return h
}

func takeBus(t *testing.T) *hostile {
	t.Helper()
	keys := newKeys(t)
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	h := meet(t, keys, bus.Options{URL: server.URL(), Name: "whoever has the bus"})
	for subject, hear := range map[string]func(bus.Message){
		schemas.SubjectAllApply: h.hear, schemas.SubjectHeartbeat: h.hear, schemas.SubjectAllEvents: h.hearEvent,
	} {
		if _, err := h.conn.Subscribe(subject, hear); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *hostile) hear(m bus.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, bus.Message{Subject: m.Subject, Data: bytes.Clone(m.Data)})
	part, err := wire.DecodeDelta(m.Data)
	if err != nil || m.Subject == schemas.SubjectHeartbeat || h.own[string(m.Data)] {
		return
	}
	at := model.Position{Epoch: part.Epoch, Revision: part.To, Digest: part.DigestAfter}
	h.led[place{part.Layer, at}] = true
	if part.Layer == model.ClusterLayer {
		h.ever[part.DigestAfter], h.last = true, at
	}
}

func (h *hostile) hearEvent(m bus.Message) {
	var e schemas.Event
	if proto.Unmarshal(m.Data, &e) == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.event[e.GetService()+" "+e.GetKind()]++
	}
}

// heard returns what was said so far.
func (h *hostile) heard() []bus.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]bus.Message(nil), h.said...)
}

func (h *hostile) told(event string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.event[event] > 0
}

// service runs a program until stop or the test's end.
func (h *hostile) service(program string, args ...string) (stop func()) {
	h.t.Helper()
	return h.start(h.url, "", program, args...).stop
}

func (h *hostile) watcher() (stop func()) {
	return h.service("watcher", "--source", "directory", "--directory", h.yaml, "--signing-key", filepath.Join(h.keys.Path("watcher"), trust.FileSeal))
}

func (h *hostile) compiler() (stop func()) {
	folder := h.keys.Path("compiler")
	return h.service("compiler", "--signing-key", filepath.Join(folder, trust.FileSeal), "--trusted-keys", filepath.Join(folder, trust.FileSeals))
}

func (h *hostile) programmer() (stop func()) {
	return h.service("programmer", "--node", "node-a", "--maps", "memory", "--trusted-keys", filepath.Join(h.keys.NodePath("node-a"), trust.FileSeals))
}

// endpoints writes the cluster: one Service with so many endpoints.
func (h *hostile) endpoints(n int) {
	h.t.Helper()
	var text strings.Builder
	for _, node := range h.nodes {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Node\nmetadata: {name: %s}\n", node)
	}
	text.WriteString("---\napiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n" +
		"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n" +
		"metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}\naddressType: IPv4\nports: [{port: 8080}]\nendpoints:\n")
	for i := range n {
		fmt.Fprintf(&text, "- {addresses: [%s]}\n", net.IPv4(10, 244, 1, byte(i+1)))
	}
	path := filepath.Join(h.yaml, "all.yaml")
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		h.t.Fatal(err)
	}
}

// backends returns how many backends the node's maps hold; -1 if it doesn't say. What they hold must always be something
// that the compiler led to.
func (h *hostile) backends() int {
	h.t.Helper()
	n, positions, err := h.dump("node-a")
	if err != nil {
		return -1
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if at, said := positions[model.ClusterLayer]; said && !h.ever[at.Digest] {
		h.t.Errorf("the node holds %d backends with digest %s, to which no compiler has led it", n, at.Digest)
	}
	return n
}

// dump asks what a node holds.
func (h *hostile) dump(node string) (backends int, positions map[model.Layer]model.Position, err error) {
	err = h.conn.RequestMany(h.t.Context(), schemas.ActualSubject(node), nil, bus.AnswerWithin, func(data []byte) (more bool, err error) {
		var m schemas.DumpReply
		if err := proto.Unmarshal(data, &m); err != nil {
			return false, err
		}
		backends += len(m.GetRows().GetBackends())
		if len(m.GetPositions()) > 0 {
			positions, err = wire.PositionsFromProto(m.GetPositions())
		}
		return !m.GetLast(), err
	})
	return backends, positions, err
}

func (h *hostile) holds(backends int) {
	h.t.Helper()
	got := -1
	defer func() {
		if got != backends {
			h.t.Logf("the node holds %d backends, want %d", got, backends)
		}
	}()
	testkit.Eventually(h.t, 2*soon, func() bool {
		got = h.backends()
		return got == backends
	})
}

func (h *hostile) say(subject string, messages ...[]byte) {
	h.t.Helper()
	for _, m := range messages {
		h.mu.Lock()
		h.own[string(m)] = true
		h.mu.Unlock()
		if err := h.conn.Publish(subject, m); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := h.conn.Flush(); err != nil {
		h.t.Fatal(err)
	}
}

// Promise P7: whoever has the bus can say, change, repeat and forge what it likes: no node holds anything that its
// compiler hasn't led it to, and what comes after is applied.
// Fault 13: deltas, heartbeats, facts and records of the log that are forged, turned, repeated, of another kind.
func TestACompromisedBusChangesNothing(t *testing.T) {
	h := takeBus(t)
	h.endpoints(1)
	stopWatcher := h.watcher()
	stopCompiler := h.compiler()
	h.programmer()
	h.holds(1)
	for n := range 4 {
		h.endpoints(n + 2)
		h.holds(n + 2)
	}
	seen := h.heard()
	var newest []byte
	for _, m := range seen {
		if m.Subject == schemas.ApplySubject("cluster") {
			newest = m.Data
		}
		h.say(m.Subject, m.Data) // again
		for _, bit := range []int{3, len(m.Data) * 4, len(m.Data)*8 - 1} {
			turned := bytes.Clone(m.Data)
			turned[bit/8] ^= 1 << (bit % 8)
			h.say(m.Subject, turned)
		}
		for _, other := range []string{schemas.ApplySubject("cluster"), schemas.ApplySubject("node.node-a"), schemas.SubjectHeartbeat} {
			h.say(other, m.Data)
		}
	}
	forged := &schemas.Delta{}
	if err := proto.Unmarshal(newest, forged); err != nil {
		t.Fatal(err)
	}
	forged.From, forged.To, forged.Seal = forged.GetTo(), forged.GetTo()+1, nil
	h.say(schemas.ApplySubject("cluster"), encode(t, forged))
	h.say(schemas.DeltaSubject("cluster"), encode(t, forged)) // into the log itself
	h.say(schemas.SubjectHeartbeat, encode(t, &schemas.Heartbeat{Epoch: 1 << 20, Revision: 1, Positions: []*schemas.Position{
		wire.PositionToProto(model.ClusterLayer, model.Position{Epoch: 1 << 20, Revision: 1}),
	}}))
	testkit.Eventually(t, soon, func() bool { return h.told("programmer unsealed_message") })
	h.holds(5)

	// A fact that takes the Service away, in the place of the watcher's.
	h.say(schemas.StateSubject("Service", "shop", "cart"),
		encode(t, &schemas.Fact{Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "cart"}}))
	testkit.Eventually(t, soon, func() bool { return h.told("compiler unsealed_message") })
	h.endpoints(6)
	h.holds(6)

	// All begin anew, from streams in which forged messages stand: nothing is changed before the watcher has mended STATE.
	stopCompiler()
	stopWatcher()
	h.compiler()
	h.holds(6)
	h.watcher()
	h.endpoints(7)
	h.holds(7)
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
