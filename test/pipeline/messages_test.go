// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// tap hears what the services say.
type tap struct {
	t      *testing.T
	conn   *bus.Conn
	mu     sync.Mutex
	deltas [][]byte // of the cluster layer, as nodes hear them
	events []*schemas.Event
}

func (p *pipeline) tap() *tap {
	p.t.Helper()
	b := &tap{t: p.t, conn: p.connect()}
	_, err := b.conn.Subscribe(schemas.ApplySubject("cluster"), func(m bus.Message) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.deltas = append(b.deltas, bytes.Clone(m.Data))
	})
	if err == nil {
		_, err = b.conn.Subscribe(schemas.SubjectAllEvents, func(m bus.Message) {
			var e schemas.Event
			if proto.Unmarshal(m.Data, &e) == nil {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.events = append(b.events, &e)
			}
		})
	}
	if err == nil {
		err = b.conn.Flush()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (b *tap) heard() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.deltas)
}

// event waits until a service has said something of a kind with a text in it.
func (b *tap) event(service, kind, text string) {
	b.t.Helper()
	var all []string
	defer func() {
		if b.t.Failed() {
			b.t.Logf("no %s of the %s with %q; events:\n%s", kind, service, text, strings.Join(all, "\n"))
		}
	}()
	testkit.Eventually(b.t, patience, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		all = nil
		found := false
		for _, e := range b.events {
			all = append(all, e.GetService()+" "+e.GetKind()+": "+e.GetText())
			found = found || e.GetService() == service && e.GetKind() == kind && strings.Contains(e.GetText(), text)
		}
		return found
	})
}

func (b *tap) say(subject string, messages ...[]byte) {
	b.t.Helper()
	for _, m := range messages {
		if err := b.conn.Publish(subject, m); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.conn.Flush(); err != nil {
		b.t.Fatal(err)
	}
}

// answer is what a request is answered with.
func (b *tap) answer(subject string, request []byte, into proto.Message) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() bool {
		data, err := b.conn.Request(b.t.Context(), subject, request)
		return err == nil && proto.Unmarshal(data, into) == nil
	})
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// started is a pipeline of two nodes whose Service has grown endpoint by endpoint, so that there are deltas to replay.
func started(t *testing.T) (*pipeline, *tap) {
	t.Helper()
	p := begin(t)
	p.write("nodes.yaml", nodeYAML(dotted)+nodeYAML("node-2"))
	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10"))
	p.startBus()
	b := p.tap()
	p.startServices(dotted, "node-2")
	p.healthy(2)
	for n := range 4 {
		p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, n+1))
		p.holds("node-2", backendsOf("cart", 1, n+1)...)
	}
	p.holds(dotted, backendsOf("cart", 1, 4)...)
	return p, b
}

func garbage() [][]byte {
	return [][]byte{nil, {0xff}, []byte("hello"), []byte(`{"kind":"Service"}`), bytes.Repeat([]byte{0x0a}, 100_000)}
}

// holdBoth checks the rows of both nodes, and that a change still reaches them.
func (p *pipeline) holdBoth(endpoints int) {
	p.t.Helper()
	for _, node := range []string{dotted, "node-2"} {
		p.holds(node, backendsOf("cart", 1, endpoints)...)
	}
	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, endpoints+1))
	for _, node := range []string{dotted, "node-2"} {
		p.holds(node, backendsOf("cart", 1, endpoints+1)...)
	}
	p.healthy(2)
}

func TestForeignAndTruncatedMessagesAreToldOfAndChangeNothing(t *testing.T) {
	p, b := started(t)
	deltas := b.heard()
	last := deltas[len(deltas)-1]
	for cut := range last {
		b.say(schemas.ApplySubject("cluster"), last[:cut])
	}
	b.event("programmer", "foreign_message", "a message on deltaplane.v1.apply.cluster was set aside: not a message that deltaplane writes: ")
	b.say(schemas.ApplySubject("cluster"), garbage()...)
	b.say(schemas.ApplySubject(model.NodeLayer(dotted).String()), garbage()...)
	b.say(schemas.SubjectHeartbeat, garbage()...)
	b.say(schemas.AppliedSubject("node-2"), garbage()...)
	b.say(schemas.SyncSubject("node-2"), garbage()...)
	b.say(schemas.ActualSubject("node-2"), garbage()...)
	b.say(schemas.SubjectStatus, garbage()...)
	b.say(schemas.SubjectDesired, garbage()...)
	b.say(schemas.SubjectApprove, garbage()...)
	b.event("compiler", "foreign_message", "a report of a node was set aside, all else works: ")

	var sync schemas.SyncReply
	b.answer(schemas.SyncSubject("node-2"), []byte("hello"), &sync)
	if want := "not a message that deltaplane writes: decode 5 bytes as SyncRequest: "; !strings.HasPrefix(sync.GetRefused(), want) {
		t.Errorf("sync answered %v, want a refusal with %q", &sync, want)
	}
	var desired schemas.DumpReply
	b.answer(schemas.SubjectDesired, []byte("hello"), &desired)
	if want := "not a message that deltaplane writes: decode 5 bytes as DumpRequest: "; !strings.HasPrefix(desired.GetRefused(), want) {
		t.Errorf("desired answered %v, want a refusal with %q", &desired, want)
	}
	var approve schemas.ApproveReply
	b.answer(schemas.SubjectApprove, []byte("hello"), &approve)
	if want := "this is no ApproveRequest: "; approve.GetApproved() || !strings.HasPrefix(approve.GetText(), want) {
		t.Errorf("approve answered %v, want %q", &approve, want)
	}
	p.holdBoth(4)
}

// What a later release adds to a message is passed over, not refused: here a fact of a slice, from a newer watcher.
func TestUnknownFieldsArePassedOver(t *testing.T) {
	p, b := started(t)
	fact := &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-new"},
		State: &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{
			Service: "cart", Family: schemas.IPFamily_IP_FAMILY_IPV4,
			Ports:     []*schemas.EndpointPort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080}},
			Endpoints: []*schemas.SliceEndpoint{{Address: []byte{10, 244, 1, 5}, Ready: true}},
		}},
	}
	unknown := protowire.AppendString(protowire.AppendTag(marshal(t, fact), 4000, protowire.BytesType), "of a later release")
	b.say(schemas.StateSubject("EndpointSlice", "shop", "cart-new"), unknown)
	for _, node := range []string{dotted, "node-2"} {
		p.holds(node, backendsOf("cart", 1, 5)...)
	}
	p.healthy(2)
}

// Deltas that come again, in any order, or from a compiler that no longer leads, change nothing.
//
// Fault 1: what real services have said is said again, in other orders: no row changes.
func TestDeltasOutOfOrderChangeNothing(t *testing.T) {
	p, b := started(t)
	deltas := b.heard()
	if len(deltas) < 4 {
		t.Fatalf("%d deltas, want at least one an endpoint", len(deltas))
	}
	backwards := slices.Clone(deltas)
	slices.Reverse(backwards)
	for range 3 {
		b.say(schemas.ApplySubject("cluster"), backwards...)
		b.say(schemas.ApplySubject("cluster"), deltas...)
	}
	// A delta of another node's layer, and one of a revision far ahead that the node has nothing to put it on.
	b.say(schemas.ApplySubject(model.NodeLayer("node-2").String()), deltas...)
	var ahead schemas.Delta
	if err := proto.Unmarshal(deltas[len(deltas)-1], &ahead); err != nil {
		t.Fatal(err)
	}
	ahead.From, ahead.To = ahead.GetFrom()+1000, ahead.GetTo()+1000
	b.say(schemas.ApplySubject("cluster"), marshal(t, &ahead))
	p.holdBoth(4)
}

// A well-formed delta that leads to where numbers end would leave the node deaf to every compiler.
func TestADeltaFromTooFarAheadIsNotBelieved(t *testing.T) {
	p, b := started(t)
	deltas := b.heard()
	var far schemas.Delta
	if err := proto.Unmarshal(deltas[len(deltas)-1], &far); err != nil {
		t.Fatal(err)
	}
	far.Epoch, far.From, far.To, far.Put, far.Remove = 1<<60, far.GetTo(), far.GetTo()+1, nil, nil
	b.say(schemas.ApplySubject("cluster"), marshal(t, &far))
	b.event("programmer", "foreign_message", "is too far ahead to be believed")
	p.holdBoth(4)
}

// A message that lies about its epoch makes the leader stand down for a moment, and no more.
func TestAHeartbeatThatLiesIsOutlived(t *testing.T) {
	p, b := started(t)
	lie := &schemas.Heartbeat{Epoch: 1 << 40, Revision: 1 << 40}
	b.say(schemas.SubjectHeartbeat, marshal(t, lie))
	p.holdBoth(4)
}

// A node can report what it likes; the compiler doesn't follow it to where numbers end.
func TestAReportThatLiesIsOutlived(t *testing.T) {
	p, b := started(t)
	for _, far := range []uint64{1 << 31, 1 << 40, 1<<64 - 1} {
		lie := &schemas.Applied{Node: "node-2", Positions: []*schemas.Position{
			wire.PositionToProto(model.ClusterLayer, model.Position{Epoch: model.Epoch(far), Revision: model.Revision(far)}),
		}}
		b.say(schemas.AppliedSubject("node-2"), marshal(t, lie))
	}
	p.holdBoth(4)
}

// Foreign messages in the streams themselves are passed over: in STATE at once, in DELTA when it is read again.
func TestForeignMessagesInTheStreamsAreToldOf(t *testing.T) {
	p := begin(t)
	p.write("nodes.yaml", nodeYAML(dotted)+nodeYAML("node-2"))
	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10"))
	p.write("slice.yaml", sliceYAML("cart-1", "cart", 1, 4))
	p.startBus()
	b := p.tap()
	stop := p.service("watcher", "--source", "directory", "--directory", p.folder)
	stopCompiler := p.service("compiler")
	p.programmer(dotted)
	p.programmer("node-2")
	p.healthy(2)

	b.say(schemas.StateSubject("Service", "shop", "odd"), garbage()[2])
	b.event("compiler", "fact_unreadable", "of STATE is no fact, so its object is as it was: not a message that deltaplane writes: ")
	b.say(schemas.DeltaSubject("cluster"), garbage()...)
	b.say(schemas.SubjectCheckpoint, garbage()[2])
	b.say(schemas.SubjectEpoch, garbage()...)
	b.say(schemas.SubjectStateEpoch, garbage()...)
	p.holdBoth(4)
	stop()
	stopCompiler()
	p.service("compiler")
	p.service("watcher", "--source", "directory", "--directory", p.folder)
	p.holdBoth(5)
}
